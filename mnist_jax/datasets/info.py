"""The facts about its data that a network has to know."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

LARGEST = 300_000_000  # values of an image: those of the largest image files, in colour
CONTROLS = {*map(chr, (*range(32), *range(127, 160), 0x2028, 0x2029))}


class DataInfo(NamedTuple):
    """The facts about its data that a network has to know.

    Attributes:
        image_shape: (H, W, C).
        label_names: the names of the classes, in order.
        drawing_box: side in pixels of the square that drawings fill, where the images are light
            drawings on black, see `drawing_box`; otherwise 0.
        ground: grey that transparent pictures are laid on, 0 or 255 as most corners of the images
            are. None where each picture gets the one on which it is seen, as drawings do.
    """

    image_shape: tuple[int, ...]
    label_names: tuple[str, ...]
    drawing_box: int = 0
    ground: int | None = None


def data_info(values: Mapping[str, Any]) -> DataInfo:
    """Rebuilds a `DataInfo` from JSON, which has turned its tuples into lists.

    Raises LookupError for a missing value, and ValueError for one that cannot be.
    """
    shape, names, box = (values[name] for name in ("image_shape", "label_names", "drawing_box"))
    ground = values.get("ground")  # older networks lack it
    sizes = shape if isinstance(shape, list | tuple) else ()
    is_shape = (
        len(sizes) == 3
        and all(type(size) is int and size >= 1 for size in sizes)
        and math.prod(sizes) <= LARGEST
    )
    checks = {
        "image_shape": (
            is_shape,
            "a height, a width and a number of channels",
        ),
        "label_names": (
            isinstance(names, list | tuple)
            and all(isinstance(name, str) and not set(name) & CONTROLS for name in names)
            and len(set(names)) == len(names) > 0,
            "different names, without control characters",
        ),
        "drawing_box": (
            type(box) is int and is_shape and 0 <= box <= max(sizes[:2]),
            "0, or pixels a side of a square in the image",
        ),
        "ground": (
            ground is None or (type(ground) is int and ground in (0, 255)),
            "0, 255 or null",
        ),
    }
    for name, (is_right, expected) in checks.items():
        if not is_right:
            raise ValueError(f"{name} must be {expected}, got {values.get(name)!r:.100}")
    return DataInfo(tuple(shape), tuple(names), box, ground)


def describe_images(images: np.ndarray, label_names: tuple[str, ...]) -> DataInfo:
    """Measures the facts, from some of the training images, uint8 [N, H, W, C]."""
    box = drawing_box(images)
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    ground = 255 if np.median(corners) >= 128 else 0
    return DataInfo(tuple(images.shape[1:]), label_names, box, None if box else ground)


def drawing_box(images: np.ndarray) -> int:
    """Tells how a dataset's images are framed, where they are light drawings on black.

    Args:
        images: uint8 [N, H, W, C], some of the training images.

    Returns:
        Pixels a side of the square that the drawings fill: 20 of MNIST. 0 where fewer than nine in
        ten images are such drawings: grey, black at the corners and in a third of their pixels.
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
