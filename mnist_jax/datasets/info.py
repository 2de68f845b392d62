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
    """

    image_shape: tuple[int, ...]
    label_names: tuple[str, ...]
    drawing_box: int = 0


def data_info(values: Mapping[str, Any]) -> DataInfo:
    """Rebuilds a `DataInfo` from JSON, which has turned its tuples into lists.

    Raises ValueError, TypeError or LookupError for values of another kind.
    """
    height, width, channels = values["image_shape"]
    if not isinstance(values["label_names"], list | tuple):
        raise TypeError("label_names must be a list")
    names = tuple(map(str, values["label_names"]))
    return DataInfo((int(height), int(width), int(channels)), names, int(values["drawing_box"]))


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
    touched = images[is_drawing, ..., 0] > 0
    sides = [np.ptp(np.nonzero(drawing), axis=1).max() + 1 for drawing in touched]
    return int(np.median(sides))
