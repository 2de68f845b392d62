import io
import itertools
import os
import struct
import sys
import types
import zipfile
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from mnist_jax.datasets import image_files
from mnist_jax.datasets.image_files import read_image, read_pixels

# A dark bar at the left of a light sheet, wider than high.
SHEET = np.full((6, 9), 200, np.uint8)
SHEET[:, :2] = 40


def test_files_of_every_format_and_colour_are_read(tmp_path, subtests):
    formats = ["png", "bmp", "tif", "gif", "webp", "ppm", "jpg"]
    formats += ["avif"] * bool(features.check("avif"))
    for suffix, mode in itertools.product(formats, ("L", "RGB")):
        with subtests.test(suffix=suffix, mode=mode):
            path = tmp_path / f"a.{suffix}"
            options: Any = {"lossless": True} if suffix == "webp" else {"quality": 100}
            Image.fromarray(SHEET).convert(mode).save(path, **options)
            found = read_image(path)
            assert found.mode in ("L", "RGB")
            np.testing.assert_allclose(np.asarray(found.convert("L"), int), SHEET, atol=4)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK", "I", "I;16", "F"])
def test_pixels_of_every_mode_are_read(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I", "F") else "a.png")
    expected = np.where(SHEET > 100, 255, 0).astype(np.uint8) if mode == "1" else SHEET
    stored = SHEET.astype(np.uint16) * 257 if mode in ("I", "I;16") else expected
    Image.fromarray(stored).convert(mode).save(path)
    found = np.asarray(read_image(path).convert("L"), int)
    np.testing.assert_allclose(found, expected, atol=2)


def deep_png(pixels: np.ndarray) -> bytes:
    """Writes a 16-bit PNG with 1 to 4 channels, which Pillow cannot."""
    height, width, channels = pixels.shape
    colour_type = (0, 4, 2, 6)[channels - 1]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png_file(struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0), rows)


def test_no_file_of_sixteen_bits_loses_bits(tmp_path, subtests):
    rng = np.random.default_rng(0)
    for channels, largest in itertools.product((1, 2, 3, 4), (255, 65535)):
        pixels = rng.integers(0, largest, (5, 4, channels), np.uint16, endpoint=True)
        if channels in (2, 4):
            pixels[..., -1] = 65535  # opaque
        (tmp_path / "a.png").write_bytes(deep_png(pixels))
        colours = pixels[..., : (1, 1, 3, 3)[channels - 1]]
        with subtests.test(channels=channels, largest=largest):
            found = read_pixels(tmp_path / "a.png")
            np.testing.assert_array_equal(found, np.broadcast_to(colours, found.shape))
            shown = np.asarray(read_image(tmp_path / "a.png")).reshape(found.shape)
            np.testing.assert_allclose(shown, found / (largest / 255), atol=0.51)


# Arrays that people save as pictures, the files' type, and the value of white there.
ARRAYS = [
    (np.uint16, 255, "png", 255),
    (np.uint16, 4000, "png", 4095),
    (np.uint16, 16, "tif", 16),
    (np.int32, 255, "tif", 255),
    (np.float32, 1, "tif", 1),
    (np.float32, 255, "tif", 255),
    (np.uint8, 1, "png", 1),
    (np.uint8, 16, "png", 16),
    (np.uint8, 1, "bmp", 1),
    (np.uint8, 17, "png", 255),
    (np.uint8, 16, "jpg", 255),
]


def test_white_of_a_single_picture_is_found_from_its_largest_value(tmp_path, subtests):
    for dtype, largest, suffix, white in ARRAYS:
        with subtests.test(dtype=dtype.__name__, largest=largest, suffix=suffix):
            pixels = np.full((16, 16), largest).astype(dtype)
            pixels[:8] = 0
            Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
            found = np.asarray(read_image(tmp_path / f"a.{suffix}"))
            np.testing.assert_allclose(found, np.rint(pixels * (255 / white)), atol=1)
    for value in (0, 1, 16):  # nothing is drawn on it
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / "a.png")
        assert np.asarray(read_image(tmp_path / "a.png")).max() == value


