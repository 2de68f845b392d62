"""Images and labels from a user's own arrays or batches."""

import errno
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mnist_jax.datasets.brightness import white
from mnist_jax.datasets.streamed import StreamedImages, stream_file
from mnist_jax.messages import one_line

PARTS = ("train", "validation", "test")
DIM = 0.1  # fraction of white; darker images were divided twice, or hold 0 to 16


class Split(NamedTuple):
    """Images uint8 or float32 in [0, 1] [N, H, W, C], maybe `StreamedImages`; labels int32 [N]."""

    images: Any
    labels: np.ndarray


def as_parts(given: Any) -> dict[str, Split]:
    """Checks a user's "train" part, and "validation" and "test" if given.

    Warns if training images are almost black or never have label 0.

    Args:
        given: a mapping from these names to (images, labels) or iterables of batches. Images are
            [N, H, W, C] or [N, H, W], integers 0 to 255 or floats in [0, 1]; labels are int [N]. A
            batch is such a pair or {"image": ..., "label": ...}. Batches are read once, into a
            temporary file.

    Raises ValueError for different data.
    """
    if not isinstance(given, Mapping):
        expected = '{"train": (images, labels), ...} or a tfds builder'
        raise ValueError(f"splits must be {expected}, got {_spelled(given)}")
    if {*given} - {*PARTS} or "train" not in given:
        expected = '"train", optionally "validation" and "test"'
        raise ValueError(f"splits must have {expected}, got {[*given]}")
    parts: dict[str, Split] = {}
    for name in (name for name in PARTS if name in given):
        try:
            parts[name] = _as_split(given[name])
        except ValueError as error:
            raise ValueError(f"splits: {name}: {one_line(error)}") from error
    first = parts["train"].images
    for name, split in parts.items():
        if _kind(split.images) != _kind(first):
            raise ValueError(
                "splits must hold images of one shape and type, found "
                f"{_kind(first)} in train and {_kind(split.images)} in {name}"
            )
    some = first[np.arange(min(len(first), 1000))]
    white_value = 255 if first.dtype == np.uint8 else 1
    if 0 < some.max() < DIM * white_value:
        warnings.warn(
            f"the images of train are almost black: their maximum is {some.max():.2g}, but white "
            f"is {white_value}; scale them",
            stacklevel=2,
        )
    if 0 not in parts["train"].labels:
        warnings.warn(
            "label 0 does not occur in train; if classes are numbered from 1, subtract 1",
            stacklevel=2,
        )
    return parts


def check_parts(splits: Mapping[str, Any]) -> dict[str, Any]:
    """Checks splits like `as_parts`; ValueError without a validation part."""
    parts = as_parts(splits)
    if "validation" not in parts:
        raise ValueError(f'splits must have "train" and "validation", got {[*splits]}')
    return {**parts}


def check_labels(splits: Mapping[str, Split], num_classes: int) -> None:
    """Raises ValueError if a label is not one of a model's classes."""
    for name, split in splits.items():
        if (largest := split.labels.max()) >= num_classes:
            raise ValueError(
                f"a label of {name} is {largest}, but there are {num_classes} classes: labels must "
                f"be 0 to {num_classes - 1}"
            )


def as_pixels(images: Any) -> Any:
    """Converts images to uint8, or to float32 in [0, 1], of the same shape.

    Raises ValueError unless they are an array of integers 0 to 255 or floats in [0, 1].
    """
    if isinstance(images, StreamedImages):
        return images
    try:
        images = np.asarray(images)
    except (TypeError, ValueError, RuntimeError) as error:  # several lengths, on a GPU, ...
        raise ValueError(f"images must be an array of one size: {one_line(error):.200}") from error
    if images.dtype.kind == "V" and jnp.issubdtype(images.dtype, jnp.floating):  # bfloat16
        images = images.astype(np.float32)
    expected = f"images must be integers 0 to 255, or floats 0 to 1, got {images.dtype}"
    if images.dtype.kind not in "buif":
        files = "; predict_files takes image files" if images.dtype.kind in "US" else ""
        raise ValueError(f"{expected} {list(images.shape)}{files}")
    if images.dtype == bool:
        return images.astype(np.uint8) * np.uint8(255)
    if images.dtype == np.uint8 or not images.size:
        return images.astype(np.uint8, copy=False)
    largest = 1 if images.dtype.kind == "f" else 255
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= largest):  # also for nan
        divisor = white(float(high))
        is_scaled = low >= 0 and 1 < divisor < 2 * float(high) < 2**17
        scale = f"; divide them by {divisor}" if is_scaled else ""
        raise ValueError(f"{expected} {low} to {high}{scale}")
    return images.astype(np.float32 if largest == 1 else np.uint8)


