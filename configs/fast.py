"""The fast recipe: 99 % in two epochs.

    mnist-jax train --config configs/fast.py

Test accuracy: see the table in README.md. Two small convolutions, each with a max-pool, and large
steps: Adam forgets fast (b1, b2), and the rate goes up and back to nothing in one cycle, as in the
public record that `benchmarks/peers/fast_pytorch.py` follows. Filters, hidden units, batch size,
rate and epochs were chosen on the 5,000 validation images, among the candidates that train in a few
seconds. All other images train.
"""

from mnist_jax import Config
from mnist_jax.config import DataConfig, ModelConfig, OptimizerConfig


def get_config() -> Config:
    return Config(
        epochs=2,
        batch_size=192,
        chunk_steps=41,  # a seventh of an epoch: chunks of one size, one program to compile
        data=DataConfig(validation_fraction=1 / 12),
        model=ModelConfig(features=8, depth=2, kernel_size=5, hidden_size=128, dropout_rate=0.0),
        optimizer=OptimizerConfig(learning_rate=0.01, schedule="one_cycle", b1=0.7, b2=0.9),
    )
