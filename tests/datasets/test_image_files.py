import itertools
import os
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnist_jax.datasets.image_files import read_image

# A dark bar at the left of a light sheet, wider than high.
SHEET = np.full((6, 9), 200, np.uint8)
SHEET[:, :2] = 40


def test_files_of_every_format_and_colour_are_read(tmp_path, subtests):
    formats = ("png", "bmp", "tif", "gif", "webp", "ppm", "jpg")
    for suffix, mode in itertools.product(formats, ("L", "RGB")):
        with subtests.test(suffix=suffix, mode=mode):
            path = tmp_path / f"a.{suffix}"
            options: Any = {"webp": {"lossless": True}, "jpg": {"quality": 100}}.get(suffix, {})
            Image.fromarray(SHEET).convert(mode).save(path, **options)
            found = read_image(path)
            assert found.mode in ("L", "RGB")
            np.testing.assert_allclose(np.asarray(found.convert("L"), int), SHEET, atol=3)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK", "I", "I;16", "F"])
def test_pixels_of_every_mode_are_read(tmp_path, mode):
    suffix = "tif" if mode in ("CMYK", "I", "F") else "png"
    if mode in ("I", "I;16"):
        picture = Image.fromarray(SHEET.astype(np.uint16) * 257).convert(mode)
    elif mode == "1":
        picture = Image.fromarray(np.where(SHEET > 100, 255, 0).astype(np.uint8)).convert("1")
    else:
        picture = Image.fromarray(SHEET).convert(mode)
    picture.save(tmp_path / f"a.{suffix}")
    expected = np.where(SHEET > 100, 255, 0) if mode == "1" else SHEET
    found = np.asarray(read_image(tmp_path / f"a.{suffix}").convert("L"), int)
    np.testing.assert_allclose(found, expected, atol=2)


@pytest.mark.parametrize(("ink", "ground"), [(0, 255), (255, 0)])
def test_a_transparent_ground_contrasts_with_what_is_drawn(tmp_path, ink, ground):
    pixels = np.zeros((6, 9, 4), np.uint8)
    pixels[..., :3] = ink
    pixels[:, :2, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = np.asarray(read_image(tmp_path / "a.png").convert("L"))
    assert (found[:, :2] == ink).all()
    assert (found[:, 2:] == ground).all()


def test_pictures_are_upright_as_exif_tells(tmp_path, subtests):
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # of Pillow's transpositions
    for orientation, transposition in undo.items():
        with subtests.test(orientation=orientation):
            picture = Image.fromarray(SHEET)
            if transposition is not None:
                picture = picture.transpose(Image.Transpose(transposition))
            exif = Image.Exif()
            exif[0x0112] = orientation
            picture.save(tmp_path / "a.png", exif=exif)
            np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.png")), SHEET)


def test_the_first_picture_of_an_animation_is_read(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(read_image(tmp_path / "a.gif").convert("L")).max() < 20


def bomb() -> bytes:
    """A PNG of a few bytes that claims 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        length, crc = struct.pack(">I", len(data)), struct.pack(">I", zlib.crc32(kind + data))
        return length + kind + data + crc

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


BAD = {
    "empty": (b"", "is no image that can be read"),
    "text": (b"a, b, c\n", "is no image that can be read"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no image that can be read"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image"),
    "bomb": (bomb(), "exceeds limit of .* pixels"),
}


def test_a_file_that_is_no_image_is_one_line(tmp_path, subtests):
    for name, (content, message) in BAD.items():
        with subtests.test(name):
            (tmp_path / "a.png").write_bytes(content)
            with pytest.raises(ValueError, match=message) as caught:
                read_image(tmp_path / "a.png")
            assert "\n" not in str(caught.value)


def test_a_truncated_image_is_named(tmp_path, subtests):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    for suffix in ("png", "jpg", "tif", "webp"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(pixels).save(path)
        path.write_bytes(path.read_bytes()[:-200])
        with subtests.test(suffix), pytest.raises(ValueError, match=r"cannot be read|is no image"):
            read_image(path)


def test_a_path_that_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for a writer
    for path in (tmp_path, tmp_path / "pipe.png"):
        with pytest.raises(ValueError, match="is no file; expected an image"):
            read_image(path)
    with pytest.raises(FileNotFoundError, match="there is no image"):
        read_image(tmp_path / "missing.png")
