"""NumPy's .npz files: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html."""

import contextlib
import functools
import io
import math
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from mnist_jax.datasets.importing.sources.arrays import Array, array_part
from mnist_jax.datasets.importing.sources.part import Source
from mnist_jax.datasets.importing.sources.streams import check_ratio, reading
from mnist_jax.messages import one_line

# The names of the arrays of each part, in any case.
LAYOUTS = (
    {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")},
    {"train": ("train_images", "train_labels"), "test": ("test_images", "test_labels")},
    {"all": ("x", "y")},
    {"all": ("images", "labels")},
)
LONGEST_HEADER = 1 << 16  # bytes; NumPy refuses more than 10,000


def is_npz(path: Path) -> bool:
    """Tells whether a zip file holds nothing but NumPy's arrays."""
    with reading(path), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def read_npz(path: Path, size: tuple[int, int] | None) -> Source:
    """Reads the headers of the arrays in an .npz file.

    Args:
        path: a file of x_train and y_train, x_test and y_test where there is a test part; or of x
            and y. "images" and "labels" are taken for x and y.
        size: the size of images that are rows of pixels, see `array_part`.

    Raises:
        ValueError: it has no such arrays, or they are not of images and labels.
    """
    with reading(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    by_key = {member.filename.removesuffix(".npy").lower(): member for member in members}
    if len(by_key) < len(members):
        raise ValueError(f"{path} holds two arrays of one name")
    for layout in LAYOUTS:
        parts = {
            part: array_part(_array(path, by_key[x]), _array(path, by_key[y]), size)
            for part, (x, y) in layout.items()
            if x in by_key and y in by_key
        }
        if parts:
            used = {key for part in parts for key in layout[part]}
            labels = ", ".join(repr(layout[part][1]) for part in parts)
            ignored = [f"{path}: {key}" for key in sorted({*by_key} - used)]
            return Source("an .npz file", f"the arrays {labels}", parts, ignored)
    keys = ", ".join(repr(key) for key in sorted(by_key))
    raise ValueError(
        f"{path} must hold x_train, y_train, x_test and y_test, or x and y; found {keys:.200}"
    )


def _array(path: Path, member: zipfile.ZipInfo) -> Array:
    title = f"{path}: {member.filename.removesuffix('.npy')}"
    check_ratio(title, member.file_size, member.compress_size)
    with reading(title), zipfile.ZipFile(path) as archive, archive.open(member) as stream:
        head = io.BytesIO(stream.read(LONGEST_HEADER))
    try:
        shape, is_fortran, dtype = _header(head)
    except Exception as error:  # of a Python literal, which it should be
        raise ValueError(f"{title} is no array: {one_line(error):.200}") from error
    offset = head.tell()
    if dtype.hasobject:
        raise ValueError(f"{title} holds Python objects, which are not read: save numbers")
    if is_fortran and len(shape) > 1:
        raise ValueError(
            f"{title} is stored by columns; save it by rows, with np.ascontiguousarray(...)"
        )
    if not all(type(length) is int and length >= 0 for length in shape):  # a bool is an int
        raise ValueError(f"{title} cannot have the shape {shape}")
    declared, held = math.prod(shape) * dtype.itemsize, member.file_size - offset
    if declared != held:
        raise ValueError(
            f"{title} must have {declared:,} bytes for {dtype} {list(shape)}, found {held:,}"
        )
    return Array(title, shape, dtype, offset, functools.partial(_open, path, member))


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote, which are read
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(stream)
        if version == (2, 0):
            return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"version {version} of the format is for records")


@contextlib.contextmanager
def _open(path: Path, member: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
        yield stream
