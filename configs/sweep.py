"""Search around the fast recipe: learning rate, filters, hidden units, dropout, smoothing.

    mnist-jax sweep --config sweep --trials 30
    mnist-jax train --config runs/sweep-sweep/best.json

A trial trains for at most three epochs; those that fall behind stop earlier.
"""

from typing import Any

from mnist_jax import Config
from mnist_jax.config import DataConfig, ModelConfig, OptimizerConfig


def get_config() -> Config:
    return Config(
        epochs=3,
        batch_size=192,
        chunk_steps=41,  # as in configs/fast.py
        data=DataConfig(validation_fraction=1 / 12),
        model=ModelConfig(features=8, depth=2, kernel_size=5, hidden_size=128, dropout_rate=0.0),
        optimizer=OptimizerConfig(learning_rate=0.01, schedule="one_cycle", b1=0.7, b2=0.9),
    )


def get_search_space() -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        "optimizer.learning_rate": FloatDistribution(1e-3, 3e-2, log=True),
        "model.features": CategoricalDistribution([4, 8, 16]),
        "model.hidden_size": CategoricalDistribution([64, 128, 256]),
        "model.dropout_rate": FloatDistribution(0.0, 0.5),
        "label_smoothing": FloatDistribution(0.0, 0.1),
    }