def as_bytes(images: np.ndarray) -> np.ndarray:
    """Rounds images, uint8 or floats in [0, 1], to uint8."""
    return images if images.dtype == np.uint8 else np.rint(255 * images).astype(np.uint8)


def _as_split(given: Any) -> Split:
    if isinstance(given, Mapping):
        given = _pair(given)
    are_batches = isinstance(given, tuple | list) and all(map(_is_batch, given))
    if isinstance(given, tuple | list) and len(given) == 2 and not are_batches:
        return _checked(*given)
    is_other = isinstance(given, tuple | str) and not are_batches
    if is_other or not isinstance(given, Iterable) or hasattr(given, "shape"):
        raise ValueError(
            f"expected (images, labels) or an iterable of batches, got {_spelled(given)}"
        )
    if isinstance(given, Iterator):
        raise ValueError(
            f"{_spelled(given)} can be read only once, but resuming and verifying read it again; "
            "give a list, or an object whose __iter__ starts again"
        )
    try:
        return _spooled(given)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(
            f"{tempfile.gettempdir()} is too full for the images; set TMPDIR to a directory with "
            "free space"
        ) from error


def _is_batch(value: Any) -> bool:
    """Distinguishes a batch, in a list of two, from images or labels."""
    if isinstance(value, Mapping):
        return True
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    try:
        return np.ndim(value[0]) >= 3 > np.ndim(value[1]) >= 1
    except (TypeError, ValueError, RuntimeError):  # not an array, or not of one size
        return False


def _pair(batch: Any) -> tuple[Any, Any]:
    """Returns a batch's images and labels; ValueError if it is not a batch."""
    if isinstance(batch, Mapping) and {"image", "label"} <= {*batch}:
        return batch["image"], batch["label"]
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    expected = 'a batch must be (images, labels) or {"image": images, "label": labels}'
    raise ValueError(f"{expected}, got {_spelled(batch)}")


def _checked(images: Any, labels: Any) -> Split:
    """Checks one part or batch; ValueError if it is not images with labels."""
    images = as_pixels(images)
    try:
        labels = np.asarray(labels)
    except (TypeError, RuntimeError) as error:  # on a GPU, ...
        raise ValueError(f"labels must be an array: {one_line(error)}") from error
    if len(images.shape) == 3 and not isinstance(images, StreamedImages):
        images = images[..., None]
    shape = (*images.shape,)
    if len(shape) != 4 or not all(shape):
        raise ValueError(f"images must be [N, H, W, C] or [N, H, W], got {[*shape]}")
    if shape[1] <= 4 < min(shape[2:]):
        raise ValueError(
            f"images must be [N, H, W, C], got {[*shape]} with channels first; use "
            "np.moveaxis(images, 1, -1)"
        )
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    is_whole = labels.dtype.kind in "iu" or (
        labels.dtype.kind == "f" and np.array_equal(labels, np.rint(labels))
    )
    if labels.shape != (len(images),) or not is_whole:
        hints = {0: "; give batches of examples", 2: "; convert one-hot labels by .argmax(axis=1)"}
        raise ValueError(
            f"labels must be whole numbers, [{len(images)}] like the images, got {labels.dtype} "
            f"{[*labels.shape]}{hints.get(labels.ndim, '')}"
        )
    if not (labels.min() >= 0 and labels.max() < 2**31):
        got = f"{labels.min()} to {labels.max()}"
        raise ValueError(f"labels must be 0 or more, and below 2**31, got {got}")
    return Split(images, labels.astype(np.int32))


def _spooled(batches: Iterable[Any]) -> Split:
    """Reads all batches into a temporary file."""
    labels: list[np.ndarray] = []
    first: Any = None
    with tempfile.TemporaryDirectory(prefix="mnist_jax-") as directory:
        path = Path(directory, "images")
        with path.open("wb") as file:
            for batch in batches:
                split = _checked(*_pair(batch))
                images = np.ascontiguousarray(split.images)
                first = images if first is None else first
                if _kind(images) != _kind(first):
                    found = f"{_kind(first)} and {_kind(images)}"
                    raise ValueError(f"images must have one shape and type, got {found}")
                file.write(images.data)
                labels.append(split.labels)
        if first is None:
            raise ValueError("the iterable has no batches")
        shape = (sum(map(len, labels)), *first.shape[1:])
        streamed = stream_file(path, 0, shape, first.dtype)
    return Split(streamed, np.concatenate(labels))


def _kind(images: Any) -> str:
    return f"{images.dtype} {[*images.shape[1:]]}"


def _spelled(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, Mapping):
        return f"{kind} of {', '.join(map(repr, value)):.100}"
    if isinstance(value, tuple | list):
        return f"{kind} of {', '.join(type(item).__name__ for item in value):.100}"
    described = [*value.shape] if hasattr(value, "shape") else one_line(value)
    return f"{kind} {described!s:.100}"
