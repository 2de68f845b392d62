"""A trained network as a value: from its workdir, or from an exported file with its card."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY

from mnist_jax import export, load_dataset, load_network, predict, train
from mnist_jax.config import replace_fields
from mnist_jax.datasets.info import brightness, unlike
from mnist_jax.network import Network, _as_images


@pytest.fixture(scope="module")
def network(small_run) -> Network:
    return load_network(small_run[0])


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return load_dataset("mnist", "test[:300]").images


def test_every_kind_of_array_gives_the_same_predictions(small_run, network, images, subtests):
    bits = images >= 128
    kinds = {
        "bytes": images,
        "without channels": images[..., 0],
        "int64": images.astype(np.int64),
        "list": images.tolist(),
        "jax": jnp.asarray(images),
        "float32": images[..., 0] / np.float32(255),
        "float64": images / 255,
        "strided": images[::-1][::-1],
    }
    black_and_white = {
        "bool": bits,
        "bool without channels": bits[..., 0],
        "jax bool": jnp.asarray(bits),
        "bfloat16": bits.astype(jnp.bfloat16),
        "float16": bits.astype(np.float16),
    }
    for pixels, same in ((images, kinds), (np.uint8(255) * bits, black_and_white)):
        expected = predict(small_run[0], pixels)
        for name, array in same.items():
            with subtests.test(msg=name):
                found = network.predict(array)
                np.testing.assert_array_equal(found.classes, expected.classes)
                np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 300])
def test_any_number_of_images_is_classified_in_batches(network, images, count):
    probabilities, classes = network.predict(images[:count])
    assert (probabilities.shape, probabilities.dtype) == ((count, 10), np.float32)
    assert (classes.shape, classes.dtype) == ((count,), np.int32)
    np.testing.assert_array_equal(classes, network.predict(images).classes[:count])


def test_apply_is_a_pure_function_of_variables_and_images(network, images):
    expected = network.predict(images[:5])
    probabilities, classes = jax.jit(network.apply)(network.variables, images[:5])
    np.testing.assert_allclose(probabilities, expected.probabilities, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(classes, expected.classes)
    zeros = jax.tree.map(jnp.zeros_like, network.variables)
    np.testing.assert_allclose(jax.jit(network.apply)(zeros, images[:5])[0], 0.1, rtol=1e-6)


FAR = ("bits", "int64 bits", "divided twice", "a tenth", "inverted")  # also a single image
INT, HALF = np.int64, np.float16
TOO_DARK, INVERTED = "scale them to integers that fill 0 to 255", "invert them if"
UNLIKE = {
    "bits": (lambda x: (x > 127).astype(np.uint8), TOO_DARK),
    "int64 bits": (lambda x: (x > 127).astype(INT), TOO_DARK),
    "divided twice": (lambda x: x / 255 / 255, TOO_DARK),
    "a tenth": (lambda x: x / 255 * 0.1, TOO_DARK),
    "halves": (lambda x: (x / 510).astype(HALF), TOO_DARK),
    "inverted": (lambda x: 255 - x, INVERTED),
    "the middle row alone": (lambda x: x * (np.arange(28)[:, None, None] == 14), "invert"),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_images_that_cannot_be_of_the_dataset_get_a_warning(network, images, name):
    change, remedy = UNLIKE[name]
    for count in (1, 10, 300) if name in FAR else (10, 300):
        with pytest.warns(UserWarning, match=rf"^the images do not match [^\n]*{remedy}[^\n]*$"):
            network.predict(change(images[:count]))
    assert network.predict(change(images[:10]), check=False).classes.shape == (10,)


def test_images_of_the_dataset_never_get_a_warning(network):
    expected, (test, labels) = network.info.brightness, load_dataset("mnist", "test")
    random = np.random.default_rng(0)
    for count in (1, 2, 5, 9, 10, 100):
        for _ in range(300):
            assert not unlike(test[random.choice(len(test), count)], expected), count
    some = [test, test / np.float32(255), test > 127, np.zeros_like(test[:20]), test[:0]]
    for images in [*some, *(test[labels == n] for n in range(10))]:
        network.predict(images)  # a warning is an error in tests


def test_a_dataset_of_few_images_gives_no_warning(network, images):
    assert brightness(images[:99]) is brightness(np.zeros_like(images)) is None
    network._replace(info=network.info._replace(brightness=None)).predict(255 - images)


class OnAnotherDevice:
    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy.\nUse Tensor.cpu()")


def full(value: object, dtype: type | None = None) -> np.ndarray:
    return np.full((2, 28, 28), value, dtype)


BAD_IMAGES = [
    (np.zeros((2, 20, 28, 1)), r"\[N, 28, 28, 1\] or \[N, 28, 28\], as those .* 20"),
    (np.zeros((28, 28)), r"a single one needs another axis: images\[None\]"),
    (np.zeros((28, 28, 1)), "a single one needs another axis"),
    (full(255.0), "floats 0 to 1, got float64 255.0 to 255.0; divide them by 255"),
    (full(np.nan), "got float64 nan"),
    (full(256), "integers 0 to 255, .* got int64 256 to 256$"),
    (full("7"), "must be integers 0 to 255, or floats 0 to 1, got <U1"),
    (["a.png", "b.png"], r"got <U5 \[2\]; predict_files takes image files$"),
    ("a.png", "predict_files takes image files"),
    (full(0, complex), r"got complex128 \[2, 28, 28\]$"),
    ([[1, 2], [3]], "must be an array"),
    (None, "images must be"),
    (OnAnotherDevice(), r"must be an array.*cuda:0 device type [^\n]*cpu\(\)$"),
]


def test_images_that_do_not_fit_are_refused(network, subtests):
    for images, message in BAD_IMAGES:
        with subtests.test(msg=message), pytest.raises(ValueError, match=message):
            network.predict(images)


# Arrays of wrong shapes, and the remedy for each.
GREY, COLOUR = (28, 28, 1), (8, 12, 3)
OTHER_SHAPES = [
    (GREY, (5, 1, 28, 28), "np.moveaxis(images, 1, -1)"),
    (GREY, (784,), "images.reshape(-1, 28, 28, 1)"),
    (GREY, (28, 28, 1, 5), "np.moveaxis(images, -1, 0)"),
    (COLOUR, (5, 3, 8, 12), "np.moveaxis(images, 1, -1)"),
    (COLOUR, (3, 8, 12), "np.moveaxis(images, 0, -1)[None]"),
    (COLOUR, (8, 12, 3), "images[None]"),
    (COLOUR, (5, 288), "images.reshape(-1, 8, 12, 3)"),
    (COLOUR, (5, 8, 12), "np.repeat(images.reshape(-1, *[8, 12, 1]), 3, axis=-1)"),
    (COLOUR, (5, 8, 12, 4), "images[..., :3]"),
]


HOPELESS = [
    (GREY, (5, 28, 28, 3), 'they are in colour: make them grey, as convert("L") of Pillow does'),
    (GREY, (28, 28, 4), "they are in colour: make them grey"),
    (GREY, (5, 32, 32), "scale them to 28x28; predict_files does that for image files"),
    (GREY, (5, 28, 28, 7), "got uint8 [5, 28, 28, 7]"),
    (GREY, (1, 1, 1, 28, 28), "got uint8 [1, 1, 1, 28, 28]"),
]


@pytest.mark.parametrize(("wanted", "shape", "said"), OTHER_SHAPES + HOPELESS)
def test_the_suggested_remedy_for_a_wrong_shape_works(wanted, shape, said):
    images = np.zeros(shape, np.uint8)
    with pytest.raises(ValueError, match=r"images must be \[N, .*" + re.escape(said)) as caught:
        _as_images(images, wanted)
    if (wanted, shape, said) in HOPELESS:
        assert "single" not in str(caught.value)
    else:
        right = eval(said, {"np": np, "images": images})
        assert _as_images(right, wanted).shape[1:] == wanted


@pytest.mark.parametrize("file_format", ["stablehlo", "onnx"])
def test_an_exported_file_predicts_like_its_workdir(file_format, small_run, network, tmp_path):
    export(small_run[0], tmp_path / "digits", format=file_format)
    images, found = load_dataset("mnist", "test").images, load_network(tmp_path / "digits")
    assert found.info == network.info
    assert found.info[:2] == ((28, 28, 1), tuple("0123456789"))
    assert found.info.drawing_box == 20
    expected, got = network.predict(images), found.predict(images)
    np.testing.assert_array_equal(got.classes, expected.classes)
    np.testing.assert_allclose(got.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_array_equal(found.predict(images[:9, ..., 0] / 255).classes, got.classes[:9])
    assert found.predict(images[:0]).probabilities.shape == (0, 10)


@pytest.mark.slow
def test_statistics_and_the_running_mean_are_exported(tmp_path):
    fields = {"epochs": 1, "ema_decay": 0.9, "model.batch_norm": True}
    train(replace_fields(TINY, fields), tmp_path / "run")
    images = load_dataset("mnist", "test[:300]").images
    expected = load_network(tmp_path / "run").predict(images).probabilities
    for file_format in ("stablehlo", "onnx"):
        export(tmp_path / "run", tmp_path / "file", format=file_format)
        found = load_network(tmp_path / "file").predict(images).probabilities
        np.testing.assert_allclose(found, expected, atol=1e-5)
