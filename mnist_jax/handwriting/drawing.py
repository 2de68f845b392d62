"""Preparation of pictures of handwriting like MNIST's images.

References:
    http://yann.lecun.com/exdb/mnist/: digits fit in a 20x20 box, "preserving their aspect ratio",
    and are "centered in a 28x28 image by computing the center of mass of the pixels".
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from mnist_jax.datasets.info import drawing_box

THIN, THICK = 2.0, 4.0  # pixels of 20: the stroke widths of nearly all MNIST digits
SOFTNESS = 0.4  # pixels of blur: MNIST is softer than a reduced picture
GREY = 16  # levels of 255 by which grey's channels may differ, after JPEG
SHORTEST = 0.5  # fraction of the box; smaller drawings have too few pixels
SHOWN = 280  # pixels: height of pictures side by side


class Drawing(NamedTuple):
    """A network's input, made of a picture."""

    pixels: np.ndarray  # uint8 [H, W, C]
    problem: str = ""  # reason for doubt, if any
    blank: bool = False  # True if nothing is drawn


def prepare_drawing(picture: Image.Image, image_shape: tuple[int, ...], box: int) -> Drawing:
    """Turns the drawing in a photograph or scan into an image like MNIST's.

    Paper of any colour and light is removed; strokes may be light or dark. The drawing's longer
    side fills the box, and its centre of mass is centred. Unusually thin or thick strokes are
    adjusted. A picture that is already such an image is not changed.

    The picture has mode "L" or "RGB" and any size; `image_shape` is (H, W, 1); drawings fill a
    square of the side `box`, from `drawing_box`.
    """
    is_size = picture.size == (image_shape[1], image_shape[0])
    if is_size and (pixels := _as_it_is(picture, box)) is not None:
        return Drawing(pixels)
    # slow to import
    from mnist_jax.handwriting.clean import find_clean_ink
    from mnist_jax.handwriting.ink import find_ink, overview

    view = overview(picture)
    ink = find_clean_ink(picture, view) or find_ink(picture, view)
    if ink is None or not ink.mask.any():
        return Drawing(np.zeros(image_shape, np.uint8), "blank: nothing is drawn on it", blank=True)
    pixels = _centred(_fitted(ink.mask, box), image_shape)
    problem = ""
    if ink.things > 1:
        problem = f"there are {ink.things} things on it"
    elif ink.length < SHORTEST * box:
        least = f"{SHORTEST * box:.0f} or more: give a larger picture"
        problem = f"it is only {ink.length:.0f} pixels large; expected {least}"
    return Drawing(pixels, problem)


def prepare_picture(picture: Image.Image, image_shape: tuple[int, ...]) -> np.ndarray:
    """Scales a picture and converts its colours: uint8 [H, W, C].

    Raises ValueError unless C is 1 or 3.
    """
    height, width, channels = image_shape
    if channels not in (1, 3):
        raise ValueError(f"an image file has 1 or 3 channels, the network is for {channels}")
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(image_shape)


def side_by_side(picture: Image.Image, pixels: np.ndarray) -> Image.Image:
    """Draws a picture beside a network's enlarged input, uint8 [H, W, C]."""
    seen = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    seen = seen.resize((round(SHOWN * seen.width / seen.height), SHOWN), Image.Resampling.NEAREST)
    width = max(1, min(4 * SHOWN, round(SHOWN * picture.width / picture.height)))
    sheet = Image.new("RGB", (width + 10 + seen.width, SHOWN), "grey")
    sheet.paste(picture.convert("RGB").resize((width, SHOWN)), (0, 0))
    sheet.paste(seen, (width + 10, 0))
    return sheet


def _as_it_is(picture: Image.Image, box: int) -> np.ndarray | None:
    """Returns the pixels, uint8 [H, W, 1], of a picture that is already like the dataset's images.

    It may be in colour, or dark on light. Returns None for other pictures.
    """
    pixels = np.asarray(picture)
    if pixels.ndim == 3:
        if np.ptp(pixels, axis=2).max() > GREY:
            return None
        pixels = np.asarray(picture.convert("L"))
    for image in (pixels, 255 - pixels):
        if 0.9 * box <= drawing_box(image[None, ..., None]) <= 1.1 * box:
            ink = image.astype(float) * (image >= 32)
            offset = np.subtract(_middle(ink / ink.sum()), np.divide(ink.shape, 2))
            # Drawings that nearly fill the image are always centred.
            if abs(offset).max() <= 1 or box > 0.8 * max(ink.shape):
                return image[..., None]
    return None


def _fitted(mask: np.ndarray, box: int) -> np.ndarray:
    """Scales strokes, bool [h, w], to float32 [h', w'] in [0, 1], the longer side `box`.

    The distance to the outline gives the strokes another width.
    """
    from mnist_jax.handwriting.ink import bounds, ndimage  # slow to import

    mask = np.pad(mask, len(mask) // 4 + 8)
    inside, outside = map(ndimage.distance_transform_edt, (mask, ~mask))
    top, left, bottom, right = bounds(mask)
    size = max(bottom - top, right - left)
    stroke = 4 * inside[mask].mean()  # the mean distance to the edge is a quarter of the width
    wanted = np.clip(stroke * box / size, THIN * box / 20, THICK * box / 20)
    # Moving the outline by m widens strokes, and the whole, by 2 m.
    move = (wanted * size - box * stroke) / (2 * (box - wanted))
    distance = ndimage.gaussian_filter(np.where(mask, inside - 0.5, 0.5 - outside), 1)
    cover = (distance + move + 0.5).clip(0, 1).astype(np.float32)
    top, left, bottom, right = bounds(cover > 0.02)
    scale = box / max(bottom - top, right - left)
    cover = Image.fromarray(ndimage.gaussian_filter(cover, SOFTNESS / scale))
    height, width = (max(1, round(side * scale)) for side in (bottom - top, right - left))
    pixels = np.asarray(
        cover.resize((width, height), Image.Resampling.BOX, (left, top, right, bottom))
    )
    return pixels / pixels.max()


def _centred(drawing: np.ndarray, image_shape: tuple[int, ...]) -> np.ndarray:
    """Centres a drawing, float [h, w] in [0, 1], in an image by its centre of mass."""
    image = np.zeros(image_shape, np.uint8)
    place = []
    for middle, side, room in zip(
        _middle(drawing / drawing.sum()), drawing.shape, image_shape, strict=False
    ):
        start = int(np.clip(round(room / 2 - middle), 0, room - side))
        place.append(slice(start, start + side))
    image[tuple(place)] = np.round(255 * drawing)[..., None]
    return image


def _middle(mass: np.ndarray) -> list[float]:
    """Returns the centre of mass of an image [h, w] that sums to 1."""
    return [mass.sum(axis=1 - axis) @ np.arange(side) for axis, side in enumerate(mass.shape)]
