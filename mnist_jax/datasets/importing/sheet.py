"""A sheet of each class's first image, with its name."""

import itertools
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MOST = 200  # classes on a sheet
CELL, TITLE, COLUMNS = 64, 16, 10  # pixels of an image and its name; images side by side
GREYS = " .:-=+*#%@"


def draw_sheet(images: Mapping[str, np.ndarray]) -> Image.Image:
    """Draws images, uint8 [H, W, C] by class name, each below its name."""
    rows = -(-len(images) // COLUMNS)
    size = min(len(images), COLUMNS) * (CELL + 8) + 8, rows * (CELL + TITLE + 8) + 8
    sheet = Image.new("RGB", size, "slategrey")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for index, (name, image) in enumerate(images.items()):
        left, top = index % COLUMNS * (CELL + 8) + 8, index // COLUMNS * (CELL + TITLE + 8) + 8
        while draw.textlength(name, font) > CELL:
            name = name.removesuffix("…")[:-1] + "…"
        draw.text((left, top), name, "white", font)
        picture = Image.fromarray(image) if image.shape[-1] == 3 else _grey(image)
        scale = CELL / max(picture.size)
        smooth = Image.Resampling.BILINEAR if scale < 1 else Image.Resampling.NEAREST
        width, height = (max(1, round(side * scale)) for side in picture.size)
        sheet.paste(picture.resize((width, height), smooth), (left, top + TITLE))
    return sheet


def as_text(images: Mapping[str, np.ndarray], width: int) -> list[str]:
    """Draws images in characters, side by side up to the width."""
    lines, columns = [], 28
    for first in range(0, len(images), count := max(1, width // (columns + 2))):
        some = [*images.items()][first : first + count]
        blocks = [[name[:columns], *_characters(image, columns)] for name, image in some]
        for row in itertools.zip_longest(*blocks, fillvalue=""):
            lines.append("  ".join(f"{part:{columns}}" for part in row).rstrip())
    return lines


def _characters(image: np.ndarray, columns: int) -> list[str]:
    """Draws an image in characters, which are about twice as high as wide."""
    grey = _grey(image)
    rows = max(1, min(columns, round(columns * grey.height / grey.width / 2)))
    values = np.asarray(grey.resize((columns, rows), Image.Resampling.BILINEAR)).astype(int)
    return ["".join(GREYS[value * len(GREYS) // 256] for value in row).rstrip() for row in values]


def _grey(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image.mean(-1).astype(np.uint8))
