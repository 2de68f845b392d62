"""The reference recipe: the classic network, Adam, batch 128, 10 epochs.

    mnist-jax train --config configs/default.py

It is also what `mnist-jax train` does without a config. Test accuracy: see the table in README.md.
"""

from mnist_jax import Config


def get_config() -> Config:
    return Config()
