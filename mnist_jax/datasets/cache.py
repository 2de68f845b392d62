"""A cache of decoded arrays, because decoding MNIST's 60,000 records takes seconds.

It lies in $XDG_CACHE_HOME/mnist_jax or ~/.cache/mnist_jax and may be deleted at any time. A split's
file holds a digest, then NumPy arrays: images, labels, class names and `_source`.
"""

import hashlib
import math
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnist_jax.datasets.streamed import stream_file
from mnist_jax.machine.user_cache import cache_root

Block = tuple[np.ndarray, np.ndarray]  # images uint8 [n, H, W, C] and labels int32 [n]
DIGEST, DIGEST_BYTES = "blake2b", 64


class Decoded(NamedTuple):
    """Images uint8 [N, H, W, C], labels int32 [N], and class names."""

    images: Any
    labels: np.ndarray
    label_names: tuple[str, ...]


def load(prepared: Path, split: str, *, stream: bool = False) -> Decoded | None:
    """Loads a split of a prepared dataset; None if the cache lacks it, or is old or damaged.

    With `stream`, the images stay on disk, as `StreamedImages`.
    """
    try:
        path = _file(prepared, split)
        with path.open("rb") as file:
            digest = file.read(DIGEST_BYTES)
            if hashlib.file_digest(file, DIGEST).digest() != digest:
                return None
            file.seek(DIGEST_BYTES)
            if stream:
                np.lib.format.read_magic(file)
                shape = np.lib.format.read_array_header_1_0(file)[0]
                images = stream_file(path, file.tell(), shape)
                file.seek(math.prod(shape), os.SEEK_CUR)
            else:
                images = np.load(file)
            labels, label_names, source = (np.load(file) for _ in range(3))
        if str(source) != _source(prepared):
            return None
        return Decoded(images, labels, tuple(label_names.tolist()))
    except (OSError, ValueError, EOFError, RuntimeError):
        return None


def save(
    prepared: Path,
    split: str,
    shape: tuple[int, ...],
    blocks: Iterable[Block],
    label_names: Sequence[str],
) -> None:
    """Caches the blocks of a split, in order, whose images have the `shape` (N, H, W, C).

    Does nothing if the cache cannot be written. Raises the blocks' errors except OSError.
    """
    temporary = None
    try:
        path = _file(prepared, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob("*.tmp"):  # from a killed process
            if time.time() - leftover.stat().st_mtime > 3600:
                leftover.unlink()
        path.with_suffix(".npz").unlink(missing_ok=True)  # of an earlier version
        descriptor, temporary = tempfile.mkstemp(".tmp", dir=path.parent)
        with os.fdopen(descriptor, "w+b") as file:
            file.seek(DIGEST_BYTES)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            labels = []
            for block in blocks:
                file.write(np.ascontiguousarray(block[0]).data)
                labels.append(block[1])
            for array in (np.concatenate(labels), label_names, _source(prepared)):
                np.save(file, array, allow_pickle=False)
            file.seek(DIGEST_BYTES)
            digest = hashlib.file_digest(file, DIGEST).digest()
            file.seek(0)
            file.write(digest)
        Path(temporary).replace(path)
        temporary = None
    except (OSError, RuntimeError):  # RuntimeError without a home directory
        pass
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def _file(prepared: Path, split: str) -> Path:
    key = hashlib.sha256(f"{prepared.absolute()} {split}".encode()).hexdigest()[:16]
    return cache_root() / "arrays" / f"{key}.arrays"


def _source(prepared: Path) -> str:
    """Describes a dataset's files, which change when it is prepared again."""
    files = ((file.name, file.stat()) for file in sorted(prepared.iterdir()))
    return str([(name, stat.st_size, stat.st_mtime_ns) for name, stat in files])
