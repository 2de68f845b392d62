import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from mnist_jax.ops import conv_max_pool

# jax.enable_x64 is new in 0.8; the older spelling is gone from 0.10.
x64_home = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
enable_x64 = x64_home.enable_x64


def reference(images, kernel, pool_size):
    outputs = lax.conv_general_dilated(
        images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    window = (1, pool_size, pool_size, 1)
    return lax.reduce_window(outputs, -jnp.inf, lax.max, window, window, "VALID")


@st.composite
def problems(draw):
    kernel_size, pool_size = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    smallest = kernel_size + pool_size - 1
    height, width = (draw(st.integers(smallest, smallest + 6)) for _ in range(2))
    batch, channels, features = (draw(st.integers(1, 3)) for _ in range(3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images, kernel = (
        rng.normal(size=(batch, height, width, channels)),
        rng.normal(size=(kernel_size, kernel_size, channels, features)),
    )
    if draw(st.booleans()):  # few distinct values: ties in the pooling windows
        images, kernel = np.round(images), np.round(kernel)
    return images, kernel, pool_size, rng


@settings(max_examples=25, deadline=None)
@given(problems())
def test_values_and_gradients_equal_those_of_xla_in_float64(problem):
    images, kernel, pool_size, rng = problem

    @jax.jit
    def values_and_gradients(images, kernel, cotangent):
        outputs = []
        for conv in (conv_max_pool, reference):
            output, vjp = jax.vjp(lambda x, k: conv(x, k, pool_size), images, kernel)  # noqa: B023
            outputs.append((output, *vjp(cotangent[tuple(map(slice, output.shape))])))
        return outputs

    with enable_x64(True):
        cotangent = rng.normal(size=(*images.shape[:3], kernel.shape[-1]))
        for ours, theirs in zip(*values_and_gradients(images, kernel, cotangent), strict=True):
            assert ours.dtype == jnp.float64
            np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


def test_float32_at_the_size_of_the_reference_network():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(32, 28, 28, 1)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 1, 32)), jnp.float32)

    def loss(conv):
        return lambda images, kernel: jnp.sum(conv(images, kernel, 2) ** 2) / 1e4

    found = jax.jit(jax.value_and_grad(loss(conv_max_pool), argnums=(0, 1)))(images, kernel)
    with enable_x64(True):
        expected = jax.value_and_grad(loss(reference), argnums=(0, 1))(
            images.astype(jnp.float64), kernel.astype(jnp.float64)
        )
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_not_a_number_is_not_hidden():
    images = jnp.zeros((1, 5, 5, 1)).at[0, 2, 2, 0].set(jnp.nan)
    assert jnp.isnan(conv_max_pool(images, jnp.ones((3, 3, 1, 1)), 2)).any()


def test_images_smaller_than_a_window_are_refused():
    with pytest.raises(ValueError, match=r"3x9 pixels are too small .* 4 a side"):
        conv_max_pool(jnp.zeros((1, 3, 9, 1)), jnp.zeros((3, 3, 1, 2)), 2)
