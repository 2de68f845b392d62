"""Arrays as pictures: sheets of several, and PNG files."""

import base64
import io
import math

import numpy as np
from PIL import Image


def sheet(pictures: np.ndarray, columns: int, *, gap: int = 1, ground: int = 128) -> np.ndarray:
    """Lays pictures, uint8 [N, H, W, C], N > 0, out in rows, `gap` pixels apart.

    `ground` is the grey of gaps and empty places. The result is uint8
    [rows * (H + gap) - gap, columns * (W + gap) - gap, C].
    """
    count, height, width, channels = pictures.shape
    rows = math.ceil(count / columns)
    cells = np.full((rows * columns, height + gap, width + gap, channels), ground, np.uint8)
    cells[:count, :height, :width] = pictures
    cells = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    canvas = cells.reshape(rows * (height + gap), -1, channels)
    return canvas[: len(canvas) - gap, : canvas.shape[1] - gap]


def visible(values: np.ndarray, *, signed: bool = False) -> np.ndarray:
    """Scales floats to pixels, uint8, by their largest magnitude.

    With `signed`, 0 is grey and negative numbers are darker; otherwise both are black.
    """
    values = np.asarray(values, np.float32)
    if not signed:
        values = values.clip(min=0)
    largest = max(float(np.abs(values).max(initial=0)), 1e-12)
    black, white = (127.5, 127.5) if signed else (0, 255)
    return np.round(black + white * values / largest).astype(np.uint8)


def to_image(pixels: np.ndarray) -> Image.Image:
    """Converts a picture, uint8 [H, W, C], C = 1, 3 or 4, to Pillow's."""
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)


def png(pixels: np.ndarray) -> bytes:
    """Encodes a picture, uint8 [H, W, C], as PNG."""
    file = io.BytesIO()
    to_image(pixels).save(file, "PNG")
    return file.getvalue()


def data_url(pixels: np.ndarray) -> str:
    """Encodes a picture, uint8 [H, W, C], as a data URL for `<img src="...">`."""
    return f"data:image/png;base64,{base64.b64encode(png(pixels)).decode()}"
