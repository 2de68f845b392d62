"""What the tests share: the real MNIST."""

import pytest

from mnist_jax.datasets import Split, load_dataset


@pytest.fixture(scope="session")
def mnist() -> dict[str, Split]:
    return {split: load_dataset("mnist", split) for split in ("train", "test")}
