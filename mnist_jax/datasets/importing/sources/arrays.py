"""Arrays of images and labels in files, read in blocks of rows."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import IO, NamedTuple

import numpy as np

from mnist_jax.datasets.importing.sources.part import (
    BLOCK_BYTES,
    MAX_CHANNELS,
    MAX_VALUES,
    Block,
    Keep,
    Part,
    Size,
    flat_shape,
)
from mnist_jax.datasets.importing.sources.streams import reading


class Array(NamedTuple):
    """An array in a file, as its header describes it."""

    title: str  # for messages
    shape: tuple[int, ...]  # N examples first
    dtype: np.dtype  # with byte order
    offset: int  # bytes before the values
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    by_columns: bool = False  # in Fortran's order


ONE_LABEL = "must hold one label per image, [N] or [N, 1]"
Arrays = dict[tuple[str, str], Array]  # by `role`, and "images" or "labels"


def add_array(arrays: Arrays, what: tuple[str, str], array: Array) -> None:
    """Adds an array; ValueError if there is one of this part and meaning."""
    if what in arrays:
        part = "all parts" if what[0] == "all" else f"the {what[0]} part"
        raise ValueError(
            f"{arrays[what].title} and {array.title} both hold the {what[1]} of {part}; give the "
            "files of one dataset"
        )
    arrays[what] = array


def array_parts(arrays: Arrays, size: Size = None, first_column: bool = False) -> dict[str, Part]:
    """Combines arrays into the parts of a source, "train" first.

    Images are real [N, H, W], [N, H, W, C] or [N, pixels], of the size (H, W) or square. Labels are
    integers, integral floats or strings, [N] or [N, 1]; or one-hot rows [N, classes]; or the first
    column of [N, columns], as in QMNIST.

    Raises ValueError for different or missing arrays, or if only some parts have names.
    """
    parts = sorted({part for part, _ in arrays}, reverse=True)
    if len(parts) > 1 and "all" in parts:
        raise ValueError(
            f"{', '.join(array.title for array in arrays.values())}: all names must say whether "
            "they are for training or the test, such as train-images-idx3-ubyte or x_train"
        )
    for part in parts:
        for one, other in (("images", "labels"), ("labels", "images")):
            if (part, one) not in arrays:
                other = arrays[part, other].title
                raise ValueError(f"the {one} of {other} are missing")
    return {
        part: _part(arrays[part, "images"], arrays[part, "labels"], size, first_column)
        for part in parts
    }


def _part(images: Array, labels: Array, size: Size, first_column: bool) -> Part:
    if images.dtype.kind not in "buif":
        raise ValueError(f"{images.title} must hold real numbers, found {images.dtype}")
    if labels.dtype.kind not in "buifUS":
        raise ValueError(f"{labels.title} must hold integers or strings, found {labels.dtype}")
    is_wide = len(labels.shape) == 2 and labels.shape[1] > 1 and labels.dtype.kind not in "US"
    if not is_wide and (not labels.shape or labels.shape[1:] not in ((), (1,))):
        raise ValueError(f"{labels.title} {ONE_LABEL}, found {list(labels.shape)}")
    if len(images.shape) not in (2, 3, 4) or not math.prod(images.shape):
        expected = "[N, H, W], [N, H, W, C] or [N, pixels]"
        raise ValueError(f"{images.title} must hold images, {expected}, found {list(images.shape)}")
    if labels.shape[0] != images.shape[0]:
        hint = "; its images are along the last axis: save np.moveaxis(x, -1, 0)"
        raise ValueError(
            f"{images.title} has {images.shape[0]:,} images, but {labels.title} has "
            f"{labels.shape[0]:,} labels{hint if labels.shape[0] == images.shape[-1] else ''}"
        )
    if (count := math.prod(images.shape[1:])) > MAX_VALUES:
        raise ValueError(
            f"{images.title} has images of {count:,} values; expected {MAX_VALUES:,} at most"
        )
    if len(images.shape) == 2:
        shape = flat_shape(images.shape[1], size, images.title)
    else:
        shape = (*images.shape[1:], 1)[:3]
    height, _, channels = shape
    expected = f"they must be the last axis of [N, H, W, C], found {list(images.shape)}"
    if height in (1, 3, 4) and channels > max(3, height):
        raise ValueError(
            f"{images.title} has its channels first; {expected}: save np.moveaxis(x, 1, -1)"
        )
    if channels > MAX_CHANNELS:
        raise ValueError(
            f"{images.title} has {channels} channels; at most {MAX_CHANNELS} fit: {expected}"
        )
    both = images, labels
    row_bytes = max(array.dtype.itemsize * math.prod(array.shape[1:]) for array in both)
    rows = max(1, BLOCK_BYTES // max(1, row_bytes))

    def blocks(keep: Keep) -> Iterator[Block]:
        start = 0
        for pixels, values in zip(*(read_array(array, rows) for array in both), strict=True):
            chosen = slice(None) if keep is None else keep[start : start + len(pixels)]
            start += len(pixels)
            pixels, values = pixels[chosen], values[chosen]
            if len(pixels):
                values = _one_an_image(values, labels.title, first_column)
                yield pixels.reshape(-1, *shape), class_names(values, labels.title)

    return Part(blocks, lambda index: f"image {index} of {images.title}")


def _one_an_image(values: np.ndarray, title: str, first_column: bool) -> np.ndarray:
    """Converts labels, [n], [n, 1] or [n, columns], to [n]."""
    if values.ndim == 1 or values.shape[1] == 1:
        return values.reshape(-1)
    is_one_hot = ((values != 0).sum(1) == 1) & (values.max(1) == 1)
    if first_column:
        if (is_one_hot & (values[:, 0] == 0)).any():
            raise ValueError(
                f"{title} must have its labels in the first column like QMNIST, but has a one-hot "
                "row; give one label per image, [N]"
            )
        return values[:, 0]
    for row in values[~is_one_hot]:
        raise ValueError(
            f"{title} {ONE_LABEL}, or one-hot rows, found "
            f"{', '.join(map(str, row.tolist())):.60} in a row of {values.shape[1]}"
        )
    return values.argmax(1)


def read_array(array: Array, rows: int) -> Iterator[np.ndarray]:
    """Yields the array, `rows` at a time; ValueError if the file has another length."""
    count, *shape = array.shape
    row_bytes = math.prod(shape) * array.dtype.itemsize
    if array.by_columns:  # no row is complete before the last value
        flat = array._replace(shape=(math.prod(array.shape),), by_columns=False)
        (whole,) = read_array(flat, 1 << 62)
        whole = whole.reshape(array.shape, order="F")
        yield from (whole[start : start + rows] for start in range(0, count, rows))
        return
    with reading(array.title), array.open() as stream:
        stream.read(array.offset)
        for start in range(0, count, rows):
            wanted = min(rows, count - start)
            content = stream.read(wanted * row_bytes)
            if len(content) < wanted * row_bytes:
                held = start + len(content) // max(1, row_bytes)
                raise ValueError(
                    f"{array.title} is cut short: its header says {count:,}, it holds {held:,}"
                )
            yield np.frombuffer(content, array.dtype).reshape(wanted, *shape)
        if stream.read(1):  # also checks a zip file's checksum
            raise ValueError(f"{array.title} holds more than the {count:,} its header says")


def class_names(values: np.ndarray, title: str) -> list[str]:
    """Converts labels [n] to strings; ValueError for fractions."""
    if values.dtype.kind == "S":
        with reading(title):
            return [value.decode() for value in values.tolist()]
    if values.dtype.kind == "f":
        for value in values[~np.isfinite(values) | (values != np.trunc(values))]:
            raise ValueError(f"{title} must hold integers, found {value}")
    if values.dtype.kind != "U":
        return [str(int(value)) for value in values.tolist()]
    return values.tolist()
