"""The same picture in another file, size, frame or colour gets the same answer."""

import io
import runpy

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from mnist_jax import load_dataset, load_network
from mnist_jax.datasets.image_files import decode_image
from mnist_jax.datasets.info import DataInfo
from mnist_jax.handwriting.drawing import Drawing, prepare_drawing
from mnist_jax.handwriting.files import predict_files, prepare

BENCHMARK = runpy.run_path(str(ROOT / "benchmarks/pictures.py"))
FILES, CONDITIONS = BENCHMARK["file_conditions"](), BENCHMARK["conditions"]()
INFO = DataInfo((28, 28, 1), tuple("0123456789"), 20)


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """Test images, uint8 [N, 28, 28]."""
    return load_dataset("mnist", "test[:16]").images[..., 0]


@pytest.fixture(scope="module")
def network(small_run):
    return load_network(small_run[0])


def drawing(pixels: np.ndarray | Image.Image) -> Drawing:
    picture = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    return prepare_drawing(picture, INFO.image_shape, INFO.drawing_box)


def prepared(content: bytes):
    return prepare(decode_image(io.BytesIO(content), "a picture"), INFO)


@pytest.mark.parametrize("name", FILES)
def test_the_pixels_of_an_image_are_read_from_any_file(name, digits):
    for digit in digits:
        found = prepared(FILES[name](digit))
        np.testing.assert_array_equal(found.pixels[..., 0], digit)
        assert not found.problem


def test_an_image_of_two_levels_is_not_changed(digits):
    for digit in digits[:10]:
        levels = np.where(digit >= 128, np.uint8(255), np.uint8(0))
        bits = BENCHMARK["save"](Image.fromarray(levels).convert("1"))
        np.testing.assert_array_equal(prepared(bits).pixels[..., 0], levels)


@pytest.mark.parametrize("name", CONDITIONS)
def test_other_pictures_of_an_image_get_its_answer(name, digits, network):
    drawings = [prepared(CONDITIONS[name](digit)) for digit in digits]
    found = network.predict(np.stack([drawing.pixels for drawing in drawings])).classes
    stated = np.array([bool(drawing.problem) for drawing in drawings])
    same = (found == network.predict(digits[..., None]).classes) | stated
    assert same.mean() >= 0.8  # this network has seen 1,024 images, and knows few of them well
    assert "12x12" in name or stated.mean() <= 0.1


def test_a_jpeg_file_of_an_image_costs_no_answer(network, tmp_path):
    digits = load_dataset("mnist", "test[:100]").images[..., 0]
    paths = [tmp_path / f"{number}.jpg" for number in range(len(digits))]
    for path, digit in zip(paths, digits, strict=True):
        Image.fromarray(digit).save(path)
    labels = [found.label for found in predict_files(network, paths)]
    expected = network.predict(digits[..., None]).classes.astype(str).tolist()
    assert np.mean([a == b for a, b in zip(labels, expected, strict=True)]) >= 0.97


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 5), (4, 4), (12, 20), (28, 28), (280, 200)])
@pytest.mark.parametrize("colour", [0, 128, 255])
def test_pictures_of_one_colour_are_blank(size, colour):
    frame = Image.new("L", (size[0] + 2, size[1] + 2), 255 - colour if colour != 128 else 0)
    plain = Image.new("L", size, colour)
    frame.paste(plain, (1, 1))
    noisy = io.BytesIO()
    plain.save(noisy, "JPEG", quality=40)
    pictures = [plain, plain.convert("RGB"), Image.open(noisy)] + [frame] * (min(size) > 2)
    for picture in pictures:
        found = drawing(picture)
        assert found.blank
        assert not found.pixels.any()


@pytest.mark.parametrize("size", [28, 200])
def test_a_picture_without_strokes_is_blank(size):
    ramp = np.tile(np.linspace(0, 255, size).astype(np.uint8), (size, 1))
    block = np.full((size, size), 255, np.uint8)
    block[size // 4 : size // 2, size // 4 : size // 2] = 0
    assert all(drawing(pixels).blank for pixels in (ramp, ramp.T, block, 255 - block))


def test_a_bar_is_a_one_and_an_angular_zero_has_its_hole():
    bar = np.zeros((20, 4), np.uint8)
    zero = np.full((30, 20), 255, np.uint8)
    zero[5:25, 5:15] = 0
    for pixels, hole in ((np.pad(bar + 255, 3), 0), (np.pad(zero, 4), 1)):
        for picture in (pixels, 255 - pixels):
            seen = drawing(picture).pixels[..., 0]
            assert seen.max() == 255
            assert (seen[14, 14] < 128) == hole


def test_several_digits_and_few_pixels_on_a_clean_picture_are_reported(digits):
    assert "3 things" in drawing(255 - np.concatenate(digits[:3], axis=1)).problem
    tiny = BENCHMARK["put"](BENCHMARK["fit"](digits[0], 8), 40, 40, 0.5, 0.5)
    assert "pixels large" in drawing(tiny).problem


def test_an_image_off_its_place_is_centred(digits):
    for digit in digits[:10]:
        seen = drawing(np.roll(digit, (3, -3), (0, 1))).pixels[..., 0]
        for axis in (0, 1):
            middle = seen.sum(axis=1 - axis) @ np.arange(28) / seen.sum()
            assert abs(middle - 14) < 1
