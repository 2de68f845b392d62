"""Two hidden layers without convolution.

    mnist-jax train --config mlp

Test accuracy 98.0 % in 8 s, 0.3 times the reference recipe's (docs/laboratory.md). It has 269,322
parameters, the reference network 347,146.
"""

from mnist_jax import Config
from mnist_jax.config import ModelConfig


def get_config() -> Config:
    return Config(model=ModelConfig(name="mlp", depth=2, hidden_size=256))
