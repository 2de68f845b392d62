"""A few seconds of everything: the reference network on 2,560 digits, for tests.

    mnist-jax train --config configs/smoke.py

Test accuracy 89 % on 512 digits (two-core CPU, 2026-11-22).
"""

from mnist_jax import Config
from mnist_jax.config import DataConfig


def get_config() -> Config:
    return Config(
        epochs=4,
        chunk_steps=8,
        data=DataConfig(train_split="train[:2560]", test_split="test[:512]"),
    )