@pytest.mark.parametrize(("ink", "ground"), [(0, 255), (255, 0)])
def test_a_transparent_ground_contrasts_with_what_is_drawn(tmp_path, ink, ground):
    pixels = np.full((6, 9, 4), ink, np.uint8)
    pixels[..., 3] = np.where(np.arange(9) < 2, 255, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = np.asarray(read_image(tmp_path / "a.png").convert("L"))
    np.testing.assert_array_equal(found, np.where(pixels[..., 3], ink, ground))


@pytest.mark.parametrize(
    ("orientation", "transposition"),
    [(1, None), (2, 0), (3, 3), (4, 1), (5, 5), (6, 2), (7, 6), (8, 4)],  # that of Pillow undoes it
)
def test_pictures_are_upright_by_exif(tmp_path, orientation, transposition):
    picture, exif = Image.fromarray(SHEET), Image.Exif()
    if transposition is not None:
        picture = picture.transpose(Image.Transpose(transposition))
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.png")), SHEET)


def png_file(header: bytes, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        length, crc = struct.pack(">I", len(data)), struct.pack(">I", zlib.crc32(kind + data))
        return length + kind + data + crc

    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"0")
    return file.getvalue()


# A PNG of a few bytes that claims 50,000 x 50,000 pixels.
BOMB = png_file(struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0), b"")
FTYP = b"\0\0\0\x18ftyp%s" + bytes(40)
BAD = {
    "empty": (b"", "is not a readable image; expected PNG, JPEG"),
    "text": (b"a, b, c\n", "is not a readable image; expected PNG, JPEG"),
    "svg": (b"<svg xmlns='http://w3.org/2000/svg'/>", r"is a vector drawing \(SVG\): save it"),
    "svg of a program": (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg/>", "is a vector drawing"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a readable image"),
    "bomb": (BOMB, "exceeds limit of .* pixels"),
    "pytorch": (zipped("net/data.pkl", "net/data/0"), "is a PyTorch file: load it with torch"),
    "old pytorch": (b"\x80\x02\x8a\nl\xfc", "is a Python pickle: save the numbers"),
    "keras": (zipped("metadata.json", "model.weights.h5"), "is a Keras model: it holds no im"),
    "word": (zipped("[Content_Types].xml", "word/document.xml"), "is a Microsoft Office document"),
    "writer": (zipped("mimetype", "META-INF/manifest.xml"), "is a LibreOffice document: save"),
    "zip": (zipped("a.png"), "is an archive: unpack it; expected PNG"),
    "damaged zip": (zipped("net/data.pkl")[:40], "is an archive: unpack it"),
    "rar": (b"Rar!\x1a\x07", "is an archive: unpack it"),
    "tar": (bytes(257) + b"ustar" + bytes(250), "is an archive: unpack it"),
    "npz": (zipped("x.npy"), r"is NumPy arrays \(.npz\); expected PNG"),
    "pdf": (b"%PDF-1.7\n", "is a PDF file: save its pages as images"),
    "matlab": (b"MATLAB 5.0 MAT-file", "is a MATLAB file: read it with scipy.io"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file: read it with h5py"),
    "parquet": (b"PAR1\x15", "is a Parquet file: read it with pandas"),
    "login page": (b"\n<!DOCTYPE html><html>", "is a web page: the download has failed"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer: run: git lfs p"),
    "heic": (FTYP % b"heic", r"is HEIC: pip install \"mnist_jax\[heic\]\", or save it as PNG"),
    "heic of several": (FTYP % b"mif1", "is HEIC: pip install"),
    "damaged avif": (FTYP % b"avif", "is AVIF: save it as PNG or JPEG|cannot be read"),
    "video": (FTYP % b"qt  ", "is video: save a picture of it"),
}


def test_a_heic_file_is_read_where_the_extra_is_installed(tmp_path, monkeypatch):
    registered = []

    def register() -> None:
        registered.append(True)
        Image.register_open("HEIF", lambda *_: Image.fromarray(SHEET), lambda head: b"ftyp" in head)  # type: ignore[arg-type,return-value]

    plugin = types.ModuleType("pillow_heif")
    plugin.register_heif_opener = register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    monkeypatch.setattr(image_files, "_formats", image_files._formats.__wrapped__)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", [*Image.ID])
    (tmp_path / "a.heic").write_bytes(FTYP % b"heic")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.heic")), SHEET)
    assert registered


def test_a_file_that_is_not_an_image_is_an_error_of_one_line(tmp_path, subtests):
    for name, (content, message) in BAD.items():
        with subtests.test(name):
            (tmp_path / "a.png").write_bytes(content)
            with pytest.raises(ValueError, match=message) as caught:
                read_image(tmp_path / "a.png")
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_a_truncated_image_is_named(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"cannot be read|is not a readable image"):
        read_image(path)


def test_a_path_that_is_not_a_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for a writer
    for path in (tmp_path, tmp_path / "pipe.png"):
        with pytest.raises(ValueError, match="is not a file; expected an image"):
            read_image(path)
    with pytest.raises(FileNotFoundError, match="does not exist; expected an image"):
        read_image(tmp_path / "missing.png")


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".webp", ".png"])
def test_of_several_pictures_the_first_is_read_and_none_is_imported(suffix, tmp_path):
    pages = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 200)]
    path = tmp_path / f"all{suffix}"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match="it holds several pictures; save each as a sep"):
        read_pixels(path)
    assert np.asarray(read_image(path).convert("L")).max() < 20
