"""Files of many images to classify, with or without labels."""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnist_jax.datasets.brightness import white
from mnist_jax.datasets.importing.class_names import class_name
from mnist_jax.datasets.importing.pixels import largest_value, to_bytes
from mnist_jax.datasets.importing.sources import TABLES
from mnist_jax.datasets.importing.sources.arrays import Array, class_names, read_array
from mnist_jax.datasets.importing.sources.csv_file import find_layout, read_rows
from mnist_jax.datasets.importing.sources.idx import is_idx, read_header
from mnist_jax.datasets.importing.sources.numpy_files import MAGIC, is_npz, meaning, read_members
from mnist_jax.datasets.importing.sources.part import BLOCK_BYTES
from mnist_jax.datasets.importing.sources.streams import reading

PARTS = ("test", "all", "validation", "train")  # of an .npz file, by preference

Block = tuple[np.ndarray, list[str], list[str]]  # real images [n, ...], ids [n], labels [n] or []


class Rows(NamedTuple):
    """The images of a file, which can be read repeatedly."""

    blocks: Callable[[], Iterator[Block]]  # uint8 images from `read_unlabelled`
    notes: list[str]  # lines about the reader's choices


def holds_rows(path: Path) -> bool:
    """Tells whether a file is a .csv, .npy, .npz or IDX file."""
    if not path.is_file():
        return False
    if path.name.lower().endswith(TABLES):
        return True
    with reading(path), path.open("rb") as file:
        head = file.read(6)
    return head == MAGIC or is_idx(head) or (head.startswith(b"PK\3\4") and is_npz(path))


def read_unlabelled(
    path: Path, image_shape: tuple[int, ...], pixel_range: tuple[float, float] | None = None
) -> Rows:
    """Reads and checks all images, (H, W, C) or rows of pixels, of a file that `holds_rows`.

    Ids are a CSV file's first column of neither labels nor pixels, or numbers from 1. By default,
    black is 0 and white is the `white` of the largest pixel. Raises OSError if the file cannot be
    read, and ValueError if it holds no such images.
    """
    find = _csv_rows if path.name.lower().endswith(TABLES) else _array_rows
    read, notes = find(path, image_shape)
    count, largest = 0, 0.0
    for images, _, _ in read():
        found = largest_value(images, pixel_range, lambda i: f"image {i} of {path}", count + 1)
        count, largest = count + len(images), max(largest, found)
    if not count:
        raise ValueError(f"{path} holds no images")
    low, high = pixel_range or (0, white(largest))
    if (low, high) != (0, 255):
        notes = [*notes, f"{path}: pixels of {low:g} to {high:g} became 0 to 255"]

    def blocks() -> Iterator[Block]:
        numbers = map(str, itertools.count(1))
        for images, ids, labels in read():
            ids = ids or [*itertools.islice(numbers, len(images))]
            yield to_bytes(images, (low, high)), ids, labels

    return Rows(blocks, notes)


def _csv_rows(path: Path, image_shape: tuple[int, ...]) -> Rows:
    layout = find_layout(path, (image_shape[0], image_shape[1]), None, math.prod(image_shape))
    if layout.shape != image_shape:
        raise ValueError(
            f"{path} has images of {list(layout.shape)}; the network expects {list(image_shape)}"
        )
    label = layout.label
    notes = [f"{path}: the label is {layout.title(label)}"] if label is not None else []

    def blocks() -> Iterator[Block]:
        for images, rows in read_rows(path, layout):
            ids = [row[layout.unused[0]] for _, row in rows] if layout.unused else []
            yield images, ids, [] if label is None else [class_name(row[label]) for _, row in rows]

    return Rows(blocks, notes)


def _array_rows(path: Path, image_shape: tuple[int, ...]) -> Rows:
    images, labels, notes = _arrays(path)
    if images.dtype.kind not in "buif":
        raise ValueError(f"{path} must hold real numbers, found {images.dtype}")
    if images.shape in (image_shape, image_shape[:2] * (image_shape[2] == 1)):
        images = images._replace(shape=(1, *images.shape))
    count, *own_shape = images.shape or (0,)
    is_flat = own_shape == [math.prod(image_shape)]
    if not own_shape or not math.prod(images.shape):
        raise ValueError(f"{path} must hold images, found {images.dtype} {list(images.shape)}")
    if labels and labels.shape not in ((count,), (count, 1)):
        raise ValueError(f"{path} has {count:,} images, and labels of {list(labels.shape)}")
    rows = max(1, BLOCK_BYTES // (8 * math.prod(own_shape)))

    def blocks() -> Iterator[Block]:
        read_labels = read_array(labels, rows) if labels else itertools.repeat(None)
        for some, values in zip(read_array(images, rows), read_labels, strict=False):
            names = [] if values is None else class_names(values.reshape(-1), str(path))
            yield some.reshape(-1, *image_shape) if is_flat else some, [], names

    return Rows(blocks, notes)


def _arrays(path: Path) -> tuple[Array, Array | None, list[str]]:
    """Returns a file's images, labels, and notes on unused arrays."""
    with path.open("rb") as file:
        if is_idx(file.read(4)):
            return read_header(path), None, []
    members = read_members(path)
    keys = {meaning(path, key, len(members), 1): key for key in members}
    part = next((part for part in PARTS if (part, "images") in keys), "")
    if not part and len(members) != 1:
        raise ValueError(
            f"{path} must hold one array of images: x_test, test_images, x or images; found "
            f"{', '.join(map(repr, sorted(members))):.200}"
        )
    key = keys[part, "images"] if part else next(iter(members))
    of_labels = keys.get((part, "labels"))
    others = sorted({*members} - {key, of_labels})
    notes = [f"{path}: {key} is used, not {', '.join(others):.200}"] if others else []
    return members[key](), members[of_labels]() if of_labels is not None else None, notes
