"""Three convolutions in two stages, normalised over the batch.

    mnist-jax train --config deep_cnn

Test accuracy 99.1 % in 85 s, 3.4 times the reference recipe's (docs/laboratory.md). 16 filters
instead of 32 limit the time.
"""

from mnist_jax import Config
from mnist_jax.config import ModelConfig


def get_config() -> Config:
    return Config(model=ModelConfig(name="deep_cnn", features=16, depth=2, batch_norm=True))
