"""Photographs of handwriting: two convolutions, and rotated, sheared, bent digits.

    mnist-jax train --config handwriting

Test accuracy 99.5 % in 2 min on a two-core CPU, 2026-11-26. benchmarks/README.md reports the
accuracy on photographs, by `python tests/handwriting/photographs.py`.
"""

from mnist_jax import Config
from mnist_jax.config import AugmentConfig, ModelConfig, OptimizerConfig


def get_config() -> Config:
    return Config(
        epochs=14,
        ema_decay=0.998,
        model=ModelConfig(features=16, depth=2, kernel_size=5, hidden_size=128),
        optimizer=OptimizerConfig(
            name="muon", learning_rate=0.004, schedule="cosine", warmup=0.1, momentum=0.95
        ),
        augment=AugmentConfig(shift=1.0, rotation=20.0, scale=0.1, shear=10.0, elastic=0.5),
    )
