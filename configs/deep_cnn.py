"""Three convolutions in two stages, normalised over the batch.

    mnist-jax train --config configs/deep_cnn.py

Validation accuracy: see the table in docs/laboratory.md.
"""

from mnist_jax import Config
from mnist_jax.config import ModelConfig


def get_config() -> Config:
    return Config(model=ModelConfig(name="deep_cnn", features=16, depth=2, batch_norm=True))
