"""Two hidden layers and no convolution: what the pixels tell without their places.

    mnist-jax train --config configs/mlp.py

Validation accuracy: see the table in docs/laboratory.md.
"""

from mnist_jax import Config
from mnist_jax.config import ModelConfig


def get_config() -> Config:
    return Config(model=ModelConfig(name="mlp", depth=2, hidden_size=256))
