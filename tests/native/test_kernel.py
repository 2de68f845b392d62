"""The kernel agrees with XLA, to the bit for exact numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import enable_x64, some_slow
from hypothesis import given, settings
from layers import Layer, create_layer, in_numpy, layers

from mnist_jax.ops import conv_pool

pytestmark = pytest.mark.usefixtures("native")


def compute(layer: Layer, lowering: str) -> dict[str, jax.Array]:
    names = ["outputs", "images", "kernel", "bias"]
    arrays = [array for array in layer[:3] if array is not None]

    @jax.jit
    def outputs_and_gradients(arrays, grads):
        run = functools.partial(conv_pool, lowering=lowering, **layer.options)
        outputs, vjp = jax.vjp(run, *arrays)
        return [outputs, *vjp(grads)]

    return dict(zip(names, outputs_and_gradients(arrays, layer.grads), strict=False))


def calls_of_the_kernel(layer: Layer, lowering: str = "native") -> int:
    run = functools.partial(conv_pool, lowering=lowering, **layer.options)
    return str(jax.make_jaxpr(run)(*layer[:3])).count("mnist_jax_ConvPool")


def in_float64(layer: Layer) -> dict[str, np.ndarray]:
    arrays = [None if array is None else array.astype(np.float64) for array in layer[:4]]
    with enable_x64(True):
        expected = compute(Layer._make([*arrays, layer.options]), "xla")
    return {name: np.asarray(array) for name, array in expected.items()}


def check_against_xla(layer: Layer) -> None:
    assert calls_of_the_kernel(layer)
    found, expected = compute(layer, "native"), in_float64(layer)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == jnp.float32
        if layer.options["pool"] == "max":
            np.testing.assert_array_equal(value, expected[name], name)
        else:  # a ninth is not exact
            np.testing.assert_allclose(value, expected[name], 1e-6, 1e-4, err_msg=name)


@pytest.mark.parametrize("examples", some_slow(["8"], ["8", "150"]))
def test_values_and_gradients_equal_those_of_xla_in_float64(examples):
    settings(max_examples=int(examples))(given(layers())(check_against_xla))()


@pytest.mark.parametrize("pool", ["max", "mean"])
@pytest.mark.parametrize("channels", [2, 6])
def test_sums_of_ordinary_numbers_are_as_precise_as_float32(channels, pool):
    rng = np.random.default_rng(0)
    layer = create_layer(rng, (channels, 13, 12, 48), 5, 6, pool=pool, pool_size=2, rectify=True)
    arrays = [rng.normal(size=array.shape).astype(np.float32) for array in layer[:4]]
    layer = Layer._make([*arrays, layer.options])
    expected = in_float64(layer)
    for name, value in compute(layer, "native").items():
        error = np.abs(value - expected[name]).max() / np.abs(expected[name]).max()
        assert error < 1e-6, name


WRONG = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("where", ["images", "kernel"])
@pytest.mark.parametrize("pool_size", [1, 2, 3])
@pytest.mark.parametrize("channels", [2, 6])
def test_nan_and_infinity_are_never_hidden(channels, where, pool_size, rectify):
    rng = np.random.default_rng(pool_size)
    options = {"stride": 2, "pool_size": pool_size, "rectify": rectify}
    layer = create_layer(rng, (channels, 13, 14, 48), 3, 5, **options)
    array = getattr(layer, where)
    places = rng.choice(array.size, 12, replace=False)
    array.flat[places] = rng.choice(WRONG, 12)
    if where == "images":  # windows with some, with others, and with none
        array[0, 0, 0, :3] = WRONG
        array[:, :, :, 16:] = np.nan_to_num(array[:, :, :, 16:], posinf=2, neginf=-2)
    else:
        array[..., 3:] = np.nan_to_num(array[..., 3:], posinf=2, neginf=-2)
    with np.errstate(invalid="ignore"):
        (expected, some) = in_numpy(layer)
    found = compute(layer, "native")
    np.testing.assert_array_equal(found["outputs"], expected["outputs"])
    assert np.isnan(expected["outputs"]).any()
    for name in ("images", "kernel", "bias"):
        value = np.asarray(found[name])
        finite = np.isfinite(expected[name])
        if name == "images":  # zeros around and between the gradients meet the weights, too
            finite &= np.isfinite(value)
        np.testing.assert_array_equal(value[finite], expected[name][finite], name)
        assert not np.isfinite(value[~np.isfinite(some[name])]).any(), name
        assert finite.any(), name
    other = {"images": "kernel", "kernel": "images"}[where]
    assert not np.isfinite(found[other]).all()


def test_denormal_numbers_are_zeros_or_themselves():
    """XLA's threads flush them to zero."""
    layer = create_layer(np.random.default_rng(0), (1, 9, 9, 16), 3, 4, pool_size=2)
    layer = layer._replace(images=layer.images * np.float32(1e-39), bias=layer.bias * 0)
    outputs = compute(layer, "native")["outputs"]
    np.testing.assert_allclose(outputs, 0, atol=1e-36)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32])
def test_a_bias_of_another_type_is_converted(dtype):
    layer = create_layer(np.random.default_rng(0), (1, 9, 9, 16), 3, 4, pool_size=2)
    bias = jnp.arange(-2, 2).astype(dtype)
    found, expected = (
        conv_pool(layer.images, layer.kernel, bias, lowering=lowering, **layer.options)
        for lowering in ("native", "matmul")
    )
    assert found.dtype == expected.dtype == jnp.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("channels", [1, 6])
def test_a_layer_without_filters_has_outputs_without_filters(channels):
    layer = create_layer(np.random.default_rng(0), (channels, 9, 9, 16), 3, 0, pool_size=2)
    found, expected = compute(layer, "native"), compute(layer, "xla")
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name], name)
