"""Files of many images to classify, with or without labels."""

import functools
import itertools
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnist_jax.datasets.importing.pixels import largest_value, to_bytes, white
from mnist_jax.datasets.importing.sources.arrays import _read, class_names
from mnist_jax.datasets.importing.sources.csv_file import LABEL_COLUMNS, _is_number, _rows
from mnist_jax.datasets.importing.sources.idx import _header, is_idx
from mnist_jax.datasets.importing.sources.npz import is_npz
from mnist_jax.datasets.importing.sources.part import BLOCK_BYTES, natural
from mnist_jax.datasets.importing.sources.streams import check_ratio, reading

CSV = (".csv", ".csv.gz")
NPY = b"\x93NUMPY"
ID_COLUMNS = ("imageid", "image_id", "id", "index", "unnamed: 0", "")
# The names of images and of their labels in an .npz file, in any case; the first that is there.
NAMES = {"x_test": "y_test", "test_images": "test_labels", "x": "y", "images": "labels"}

# Images of real numbers [n, ...], their ids [n], and their labels [n] or [].
Block = tuple[np.ndarray, list[str], list[str]]


class Rows(NamedTuple):
    """The images of a file. They can be read many times.

    Attributes:
        blocks: Function () -> some images, uint8 [n, ...], their ids and their labels, each time.
        notes: Lines to print: what the reader has taken for what.
    """

    blocks: Callable[[], Iterator[Block]]
    notes: list[str]


def holds_rows(path: Path) -> bool:
    """Tells whether a file holds many images: a .csv, .npy, .npz or IDX file."""
    if not path.is_file():
        return False
    if path.name.lower().endswith(CSV):
        return True
    with reading(path), path.open("rb") as file:
        head = file.read(6)
    return head == NPY or is_idx(head) or (head.startswith(b"PK\3\4") and is_npz(path))


def read_unlabelled(
    path: Path, image_shape: tuple[int, ...], pixel_range: tuple[float, float] | None = None
) -> Rows:
    """Reads all images of a file once, checks them, and finds out what is white in them.

    Args:
        path: A file that `holds_rows`. The ids of a CSV's rows are a column of that name, else all
            ids are numbers from 1. Labels are a column label, class, target or y, or the first one
            of a file that has one column more than pixels.
        image_shape: (H, W, C) of the images that rows of pixels are.
        pixel_range: The values of black and white. None for 0 and the smallest of 1, 15, 16, 255,
            1023, 4095 and 65535 that no pixel is above.

    Raises:
        OSError: The file cannot be read.
        ValueError: It holds no such images.
    """
    if path.name.lower().endswith(CSV):
        read, notes = _csv_blocks(path, image_shape)
    else:
        read, notes = _array_blocks(path, image_shape)
    count, largest = 0, 0.0
    for images, _, _ in read():
        where = functools.partial(_where, path, count)
        largest = max(largest, largest_value(images, pixel_range, where))
        count += len(images)
    if not count:
        raise ValueError(f"{path} holds no images")
    low, high = pixel_range or (0, white(largest))
    if (low, high) != (0, 255):
        notes = [*notes, f"{path}: pixels of {low:g} to {high:g} became 0 to 255"]

    def blocks() -> Iterator[Block]:
        for images, ids, labels in read():
            yield to_bytes(images, (low, high)), ids, labels

    return Rows(blocks, notes)


def _where(path: Path, start: int, index: int) -> str:
    return f"image {start + index + 1} of {path}"


