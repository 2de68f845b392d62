"""Files of many images to classify, with or without labels."""

import functools
import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnist_jax.datasets.brightness import white
from mnist_jax.datasets.importing.class_names import class_name
from mnist_jax.datasets.importing.pixels import largest_value, to_bytes
from mnist_jax.datasets.importing.sources.arrays import _read, class_names
from mnist_jax.datasets.importing.sources.csv_file import column_title, find_layout, read_rows
from mnist_jax.datasets.importing.sources.idx import _header, is_idx
from mnist_jax.datasets.importing.sources.numpy_files import is_npz
from mnist_jax.datasets.importing.sources.part import BLOCK_BYTES
from mnist_jax.datasets.importing.sources.streams import check_ratio, reading

CSV = (".csv", ".csv.gz")
NPY = b"\x93NUMPY"
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
        path: A file that `holds_rows`. The ids of a CSV's rows are the column that is neither a
            label nor a pixel, else all ids are numbers from 1.
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
    layout = find_layout(path, (image_shape[0], image_shape[1]), None, math.prod(image_shape))
    if layout.shape != image_shape:
        raise ValueError(
            f"{path} has images of {list(layout.shape)}; expected {list(image_shape)}, as those "
            "that the network was trained on"
        )
    label = layout.label
    notes = [f"{path}: the label is {column_title(layout, label)}"] if label is not None else []

    def blocks() -> Iterator[Block]:
        count = 0
        for images, rows in read_rows(path, layout):
            numbers = [str(count + i + 1) for i in range(len(rows))]
            count += len(rows)
            ids = [row[layout.unused[0]] for _, row in rows] if layout.unused else numbers
            labels = [] if label is None else [class_name(row[label]) for _, row in rows]
            yield images, ids, labels

    return blocks, notes


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
