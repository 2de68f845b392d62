"""IDX files, the format of MNIST: http://yann.lecun.com/exdb/mnist/."""

import functools
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnist_jax.datasets.importing.sources.arrays import Array, array_part
from mnist_jax.datasets.importing.sources.part import Part, Source, role
from mnist_jax.datasets.importing.sources.streams import open_unpacked, reading

# The third byte of a file; the first two are zeros, the fourth is the number of axes.
TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
PURPOSES = {
    "train": "train on",
    "validation": "validate with",
    "test": "test with",
    "all": "train on or test with",
}
USUAL_NAME = r"(?i).*(images|labels)[-.]idx\d-\w+(\.gz)?"


def is_idx(head: bytes) -> bool:
    """Tells whether a file with these first bytes is an IDX file."""
    return len(head) >= 4 and head[:2] == b"\0\0" and head[2] in TYPES and head[3] > 0


def idx_files(folder: Path) -> list[Path]:
    """Returns the files of a folder that have the usual names."""
    return sorted(path for path in folder.iterdir() if re.fullmatch(USUAL_NAME, path.name))


def read_idx(paths: Sequence[Path]) -> Source:
    """Reads the headers of files, in any order: their axes tell images from labels.

    Args:
        paths: the files, packed by gzip or not, or a folder that holds them. Names with "train",
            and "test" or "t10k", tell the parts.

    Raises:
        ValueError: an image file lacks its labels, two files are for the same, or a header is not
            that of images or labels.
    """
    files, ignored = [], []
    for path in paths:
        usual = idx_files(path) if path.is_dir() else [path]
        files += usual
        if path.is_dir():
            ignored += [str(other) for other in sorted(path.iterdir()) if other not in usual]
    arrays: dict[tuple[str, str], Array] = {}
    for path in files:
        array = _header(path)
        what = role(path), "labels" if len(array.shape) == 1 else "images"
        if what in arrays:
            raise ValueError(
                f"{arrays[what].title} and {path} both hold {what[1]} to {PURPOSES[what[0]]}: give "
                "the files of one dataset"
            )
        arrays[what] = array
    parts = {part for part, _ in arrays}
    if len(parts) == 2 and "all" in parts:
        raise ValueError(
            f"{', '.join(map(str, files))}: the names must tell which files are for training and "
            "which for the test, as in train-images-idx3-ubyte"
        )
    return Source(
        "IDX files",
        "the files of labels",
        {part: _part(arrays, part) for part in sorted(parts, reverse=True)},
        ignored,
    )


def _part(arrays: dict[tuple[str, str], Array], part: str) -> Part:
    for one, other in (("images", "labels"), ("labels", "images")):
        if (part, one) not in arrays:
            raise ValueError(f"the {one} that belong to {arrays[part, other].title} are missing")
    return array_part(arrays[part, "images"], arrays[part, "labels"], size=None)


def _header(path: Path) -> Array:
    with reading(path), open_unpacked(path) as stream:
        magic = stream.read(4)
        if not is_idx(magic):
            raise ValueError(f"{path} is no IDX file: it begins with {magic!r}")
        num_axes = magic[3]
        sizes = stream.read(4 * num_axes)
    if len(sizes) < 4 * num_axes or num_axes not in (1, 3, 4):
        raise ValueError(
            f"{path} has {num_axes} axes; expected 1 (labels), 3 (images) or 4 (in colour)"
        )
    shape = struct.unpack(f">{num_axes}I", sizes)
    dtype, offset = np.dtype(TYPES[magic[2]]), 4 + 4 * num_axes
    return Array(str(path), shape, dtype, offset, functools.partial(open_unpacked, path))