def _csv_blocks(
    path: Path, image_shape: tuple[int, ...]
) -> tuple[Callable[[], Iterator[Block]], list[str]]:
    first = next((row for _, row in _rows(path)), None)
    if first is None:
        raise ValueError(f"{path} is empty; expected a row of pixels an image")
    names, label, id_, pixels = _columns(path, first, math.prod(image_shape))
    notes = []
    if label is not None:
        name = repr(first[label]) if names else f"number {label + 1}"
        notes.append(f"{path}: the column {name} was taken for the label")
    rows = max(1, BLOCK_BYTES // (8 * len(pixels)))

    def blocks() -> Iterator[Block]:
        numbered = enumerate(itertools.islice(_rows(path), int(names), None), 1)
        while some := list(itertools.islice(numbered, rows)):
            for _, (line, row) in some:
                if len(row) != len(first):
                    raise ValueError(
                        f"{path}, line {line}: it has {len(row):,} columns, the first line has "
                        f"{len(first):,}"
                    )
            text = [",".join(map(row.__getitem__, pixels)) for _, (_, row) in some]
            try:
                images = np.loadtxt(text, delimiter=",", comments=None, ndmin=2)
            except ValueError:
                for _, (line, row) in some:
                    wrong = [row[i] for i in pixels if not _is_number(row[i])]
                    if wrong:
                        raise ValueError(
                            f"{path}, line {line}: the pixel {wrong[0][:40]!r} is no number"
                        ) from None
                raise
            ids = [row[id_] if id_ is not None else str(number) for number, (_, row) in some]
            labels = [] if label is None else [_class(row[label]) for _, (_, row) in some]
            yield images.reshape(-1, *image_shape), ids, labels

    return blocks, notes


def _columns(
    path: Path, first: Sequence[str], num_pixels: int
) -> tuple[bool, int | None, int | None, list[int]]:
    """Returns whether a CSV names its columns, and those of the label, the ids and the pixels."""
    fields = [field.strip() for field in first]
    counted = [str(number) for number in range(num_pixels + 1)]
    counts = any(fields[-num_pixels:] == counted[i : num_pixels + i] for i in (0, 1))
    names = [name.lower() for name in fields]
    has_names = counts or sum(map(_is_number, fields)) < len(fields) / 2
    label = id_ = None
    if has_names:
        label = next((i for i, name in enumerate(names) if name in LABEL_COLUMNS), None)
        id_ = next((i for i, name in enumerate(names) if name in ID_COLUMNS), None)
    pixels = [i for i in range(len(fields)) if i not in (label, id_)]
    if label is None and len(pixels) == num_pixels + 1:
        # The one that has no number in its name, else the first.
        label = next((i for i in pixels if not re.search("[0-9]", names[i])), pixels[0])
        pixels.remove(label)
    if len(pixels) != num_pixels:
        raise ValueError(
            f"{path} has {len(pixels):,} columns of pixels; expected {num_pixels:,}, those of an "
            "image that the network was trained on, and a label or none"
        )
    if has_names and len({re.sub("[0-9]+", "0", names[i]) for i in pixels}) == 1:
        pixels.sort(key=lambda i: natural(names[i]))
    return has_names, label, id_, pixels


def _class(text: str) -> str:
    """Returns the name of a class; 5.0 is 5."""
    text = text.strip()
    return str(int(float(text))) if re.fullmatch(r"[+-]?[0-9]+(\.0*)?(e\+?[0-9]+)?", text) else text


def _array_blocks(
    path: Path, image_shape: tuple[int, ...]
) -> tuple[Callable[[], Iterator[Block]], list[str]]:
    labels: Any = None
    notes: list[str] = []
    with path.open("rb") as file:
        head = file.read(6)
    if is_idx(head):
        header = _header(path)
        images = np.concatenate([*_read(header, max(1, header.shape[0]))])
    elif head == NPY:
        images = _loaded(path)
    else:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                check_ratio(f"{path}: {member.filename}", member.file_size, member.compress_size)
        with _loaded(path) as arrays:
            keys = {key.lower(): key for key in arrays.files}
            key = next((key for key in NAMES if key in keys), "")
            if not key and len(keys) != 1:
                raise ValueError(
                    f"{path} must hold one array of images: {', '.join(NAMES)}; found "
                    f"{', '.join(map(repr, keys)):.200}"
                )
            key = key or next(iter(keys))
            with reading(f"{path}: {key}"):
                images = arrays[keys[key]]
                labels = arrays[keys[NAMES[key]]] if NAMES.get(key) in keys else None
        others = sorted({*keys} - {key, NAMES.get(key)})
        notes += [f"{path}: {key} was taken; not {', '.join(others):.200}"] if others else []
    if images.dtype.kind not in "buif":
        raise ValueError(f"{path} must hold real numbers, found {images.dtype}")
    if images.shape in (image_shape, image_shape[:2] * (image_shape[2] == 1)):
        images = images[None]
    if images.ndim == 2 and images.shape[1] == math.prod(image_shape):
        images = images.reshape(-1, *image_shape)
    if images.ndim == 1 or not images.size:
        raise ValueError(f"{path} must hold images, found {images.dtype} {list(images.shape)}")
    if labels is not None and labels.shape not in ((len(images),), (len(images), 1)):
        raise ValueError(f"{path} has {len(images):,} images, and labels of {list(labels.shape)}")
    names = [] if labels is None else class_names(labels.reshape(-1), str(path))

    def blocks() -> Iterator[Block]:
        rows = max(1, BLOCK_BYTES // (8 * math.prod(images.shape[1:])))
        for start in range(0, len(images), rows):
            some = images[start : start + rows]
            ids = [str(start + i + 1) for i in range(len(some))]
            yield some, ids, names[start : start + rows]

    return blocks, notes


def _loaded(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:  # also for Python objects
        raise ValueError(f"{path} cannot be read as arrays: {error}") from error
