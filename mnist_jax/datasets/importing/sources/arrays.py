"""Arrays in files, of images and of labels, read a few rows at a time."""

import functools
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
    Part,
    flat_shape,
)
from mnist_jax.datasets.importing.sources.streams import reading


class Array(NamedTuple):
    """An array in a file, as its header describes it.

    Attributes:
        title: its name in messages.
        shape: its shape, the N examples first.
        dtype: its type, with the byte order.
        offset: number of bytes before the values, which are in row-major order.
        open: opens the array from its beginning.
    """

    title: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    open: Callable[[], AbstractContextManager[IO[bytes]]]


def array_part(images: Array, labels: Array, size: tuple[int, int] | None) -> Part:
    """Returns the examples of two arrays.

    Args:
        images: real [N, H, W], [N, H, W, C] or [N, pixels].
        labels: integers, integral floats or strings, [N] or [N, 1].
        size: H, W of images that are rows of pixels; None where these are square.

    Raises:
        ValueError: the arrays are others, or not of one length.
    """
    shape = _image_shape(images, size)
    if images.dtype.kind not in "buif":
        raise ValueError(f"{images.title} must hold real numbers, found {images.dtype}")
    if labels.dtype.kind not in "buifUS":
        raise ValueError(f"{labels.title} must hold integers or strings, found {labels.dtype}")
    if not labels.shape or labels.shape[1:] not in ((), (1,)):
        raise ValueError(
            f"{labels.title} must hold one label an image, [N] or [N, 1], "
            f"found {list(labels.shape)}"
        )
    if labels.shape[0] != images.shape[0]:
        raise ValueError(
            f"{images.title} has {images.shape[0]:,} images, but {labels.title} has "
            f"{labels.shape[0]:,} labels"
        )
    return Part(
        functools.partial(_blocks, images, labels, shape),
        lambda index: f"image {index} of {images.title}",
    )


def _image_shape(images: Array, size: tuple[int, int] | None) -> tuple[int, int, int]:
    if len(images.shape) not in (2, 3, 4) or not math.prod(images.shape):
        raise ValueError(
            f"{images.title} must hold images, [N, H, W], [N, H, W, C] or [N, pixels], found "
            f"{list(images.shape)}"
        )
    if math.prod(images.shape[1:]) > MAX_VALUES:
        raise ValueError(
            f"{images.title} has images of {math.prod(images.shape[1:]):,} values, at most "
            f"{MAX_VALUES:,} fit"
        )
    if len(images.shape) == 2:
        return flat_shape(images.shape[1], size, images.title)
    height, width, channels = (*images.shape[1:], 1)[:3]
    channels_first = height in (1, 3) and width == channels >= 8
    if channels > MAX_CHANNELS or channels_first:
        raise ValueError(
            f"{images.title} has {channels} channels, at most {MAX_CHANNELS} fit: they must be the "
            f"last axis of [N, H, W, C], found {list(images.shape)}"
        )
    return height, width, channels


def _blocks(
    images: Array, labels: Array, shape: tuple[int, int, int], keep: np.ndarray | None
) -> Iterator[Block]:
    rows = max(1, BLOCK_BYTES // (math.prod(shape) * images.dtype.itemsize))
    start = 0
    for pixels, values in zip(_read(images, rows), _read(labels, rows), strict=True):
        chosen = slice(None) if keep is None else keep[start : start + len(pixels)]
        start += len(pixels)
        pixels, values = pixels[chosen], values[chosen]
        if len(pixels):
            yield pixels.reshape(-1, *shape), class_names(values.reshape(-1), labels.title)


def _read(array: Array, rows: int) -> Iterator[np.ndarray]:
    """Reads the whole array, `rows` at a time, and that there is nothing behind it."""
    count, *shape = array.shape
    row_bytes = math.prod(shape) * array.dtype.itemsize
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
        if stream.read(1):  # at the end of the file, sums are checked, too
            raise ValueError(f"{array.title} holds more than the {count:,} its header says")


def class_names(values: np.ndarray, title: str) -> list[str]:
    """Returns labels [n] as strings; ValueError for numbers that are no integers."""
    if values.dtype.kind == "S":
        with reading(title):
            return [value.decode() for value in values.tolist()]
    if values.dtype.kind == "f":
        for value in values[~np.isfinite(values) | (values != np.trunc(values))]:
            raise ValueError(f"{title} must hold integers, found {value}")
    if values.dtype.kind != "U":
        return [str(int(value)) for value in values.tolist()]
    return values.tolist()
