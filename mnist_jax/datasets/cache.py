"""Decoded arrays on disk: decoding MNIST's 60,000 records takes seconds, reading this does not.

They lie in $XDG_CACHE_HOME/mnist_jax or ~/.cache/mnist_jax, one file for each split that was used,
and may be deleted at any time.
"""

import hashlib
import os
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]


def load(prepared: Path, split: str) -> Arrays | None:
    """Returns the images and labels kept for a split of a prepared dataset, or None.

    None too where the dataset's files have changed since, or the cache is damaged: the zip format
    carries a CRC-32 of each array.
    """
    try:
        with np.load(_file(prepared, split)) as stored:
            if str(stored["source"]) != _source(prepared):
                return None
            return stored["images"], stored["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, RuntimeError):
        return None


def save(prepared: Path, split: str, arrays: Arrays) -> None:
    """Keeps the arrays of a split. A cache that can't be written costs time, no more."""
    temporary = None
    try:
        file = _file(prepared, split)
        file.parent.mkdir(parents=True, exist_ok=True)
        for leftover in file.parent.glob("*.tmp"):  # of a process that was killed
            if time.time() - leftover.stat().st_mtime > 3600:
                leftover.unlink()
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as output:
            temporary = Path(output.name)
            images, labels = arrays
            np.savez(output, images=images, labels=labels, source=np.str_(_source(prepared)))
        temporary.replace(file)
    except (OSError, RuntimeError):  # RuntimeError: the user has no home directory
        if temporary:
            temporary.unlink(missing_ok=True)


def cache_root() -> Path:
    """Where this user's caches lie; RuntimeError for a user without a home directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnist_jax"


def _file(prepared: Path, split: str) -> Path:
    key = hashlib.sha256(f"{prepared.absolute()} {split}".encode()).hexdigest()[:16]
    return cache_root() / "arrays" / f"{key}.npz"


def _source(prepared: Path) -> str:
    """What the arrays were decoded from: changes when the dataset is prepared again."""
    files = ((file.name, file.stat()) for file in sorted(prepared.iterdir()))
    return str([(name, stat.st_size, stat.st_mtime_ns) for name, stat in files])
