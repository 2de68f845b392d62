from pathlib import Path

import pytest
from imports import Arrays

from mnist_jax.datasets import Split


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def small(mnist: dict[str, Split]) -> Arrays:
    """The beginning of MNIST, with the usual names in .npz files."""
    (x, y), (x_test, y_test) = mnist["train"], mnist["test"]
    arrays = {"x_train": x[:120, ..., 0], "y_train": y[:120]}
    return arrays | {"x_test": x_test[:40, ..., 0], "y_test": y_test[:40]}
