"""Image files as upright grey or colour pictures, whatever they hold."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

# What Pillow reads by itself. Not EPS: that would be a program, run by Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# More than any camera takes, and 300 MB in colour: a small file can claim any size.
MAX_PIXELS = 100_000_000


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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked here, and of odd metadata
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise ValueError(f"it has {width}x{height} pixels, at most {MAX_PIXELS:,} fit")
                image.load()
                return _flat(ImageOps.exif_transpose(image))
    except PermissionError:
        raise
    except Image.UnidentifiedImageError:
        raise ValueError(
            f"{path} is no image that can be read: expected {', '.join(FORMATS)}"
        ) from None
    except Exception as error:  # a damaged file makes decoders fail in many ways
        raise ValueError(f"{path} cannot be read as an image: {error}") from error


def _flat(image: Image.Image) -> Image.Image:
    """Grey or colour of 8 bits, without transparency."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float64)
        white = next(
            (white for white in (1, 255) if image.mode == "F" and values.max() <= white), 65535
        )
        return Image.fromarray((values / white * 255).clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        pixels = np.asarray(image, np.float32)
        alpha = pixels[..., 3:] / 255
        visible = (pixels[..., :3] * alpha).sum() / (3 * max(float(alpha.sum()), 1e-6))
        ground = Image.new("RGBA", image.size, "white" if visible < 128 else "black")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
