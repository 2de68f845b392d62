"""NumPy files: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html."""

import contextlib
import functools
import io
import math
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import numpy as np

from mnist_jax.datasets.importing.sources.arrays import Array, Arrays, add_array, array_parts
from mnist_jax.datasets.importing.sources.part import COLOUR_ROWS, Size, Source, flat_shape, role
from mnist_jax.datasets.importing.sources.streams import check_ratio, reading
from mnist_jax.messages import one_line

MAGIC = b"\x93NUMPY"
IMAGES, LABELS = "x|images?|imgs?|data|pixels", "y|labels?|targets?"
ROLE = "train(?:ing)?|trn|valid(?:ation)?|val|dev|test(?:ing)?|t10k|tst|eval(?:uation)?"
# x_train, train_images, images; "kmnist-train-imgs" as a file's name.
NAME = rf"(?:({IMAGES}|{LABELS})(?:[-_. ]?({ROLE}))?|({ROLE})[-_. ]?({IMAGES}|{LABELS}))"
FILE_NAME = rf"(?!\.)(.*?[-_. ])??{NAME}\.np[yz]"
LONGEST_HEADER = 1 << 16  # bytes; NumPy refuses more than 10,000


def numpy_files(folder: Path) -> list[Path]:
    """Returns a folder's files with usual names."""
    return sorted(
        path for path in folder.iterdir() if re.fullmatch(FILE_NAME, path.name, re.IGNORECASE)
    )


def is_npz(path: Path) -> bool:
    """Tells whether a zip file holds only NumPy arrays."""
    with reading(path), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def read_numpy(paths: Sequence[Path], size: Size) -> Source:
    """Reads the headers of the arrays in files; names give their meanings.

    An .npz file holds x_train and y_train, optionally x_test and y_test, x_val and y_val; or x and
    y. "images" and "labels", or "data" and "target", mean x and y, in any case and order. A file of
    one array has such a name itself; several files' names may give the parts. `size` is for rows of
    pixels. Raises ValueError if images or labels are missing or invalid.
    """
    title = f"{', '.join(map(str, paths)):.200}"
    files, ignored = [], []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else []
        usual = numpy_files(path) if path.is_dir() else [path]
        files += usual
        ignored += [str(other) for other in inside if other not in usual]
    named = filter(None, (re.fullmatch(FILE_NAME, path.name, re.IGNORECASE) for path in files))
    datasets = sorted({(name[1] or "").lower() for name in named})
    if len(datasets) > 1:
        found = f"{' and '.join(map(repr, datasets)):.200}"
        raise ValueError(f"{title}: expected files of one dataset; their names begin with {found}")
    arrays, words = Arrays(), []
    for path in files:
        members = read_members(path)
        meant = {key: meaning(path, key, len(members), len(files)) for key in members}
        # scikit-learn's digits come both as images and as rows of data.
        twice = {"data", "images"} <= {key.lower() for key in members}
        words += [key or path.name for key in members]
        for key, what in meant.items():
            is_rest = what and what[0] == "all" and ("train", what[1]) in meant.values()
            if not what or is_rest or (twice and key.lower() == "data"):
                ignored.append(f"{path}: {key}" if key else str(path))
            else:
                add_array(arrays, what, members[key]())
    if not {part for part, what in arrays if what == "images" and (part, "labels") in arrays}:
        found = f"{', '.join(map(repr, sorted(words))):.200}"
        expected = "x_train, y_train, x_test and y_test, or x and y"
        raise ValueError(f"{title} must hold {expected}; found {found}")
    for part in ("validation", "test"):  # useless without labels
        if (part, "images") in arrays and (part, "labels") not in arrays and len(arrays) > 1:
            ignored.append(f"{arrays.pop((part, 'images')).title} (it has no labels)")
    labels = [array for (_, what), array in sorted(arrays.items())[::-1] if what == "labels"]
    names = ", ".join(repr(array.title.rsplit(": ", 1)[-1]) for array in labels)
    if any(array.shape[1:] not in ((), (1,)) for array in labels):
        names += ": the column of each row's 1"
    parts = array_parts(arrays, size)
    rows = [array for array in arrays.values() if len(array.shape) == 2 and array not in labels]
    in_colour = any(flat_shape(array.shape[1], size, array.title)[2] == 3 for array in rows)
    notes = [COLOUR_ROWS] if in_colour else []
    return Source("NumPy's files", f"the arrays {names}", parts, ignored, notes)


def meaning(path: Path, key: str, num_keys: int, num_files: int) -> tuple[str, str] | None:
    """Returns an array's part, and "images" or "labels"; None for others."""
    name = num_keys == 1 and re.fullmatch(FILE_NAME, path.name, re.IGNORECASE)
    name = name or re.fullmatch(NAME, key, re.IGNORECASE)
    if not name:
        return None
    first, part_second, part_first, second = name.groups()[-4:]
    purpose, part = first or second, role(Path(part_first or part_second or ""))
    if part == "all" and num_files > 1:
        part = role(path)
    return part, "labels" if re.fullmatch(LABELS, purpose, re.IGNORECASE) else "images"


def read_members(path: Path) -> dict[str, Callable[[], Array]]:
    """Returns functions that read the headers of a file's arrays, by key."""
    with reading(path), path.open("rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            size = path.stat().st_size
            return {"": lambda: _array(str(path), size, functools.partial(path.open, "rb"))}
    with reading(path), zipfile.ZipFile(path) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if len({key.lower() for key in members}) < len(archive.infolist()):
            raise ValueError(f"{path} holds two arrays of the same name")

    def array(key: str) -> Array:
        title, member = f"{path}: {key}", members[key]
        check_ratio(title, member.file_size, member.compress_size)

        @contextlib.contextmanager
        def open_() -> Iterator[IO[bytes]]:
            with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
                yield stream

        return _array(title, member.file_size, open_)

    return {key: functools.partial(array, key) for key in members}


def _array(title: str, size: int, open_: Callable[[], AbstractContextManager[IO[bytes]]]) -> Array:
    with reading(title), open_() as stream:
        head = io.BytesIO(stream.read(LONGEST_HEADER))
    try:
        version = np.lib.format.read_magic(head)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} of the format is for records")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers written by Python 2
            read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            shape, by_columns, dtype = read(head)
    except Exception as error:  # damaged headers fail in many ways
        raise ValueError(f"{title} is not an array: {one_line(error):.200}") from error
    offset = head.tell()
    if dtype.hasobject:
        raise ValueError(f"{title} holds Python objects, which are not read; save numbers")
    if not all(type(length) is int and length >= 0 for length in shape):  # a bool is an int
        raise ValueError(f"{title} cannot have the shape {shape}")
    declared, held = math.prod(shape) * dtype.itemsize, size - offset
    if declared != held:
        raise ValueError(
            f"{title} must have {declared:,} bytes for {dtype} {list(shape)}, found {held:,}"
        )
    return Array(title, shape, dtype, offset, open_, by_columns and len(shape) > 1)
