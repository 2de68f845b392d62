"""Conversion of images to bytes: brightness, size and colour."""

from collections.abc import Callable

import numpy as np

from mnist_jax.datasets.brightness import ROUNDING, WHITES


def largest_value(
    images: np.ndarray,
    pixel_range: tuple[float, float] | None,
    where: Callable[[int], str],
    first: int = 0,
) -> float:
    """Checks images, real [n, H, W, C], and returns their largest pixel.

    The range is by default 0 to the largest of `WHITES`. Raises ValueError if a pixel is outside or
    not a number; `where` names images by index, from `first`.
    """
    if images.dtype == np.uint8 and not pixel_range:
        return float(images.max())
    low, high = pixel_range or (0, WHITES[-1])
    with np.errstate(over="ignore"):  # of long doubles
        values = images.astype(np.float64)
    most = low + (high - low) * (1 + ROUNDING)
    is_good = (values >= low) & (values <= most)  # both false for nan
    if not is_good.all():
        index = int(np.argmin(is_good.reshape(len(images), -1).all(axis=1)))
        value = images[index][~is_good[index]][0]
        hint = "; --pixel-range BLACK WHITE sets another range"
        if pixel_range or not np.isfinite(value):
            hint = ""
        elif images.dtype == np.int8:
            hint = "; bytes were saved as int8: save them as uint8"
        title = where(first + index)
        raise ValueError(f"{title} has a pixel of {value}; expected {low:g} to {high:g}{hint}")
    return float(values.max())


def to_bytes(images: np.ndarray, pixel_range: tuple[float, float]) -> np.ndarray:
    """Scales images, real [n, H, W, C], from a range to uint8, 0 to 255."""
    low, high = pixel_range
    scaled = (images.astype(np.float64) - low) * 255 / (high - low)
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def resize(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scales images, uint8 [n, h, w, C], to [n, H, W, C].

    A pixel is the mean of all that it covers, weighted by a triangle.

    References:
        https://pillow.readthedocs.io/en/stable/handbook/concepts.html#filters (BILINEAR)
    """
    from PIL import Image  # slow

    scaled = np.empty((len(images), *size, images.shape[-1]), np.uint8)
    for index, channel in np.ndindex(len(images), images.shape[-1]):
        picture = Image.fromarray(images[index, ..., channel])
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        scaled[index, ..., channel] = np.asarray(picture)
    return scaled


def set_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Converts images, uint8 [n, H, W, 1 or 3], to grey (1 channel) or colour (3).

    Grey is Pillow's luma of ITU-R BT.601: 0.299 red + 0.587 green + 0.114 blue.
    """
    from PIL import Image  # slow

    if channels == 3:
        return np.repeat(images, 3, axis=-1)
    grey = [np.asarray(Image.fromarray(image).convert("L")) for image in images]
    return np.stack(grey)[..., None]
