"""A residual network of three stages, whose first convolution halves the image.

    mnist-jax train --config resnet

Test accuracy 98.8 % in 2 min, 4.7 times the reference recipe's (docs/laboratory.md). The stride and
only 12 filters limit the time.
"""

from mnist_jax import Config
from mnist_jax.config import ModelConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            name="resnet", features=12, depth=3, stride=2, batch_norm=True, dropout_rate=0.0
        )
    )
