"""Image files, read as upright grey or colour pictures."""

import contextlib
import functools
import importlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from mnist_jax.datasets.brightness import white
from mnist_jax.datasets.file_kinds import describe_file

# Not EPS, which is a program for Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_PIXELS = 100_000_000  # 300 MB in colour; small files can claim any size
# Pillow drops the low bytes of 16-bit colours, or with the other byte order the high ones.
OTHER_BYTES = {
    f"{mode};16{a}": f"{mode};16{b}" for mode in ("RGB", "RGBA") for a, b in ("BL", "LB")
}
OTHER_BYTES["LA;16B"] = "RGBA"
FAINT = 16  # as in scikit-learn's digits; 8-bit images up to here are scaled


class TooManyPixelsError(ValueError):
    """An image that is too large for memory; it was not decoded."""


def image_suffixes() -> tuple[str, ...]:
    """Returns the lower-case suffixes of image files, including HEIC and AVIF."""
    Image.init()
    known = (suffix for suffix, kind in Image.EXTENSION.items() if kind in FORMATS)
    return (*known, ".heic", ".heif", ".avif")


def read_image(path: str | Path, ground: int | None = None) -> Image.Image:
    """Reads the first picture in an image file, upright by its EXIF orientation.

    Fractions and numbers of more than 8 bits are scaled by `white` of the largest. So are PNG,
    TIFF, BMP or PPM files of several values, none above 16. Other dark pictures, photographs, stay
    dark. Transparent parts become the grey `ground`, 0 to 255; by default white, or black if the
    visible part is light.

    Returns a picture of mode "L" (grey) or "RGB". Raises FileNotFoundError if there is no file, and
    ValueError if it is damaged, not in one of `FORMATS`, or has more than `MAX_PIXELS` pixels.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected an image file")
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected an image")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # checked sizes, odd metadata
        return decode_image(path, str(path), ground=ground)


def decode_image(
    source: Path | BinaryIO, name: str, max_pixels: int = MAX_PIXELS, ground: int | None = None
) -> Image.Image:
    """Reads an image like `read_image`, also from an open file, called `name` in messages.

    Shows Pillow's warnings. Raises TooManyPixelsError for more than `max_pixels` pixels, and
    ValueError if it is damaged or not in one of `FORMATS`.
    """
    with _opened(source, name, max_pixels) as (image, raw_mode):
        is_array = image.format in ("PNG", "TIFF", "BMP", "PPM") and image.mode != "P"
        is_plain = image.mode in ("L", "RGB") and raw_mode not in OTHER_BYTES
        if is_plain and not image.has_transparency_data:
            few = image.resize((32, 32), Image.Resampling.NEAREST)  # nearly always enough
            if not is_array or any(np.max(some.getextrema()) > FAINT for some in (few, image)):
                return image  # a large one needs no copy
        pixels = _pixels(image, source, raw_mode)
        if pixels.shape[2] == 4:
            ground = best_ground([lightness(pixels)]) if ground is None else ground
            pixels = on_ground(pixels, ground)
        if pixels.dtype != np.uint8 or (is_array and pixels.min() < pixels.max() <= FAINT):
            scaled = np.nan_to_num(pixels.astype(np.float32), copy=False)  # then in place
            scaled *= 255 / white(scaled.max())
            pixels = np.rint(scaled.clip(0, 255, out=scaled), out=scaled).astype(np.uint8)
        return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def read_pixels(path: Path) -> np.ndarray:
    """Reads an image file's numbers: real [H, W, C], upright.

    C is 1 for grey, 3 for colour, and 4 (uint8) for colour with transparent parts. Bits become 0
    and 255, palette indices colours.

    Raises the errors of `decode_image`, and ValueError for several pictures.
    """
    with _opened(path, str(path), MAX_PIXELS) as (image, raw_mode):
        if getattr(image, "is_animated", False):
            raise ValueError("it holds several pictures; save each as a separate file")
        return _pixels(image, path, raw_mode)


def lightness(pixels: np.ndarray) -> float:
    """Returns the mean lightness, 0 to 255, of the visible part of uint8 [H, W, 4]."""
    alpha = pixels[..., 3].mean() / 255
    return float(on_ground(pixels, 0).mean() / max(alpha, 1 / 255))


def best_ground(lightnesses: Sequence[float]) -> int:
    """Returns the ground on which pictures stand out: black if most are light, else white."""
    return 0 if np.mean(lightnesses) >= 128 else 255


def on_ground(pixels: np.ndarray, ground: int) -> np.ndarray:
    """Lays uint8 [H, W, 4] on a grey ground: uint8 [H, W, 3]."""
    image = Image.fromarray(pixels)
    flat = Image.new("RGB", image.size, (ground,) * 3)
    flat.paste(image, mask=image.getchannel("A"))
    return np.asarray(flat)


@contextlib.contextmanager
def _opened(
    source: Path | BinaryIO, name: str, max_pixels: int
) -> Iterator[tuple[Image.Image, str]]:
    """Opens an image upright; yields it with Pillow's name for its raw mode."""
    try:
        with Image.open(source, formats=_formats()) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise TooManyPixelsError(
                    f"it has {width}x{height} pixels, at most {max_pixels:,} fit"
                )
            tiles: Any = getattr(image, "tile", ())  # not all readers have them
            args = tiles[0].args if tiles else ""
            raw_mode = str(args[0] if isinstance(args, tuple) and args else args)
            _load_upright(image)
            yield image, raw_mode
    except PermissionError:
        raise
    except Image.UnidentifiedImageError:
        is_path = isinstance(source, Path)
        with source.open("rb") if is_path else contextlib.nullcontext(source) as file:
            kind = describe_file(file) or "not a readable image"
        raise ValueError(f"{name} is {kind}; expected {', '.join(FORMATS)}") from None
    except Exception as error:  # decoders fail in many ways
        too_many = isinstance(error, TooManyPixelsError | Image.DecompressionBombError)
        kind = TooManyPixelsError if too_many else ValueError
        raise kind(f"{name} cannot be read as an image: {error}") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Returns the readable formats, with HEIC and AVIF if installed."""
    Image.init()
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    return (*FORMATS, *{"HEIF", "AVIF"}.intersection(Image.OPEN))


def _pixels(image: Image.Image, source: Path | BinaryIO, raw_mode: str) -> np.ndarray:
    """Returns an open image's numbers like `read_pixels`."""
    if raw_mode in OTHER_BYTES and image.mode in ("RGB", "RGBA"):
        return _sixteen_bits(np.asarray(image), raw_mode, source)
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)[..., None]
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA"))
        return pixels if (pixels[..., 3] < 255).any() else pixels[..., :3]
    mode = "L" if image.mode in ("1", "L") else "RGB"
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels if mode == "RGB" else pixels[..., None]


def _sixteen_bits(high: np.ndarray, raw_mode: str, source: Path | BinaryIO) -> np.ndarray:
    """Adds the low bytes of colours, which Pillow drops.

    Transparent pictures keep 8 bits: the high ones, or the low ones if the high ones are 0.
    """
    if not isinstance(source, Path):
        source.seek(0)
    with Image.open(source, formats=FORMATS) as image:
        other = OTHER_BYTES[raw_mode]
        image.tile = [
            tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
            for tile in image.tile
        ]
        _load_upright(image)
        low = np.asarray(image)
    if raw_mode == "LA;16B":  # read as four bytes
        low = low[..., [1, 1, 1, 3]]
    values = high.astype(np.uint16) << 8 | low
    if high.shape[2] == 3 or (high[..., 3] == 255).all():
        return values[..., :3]
    return high if high[..., :3].any() else np.dstack([low[..., :3], high[..., 3]])


def _load_upright(image: Image.Image) -> None:
    image.load()
    ImageOps.exif_transpose(image, in_place=True)  # copies only if turned
