"""The facts about its data that a network has to know."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


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

    Raises ValueError, TypeError or LookupError for values of another kind.
    """
    height, width, channels = values["image_shape"]
    if not isinstance(values["label_names"], list | tuple):
        raise TypeError("label_names must be a list")
    names = tuple(map(str, values["label_names"]))
    shape = int(height), int(width), int(channels)
    ground = values.get("ground")  # older networks lack it
    if ground not in (None, 0, 255):
        raise ValueError(f"ground must be 0, 255 or null, got {ground!r}")
    return DataInfo(shape, names, int(values["drawing_box"]), ground)


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
