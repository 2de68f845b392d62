"""Facts about a network's data, saved with the network."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mnist_jax.datasets.arrays import as_bytes

LARGEST = 300_000_000  # values per image: the largest image files, in colour
CONTROLS = {*map(chr, (*range(32), *range(127, 160), 0x2028, 0x2029))}


class DataInfo(NamedTuple):
    """Facts about a network's data.

    Attributes:
        image_shape: (H, W, C).
        label_names: the classes' names, in order.
        drawing_box: the result of the function `drawing_box`.
        ground: grey behind transparent pictures: 0 or 255, like most corners of the images; None
            for drawings, which get one on which they stand out.
        brightness: the result of the function `brightness`; None if unknown.
    """

    image_shape: tuple[int, ...]
    label_names: tuple[str, ...]
    drawing_box: int = 0
    ground: int | None = None
    brightness: tuple[float, float, float] | None = None


def data_info(values: Mapping[str, Any]) -> DataInfo:
    """Rebuilds a `DataInfo` from JSON; LookupError if a value is missing, ValueError if invalid."""
    shape, names, box = (values[name] for name in ("image_shape", "label_names", "drawing_box"))
    ground, bright = values.get("ground"), values.get("brightness")  # older networks lack them
    sizes = shape if isinstance(shape, list | tuple) else ()
    is_shape = (
        len(sizes) == 3
        and all(type(size) is int and size >= 1 for size in sizes)
        and math.prod(sizes) <= LARGEST
    )
    are_names = (
        isinstance(names, list | tuple)
        and all(isinstance(name, str) and not set(name) & CONTROLS for name in names)
        and len(set(names)) == len(names) > 0
    )
    is_box = type(box) is int and is_shape and 0 <= box <= max(sizes[:2])
    is_ground = ground is None or (type(ground) is int and ground in (0, 255))
    is_brightness = bright is None or (
        isinstance(bright, list | tuple)
        and len(bright) == 3
        and all(type(value) in (int, float) and 0 <= value <= 1 for value in bright)
        and bright[0] <= bright[1]
    )
    measures = "null, or the least mean, the greatest mean and the least maximum, in [0, 1]"
    for name, is_right, expected in (
        ("image_shape", is_shape, "a height, a width and a number of channels"),
        ("label_names", are_names, "different names, without control characters"),
        ("drawing_box", is_box, "0, or the side in pixels of a square in the image"),
        ("ground", is_ground, "0, 255 or null"),
        ("brightness", is_brightness, measures),
    ):
        if not is_right:
            raise ValueError(f"{name} must be {expected}, got {values.get(name)!r:.100}")
    bright = None if bright is None else (*bright,)
    return DataInfo(tuple(shape), tuple(names), box, ground, bright)


def describe_images(images: np.ndarray, label_names: tuple[str, ...]) -> DataInfo:
    """Measures a `DataInfo` on some training images, uint8 or float [N, H, W, C]."""
    images = as_bytes(images)
    box = drawing_box(images)
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    ground = None if box else 255 if np.median(corners) >= 128 else 0
    return DataInfo(tuple(images.shape[1:]), label_names, box, ground, brightness(images))


def drawing_box(images: np.ndarray) -> int:
    """Measures the square that light drawings on black fill, in images uint8 [N, H, W, C].

    Returns its side in pixels (20 for MNIST), or 0 if under nine in ten images are such drawings:
    grey, and black at the corners and in a third of the pixels.
    """
    if images.shape[-1] != 1:
        return 0
    ink = images[..., 0] >= 32
    corners = ink[:, [0, 0, -1, -1], [0, -1, 0, -1]].any(axis=1)
    is_drawing = ~corners & (ink.mean(axis=(1, 2)) < 2 / 3) & (images.max(axis=(1, 2, 3)) >= 128)
    if is_drawing.mean() < 0.9:
        return 0
    sides = [np.ptp(np.nonzero(drawing), axis=1).max() + 1 for drawing in ink[is_drawing]]
    return int(np.median(sides))


def brightness(images: np.ndarray) -> tuple[float, float, float] | None:
    """Measures the brightness of images, uint8 [N, H, W, C], that are not blank.

    Returns the 1 % and 99 % quantiles of their means and the 1 % quantile of their maxima, in
    [0, 1]; None for fewer than 100 images.
    """
    means, peaks = _means_and_peaks(images)
    if len(means) < 100:
        return None
    low, high = np.quantile(means, [0.01, 0.99])
    return round(float(low), 4), round(float(high), 4), round(float(np.quantile(peaks, 0.01)), 4)


def unlike(images: np.ndarray, expected: tuple[float, float, float]) -> str:
    """Describes how images, uint8 or float32 in [0, 1] [N, H, W, C], differ from a dataset.

    They do if half of them are brighter or darker than 99 % of the dataset's, whose `brightness` is
    expected; fewer than ten, by a factor of 3. Blank images do not count. Returns "" if they match.
    """
    means, peaks = _means_and_peaks(images)
    if not len(means):
        return ""
    mean, peak = float(np.median(means)), float(np.median(peaks))
    low, high, least = expected
    slack = 3 if len(means) < 10 else 1.1
    if peak * slack < least:
        remedy = "scale them to integers that fill 0 to 255, or floats 0 to 1"
    elif mean * slack < low or mean > high * slack:
        remedy = "invert them if light and dark are exchanged, or compare them with the dataset's"
    else:
        return ""
    return (
        "the images do not match the dataset that the network was trained on: on a scale of 0 to 1 "
        f"their maximum is {peak:.2g} and their mean {mean:.2g}, expected {least:.2g} or more and "
        f"{low:.2g} to {high:.2g}; {remedy}"
    )


def _means_and_peaks(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the means and maxima, in [0, 1], of images that are not blank."""
    scale = 255 if images.dtype == np.uint8 else 1
    peaks = images.max(axis=(1, 2, 3))
    return images.mean(axis=(1, 2, 3))[peaks > 0] / scale, peaks[peaks > 0] / scale
