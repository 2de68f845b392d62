"""Decoded arrays on disk: decoding MNIST's 60,000 records takes seconds, reading this does not.

They lie in $XDG_CACHE_HOME/mnist_jax or ~/.cache/mnist_jax, one .npz for each split that was used,
and may be deleted at any time.
"""

import functools
import hashlib
import os
import tempfile
import time
import weakref
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnist_jax.datasets.streamed import StreamedImages, read_file_rows

Block = tuple[np.ndarray, np.ndarray]  # images uint8 [n, H, W, C] and labels int32 [n]
LOCAL_HEADER = 30  # bytes before the name of a file inside a zip, see PKWARE's APPNOTE, 4.3.7


class Decoded(NamedTuple):
    """Images uint8 [N, H, W, C], labels int32 [N], and the names of the classes."""

    images: Any
    labels: np.ndarray
    label_names: tuple[str, ...]


def load(prepared: Path, split: str, *, stream: bool = False) -> Decoded | None:
    """Returns what is kept for a split of a prepared dataset, or None.

    None too where the dataset's files have changed since, or the cache is damaged: the zip format
    carries a CRC-32 of each array.

    Args:
        prepared: the dataset's directory.
        split: in tfds's notation.
        stream: whether the images stay on the disk, as `StreamedImages`.
    """
    try:
        path = _file(prepared, split)
        with np.load(path) as stored:
            if str(stored["source"]) != _source(prepared):
                return None
            labels, names = stored["labels"], tuple(stored["label_names"].tolist())
            images = _open_images(path) if stream else stored["images"]
            return Decoded(images, labels, names)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, RuntimeError):
        return None


def save(
    prepared: Path,
    split: str,
    shape: tuple[int, ...],
    blocks: Iterable[Block],
    label_names: Sequence[str],
) -> None:
    """Keeps a split. A cache that can't be written costs time, no more.

    Args:
        prepared: the dataset's directory.
        split: in tfds's notation.
        shape: (N, H, W, C), of all images.
        blocks: one after another; what they raise, but OSError, is raised here.
        label_names: of the classes.
    """
    temporary = None
    try:
        file = _file(prepared, split)
        file.parent.mkdir(parents=True, exist_ok=True)
        for leftover in file.parent.glob("*.tmp"):  # of a process that was killed
            if time.time() - leftover.stat().st_mtime > 3600:
                leftover.unlink()
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as output:
            temporary = Path(output.name)
            with zipfile.ZipFile(output, "w") as archive:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                labels = []
                with archive.open("images.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_1_0(member, header)
                    for block in blocks:
                        member.write(np.ascontiguousarray(block[0]).data)
                        labels.append(block[1])
                rest = {"labels": np.concatenate(labels), "label_names": np.array(label_names)}
                for name, array in {**rest, "source": np.array(_source(prepared))}.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
        temporary.replace(file)
        temporary = None
    except (OSError, RuntimeError):  # RuntimeError: the user has no home directory
        pass
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def cache_root() -> Path:
    """Where this user's caches lie; RuntimeError for a user without a home directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnist_jax"


def _open_images(path: Path) -> StreamedImages:
    """Finds the images in the file, which stays open as long as they are used."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("images.npy")
        with archive.open(info) as member:
            np.lib.format.read_magic(member)
            shape = np.lib.format.read_array_header_1_0(member)[0]
            header = member.tell()
            while member.read(2**20):  # to the end, where the zip file's sum is compared
                pass
    file = os.open(path, os.O_RDONLY)
    lengths = np.frombuffer(os.pread(file, 4, info.header_offset + LOCAL_HEADER - 4), "<u2")
    offset = info.header_offset + LOCAL_HEADER + int(lengths.sum()) + header
    read_rows = functools.partial(read_file_rows, file, offset, shape[1:])
    weakref.finalize(read_rows, os.close, file)
    return StreamedImages(read_rows, np.arange(shape[0]), shape[1:])


def _file(prepared: Path, split: str) -> Path:
    key = hashlib.sha256(f"{prepared.absolute()} {split}".encode()).hexdigest()[:16]
    return cache_root() / "arrays" / f"{key}.npz"


def _source(prepared: Path) -> str:
    """What the arrays were decoded from: changes when the dataset is prepared again."""
    files = ((file.name, file.stat()) for file in sorted(prepared.iterdir()))
    return str([(name, stat.st_size, stat.st_mtime_ns) for name, stat in files])
