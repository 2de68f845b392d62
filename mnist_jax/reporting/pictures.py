"""Arrays as pictures: sheets of many, and the PNG files of them that a page or a log can hold."""

import base64
import io
import math

import numpy as np
from PIL import Image


def sheet(pictures: np.ndarray, columns: int, *, gap: int = 1, ground: int = 128) -> np.ndarray:
    """Lays pictures out in rows, in order.

    Args:
        pictures: uint8 [N, H, W, C], C = 1 or 3, at least one.
        columns: how many a row.
        gap: pixels between two pictures.
        ground: the grey of the gaps and of places without a picture.

    Returns:
        uint8 [rows * (H + gap) - gap, columns * (W + gap) - gap, C].
    """
    _, height, width, channels = pictures.shape
    rows = math.ceil(len(pictures) / columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    canvas = np.full(shape, ground, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = (height + gap) * (number // columns), (width + gap) * (number % columns)
        canvas[top : top + height, left : left + width] = picture
    return canvas


def visible(values: np.ndarray, *, signed: bool = False) -> np.ndarray:
    """Makes numbers of any size visible, all on one scale, so that they can be compared.

    Args:
        values: float [...].
        signed: 0 is grey, negative numbers are darker; otherwise they are black as 0 is, which is
            what a rectifier makes of them.

    Returns:
        uint8 [...]: the number of the largest magnitude is white (or black).
    """
    values = np.asarray(values, np.float32)
    if signed:
        largest = max(float(np.abs(values).max(initial=0)), 1e-12)
        return np.round(127.5 + 127.5 * values / largest).astype(np.uint8)
    largest = max(float(values.max(initial=0)), 1e-12)
    return np.round(255 * values.clip(min=0) / largest).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """Returns the PNG file of a picture, uint8 [H, W, C], C = 1 or 3."""
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def data_url(pixels: np.ndarray) -> str:
    """Returns a picture, uint8 [H, W, C], as a URL that holds it: `<img src="...">`."""
    return f"data:image/png;base64,{base64.b64encode(png(pixels)).decode()}"
