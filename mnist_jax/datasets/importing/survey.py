"""Survey of a source's images: their common shape, range and classes."""

import array
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from mnist_jax.datasets.brightness import ROUNDING, white
from mnist_jax.datasets.importing.class_names import class_name, class_order
from mnist_jax.datasets.importing.pixels import largest_value, resize, set_channels, to_bytes
from mnist_jax.datasets.importing.sources.part import Block, Part, Shape, Size

RANGES = 8  # factor between two parts' largest pixels from which their ranges differ
FEW = 16  # levels of 255; images with fewer are dark by mistake
MOST_SHOWN = 10  # unreadable files in a message


class Survey(NamedTuple):
    """The common properties of a source's images, and their labels."""

    shape: Shape  # of an image, as written
    pixel_range: tuple[float, float] | None  # the values that become 0 and 255; None keeps bytes
    label_names: list[str]
    labels: dict[str, np.ndarray]  # by part, int32 [N]
    largest: float  # the largest pixel
    spellings: list[list[str]]  # of each class that has several


def survey_parts(
    parts: Mapping[str, Part],
    size: Size,
    channels: int | None,
    pixel_range: tuple[float, float] | None,
    skip_unreadable: bool,
) -> Survey:
    """Reads and checks all images once; other arguments are `import_dataset`'s.

    Raises ValueError if images are damaged, differ in size or type, or have fewer than two classes.
    """
    codes: dict[str, int] = {}  # of the classes, in order of appearance
    spellings: dict[str, set[str]] = {}
    coded: dict[str, array.array] = {title: array.array("i") for title in parts}
    shapes: dict[tuple[int, ...], str] = {}  # with an example's name
    # By part and type: the largest pixel, and its image's name.
    values: dict[tuple[str, np.dtype], tuple[float, str]] = {}
    for title, part in parts.items():
        labels = coded[title]
        for images, names in progress(part.blocks(None), f"checking {title}"):
            first = part.where(len(labels))
            shape = *(size or images.shape[1:3]), images.shape[3]
            shapes.setdefault(shape, first)
            (one, title_of_one), *_ = shapes.items()
            if shape[:2] != one[:2]:
                raise ValueError(
                    f"{title_of_one} is {one[0]}x{one[1]}, {first} is {shape[0]}x{shape[1]}: "
                    "images must be of one size; --size HEIGHT WIDTH scales them"
                )
            if shape != one and {shape[2], one[2]} != {1, 3}:
                raise ValueError(f"{title_of_one} has {one[2]} channels, {first} has {shape[2]}")
            largest = largest_value(images, pixel_range, part.where, len(labels))
            kind = title, images.dtype
            if kind not in values or largest > values[kind][0]:
                values[kind] = largest, f"{first} ({images.dtype})"
            labels.extend([codes.setdefault(class_name(name), len(codes)) for name in names])
            for name in set(names):
                spellings.setdefault(class_name(name), set()).add(name)
    unreadable = [line for part in parts.values() for line in part.unreadable]
    if unreadable and not skip_unreadable:
        count, are_many = len(unreadable), len(unreadable) > 1
        raise ValueError(
            (f"{count:,} images cannot be read: " if are_many else "")
            + "; ".join([*unreadable[:MOST_SHOWN], *["..."] * (count > MOST_SHOWN)])
            + f"; --skip-unreadable leaves {'them' if are_many else 'it'} out"
        )
    for title, part in parts.items():
        if not coded[title]:
            raise ValueError(f"there are no images: {part.where(0)} is missing")
    height, width, own_channels = max(shapes, key=lambda shape: shape[2])
    if channels and own_channels not in (1, 3):
        raise ValueError(f"images of {own_channels} channels cannot be converted to {channels}")
    label_names = class_order(codes)
    order = np.empty(len(codes), np.int32)
    order[[codes[name] for name in label_names]] = np.arange(len(codes))
    return Survey(
        (height, width, channels or own_channels),
        pixel_range or _found_range(values),
        label_names,
        {title: order[np.frombuffer(labels, np.int32)] for title, labels in coded.items()},
        max(largest for largest, _ in values.values()),
        [sorted(spellings[name]) for name in label_names if len(spellings[name]) > 1],
    )


def _found_range(
    values: Mapping[tuple[str, np.dtype], tuple[float, str]],
) -> tuple[float, float] | None:
    """Returns the values of black and white; None to keep bytes.

    Raises ValueError if images are black, or a part or type has a different range.
    """
    (dark, dark_title), (bright, bright_title) = min(values.values()), max(values.values())
    top = white(bright)
    if not dark:
        raise ValueError(
            f"every pixel is 0, as in {dark_title}; if they were divided and rounded to integers, "
            "import the originals"
        )
    if dark * RANGES <= bright:
        raise ValueError(
            f"pixels go up to {bright:g} in {bright_title}, but only to {dark:g} in {dark_title}; "
            "scale all alike, or give black and white with --pixel-range"
        )
    if bright * 255 <= FEW * top * (1 - ROUNDING):
        raise ValueError(
            f"the largest pixel is {bright:.4g}, in {bright_title}, but white would be {top}: were "
            f"they divided twice? Give the value of white: --pixel-range 0 {bright:.4g}"
        )
    return None if top == 255 and all(kind == np.uint8 for _, kind in values) else (0, top)


def surveyed(images: np.ndarray, survey: Survey, part: Part) -> np.ndarray:
    """Converts a block of a part's images to uint8 [n, *survey.shape]."""
    if survey.pixel_range:
        largest_value(images, survey.pixel_range, part.where)
        images = to_bytes(images, survey.pixel_range)
    if images.shape[1:3] != survey.shape[:2]:
        images = resize(images, survey.shape[:2])
    if images.shape[3] != survey.shape[2]:
        images = set_channels(images, survey.shape[2])
    return np.ascontiguousarray(images)


def progress(blocks: Iterator[Block], title: str) -> Iterator[Block]:
    """Yields blocks, with a progress bar if stderr is a terminal."""
    with tqdm(desc=title, unit=" images", leave=False, disable=None) as progress:
        for images, names in blocks:
            yield images, names
            progress.update(len(names))
