"""A residual network of three stages. Its first convolution halves the image, to be quick.

    mnist-jax train --config configs/resnet.py

Validation accuracy: see the table in docs/laboratory.md.
"""

from mnist_jax import Config
from mnist_jax.config import ModelConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            name="resnet", features=12, depth=3, stride=2, batch_norm=True, dropout_rate=0.0
        )
    )
