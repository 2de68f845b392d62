"""Image files as upright grey or colour pictures, whatever they hold."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, ImageStat

# What Pillow reads by itself. Not EPS: that would be a program, run by Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# More than any camera takes, and 300 MB in colour: a small file can claim any size.
MAX_PIXELS = 100_000_000


class TooManyPixelsError(ValueError):
    """An image is larger than what is to be kept in memory; it was not decoded."""


def read_image(path: str | Path) -> Image.Image:
    """Reads an image file: the first picture of it, upright as its EXIF tells.

    What is transparent becomes white, or black where the visible part is lighter than grey, so that
    a drawing is seen on it. 16 bits a channel become 8.

    Returns:
        A picture of mode "L" (grey) or "RGB".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image of `FORMATS`, is damaged, or has more than `MAX_PIXELS` pixels.
    """
    path = Path(path)
    if not path.is_file():
        if path.exists():
            raise ValueError(f"{path} is no file; expected an image")
        raise FileNotFoundError(f"there is no image {str(path)!r}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes, which are checked here, and of odd metadata
        return decode_image(path, str(path))


def decode_image(source: Path | BinaryIO, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads an image like `read_image`, also from an open file; passes on Pillow's warnings.

    Args:
        source: an image file.
        name: the file's name in messages.
        max_pixels: the largest picture that is decoded.

    Raises:
        TooManyPixelsError: it says that it is larger.
        ValueError: it is no image of `FORMATS`, or is damaged.
    """
    try:
        with Image.open(source, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise TooManyPixelsError(
                    f"it has {width}x{height} pixels, at most {max_pixels:,} fit"
                )
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # a copy only of what is turned
            return _flat(image)
    except PermissionError:
        raise
    except Image.UnidentifiedImageError:
        raise ValueError(
            f"{name} is no image that can be read: expected {', '.join(FORMATS)}"
        ) from None
    except Exception as error:  # a damaged file makes decoders fail in many ways
        too_many = isinstance(error, TooManyPixelsError | Image.DecompressionBombError)
        kind = TooManyPixelsError if too_many else ValueError
        raise kind(f"{name} cannot be read as an image: {error}") from error


def _flat(image: Image.Image) -> Image.Image:
    """Grey or colour of 8 bits, without transparency."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.array(image, np.float32)  # a large one: the rest happens in place
        white = next(
            (white for white in (1, 255) if image.mode == "F" and values.max() <= white), 65535
        )
        values *= 255 / white
        np.rint(values.clip(0, 255, out=values), out=values)
        return Image.fromarray(values.astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        on_black = _on("black", image)
        alpha = ImageStat.Stat(image.getchannel("A")).mean[0] / 255
        if np.mean(ImageStat.Stat(on_black).mean) >= 128 * alpha:
            return on_black
        del on_black
        return _on("white", image)
    mode = "L" if image.mode in ("1", "L") else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _on(ground: str, image: Image.Image) -> Image.Image:
    """Lays an RGBA image on a ground."""
    flat = Image.new("RGB", image.size, ground)
    flat.paste(image, mask=image.getchannel("A"))
    return flat
