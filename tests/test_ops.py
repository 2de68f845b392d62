import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import enable_x64
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from mnist_jax.ops import conv_pool


def reference(images, kernel, *, stride, padding, pool, pool_size):
    """Computes `conv_pool` with XLA's own operations in the usual order of axes."""
    outputs = lax.conv_general_dilated(
        images.transpose(3, 1, 2, 0),
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    window = (1, pool_size, pool_size, 1)
    if pool == "max":
        pooled = lax.reduce_window(outputs, -jnp.inf, lax.max, window, window, "VALID")
    else:
        sums = lax.reduce_window(outputs, 0.0, lax.add, window, window, "VALID")
        pooled = sums / pool_size**2
    return pooled.transpose(3, 1, 2, 0)


@st.composite
def problems(draw):
    height, width = (draw(st.integers(1, 4)) for _ in range(2))
    stride, pool_size = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    options = {
        "stride": stride,
        "padding": draw(st.sampled_from(["VALID", "SAME"])),
        "pool": draw(st.sampled_from(["max", "mean"])),
        "pool_size": pool_size,
    }
    room = stride * (pool_size - 1)
    shape = tuple(side + room + draw(st.integers(0, 6)) for side in (height, width))
    batch, channels, features = (draw(st.integers(1, 3)) for _ in range(3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images = rng.normal(size=(channels, *shape, batch))
    kernel = rng.normal(size=(height, width, channels, features))
    if draw(st.booleans()):  # few distinct values: ties in the pooling windows
        images, kernel = np.round(images), np.round(kernel)
    devices = draw(st.integers(1, 3))  # that split the batch in gradients
    return images, kernel, options, devices, rng


def test_gradients_split_the_batch_by_devices_except_in_shard_map(monkeypatch):
    """In a shard_map, as in a population, every device has its own batches."""
    monkeypatch.setattr(jax, "device_count", lambda: 7)
    arrays = np.zeros((1, 5, 5, 21), np.float32), np.zeros((3, 3, 1, 2), np.float32)

    def loss(images, kernel):
        return conv_pool(images, kernel, pool_size=3, lowering="matmul").sum()

    grad, spec = jax.grad(loss, 1), PartitionSpec()
    mesh = jax.make_mesh((1,), ("member",), axis_types=(AxisType.Auto,))
    of_each = jax.shard_map(grad, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    assert "f32[7," in str(jax.make_jaxpr(grad)(*arrays))
    assert "f32[7," not in str(jax.make_jaxpr(of_each)(*arrays))


@pytest.mark.parametrize("lowering", ["matmul", "rows", "xla"])
@settings(max_examples=10, deadline=None)
@given(problems())
def test_values_and_gradients_equal_those_of_xla_in_float64(lowering, problem):
    images, kernel, options, devices, rng = problem

    def ours(images, kernel):
        return conv_pool(images, kernel, lowering=lowering, **options)

    def theirs(images, kernel):
        return reference(images, kernel, **options)

    @jax.jit
    def values_and_gradients(images, kernel, cotangent):
        outputs = []
        for conv in (ours, theirs):
            output, vjp = jax.vjp(conv, images, kernel)
            outputs.append((conv(images, kernel), output, *vjp(cotangent)))
        return outputs

    with enable_x64(True), mock.patch.object(jax, "device_count", return_value=devices):
        shape = jax.eval_shape(theirs, images, kernel).shape
        found, expected = values_and_gradients(images, kernel, rng.normal(size=shape))
        for value, wanted in zip(found, expected, strict=True):
            assert value.dtype == jnp.float64
            np.testing.assert_allclose(value, wanted, rtol=1e-11, atol=1e-11)


def convolutions(channels: int, kernel_size: int, **options) -> int:
    images = jnp.zeros((channels, 12, 12, 2))
    kernel = jnp.zeros((kernel_size, kernel_size, channels, 4))
    jaxpr = jax.make_jaxpr(lambda x, k: conv_pool(x, k, **options))(images, kernel)
    return str(jaxpr).count("conv_general_dilated")


def test_the_lowering_is_chosen_in_one_place_and_can_be_forced(monkeypatch):
    assert convolutions(1, 3, pool_size=2, lowering="matmul") == 0
    assert convolutions(1, 3, pool_size=2, lowering="xla") == 1
    assert convolutions(1, 3, pool_size=2) == 0
    assert convolutions(100, 3, pool_size=2) == 0
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert convolutions(1, 3) == 1
    assert convolutions(1, 3, lowering="matmul") == 0


@pytest.mark.parametrize("lowering", ["matmul", "rows", "xla"])
@pytest.mark.parametrize("pool", ["max", "mean"])
def test_nan_is_visible_in_outputs_and_gradients(lowering, pool):
    # In a corner, only one output of its pooling window is NaN.
    images = jnp.zeros((1, 5, 5, 1)).at[0, 0, 0, 0].set(jnp.nan)
    conv = functools.partial(conv_pool, pool=pool, pool_size=2, lowering=lowering)
    loss = jax.value_and_grad(lambda kernel: conv(images, kernel).sum())
    assert all(jnp.isnan(each).any() for each in jax.jit(loss)(jnp.ones((3, 3, 1, 1))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"pool_size": 0}, "pool_size must be at least 1, got 0"),
        ({"padding": "other"}, "padding is 'other'; expected one of "),
        ({"pool": "other"}, "pool is 'other'; expected one of "),
        ({"lowering": "other"}, "lowering is 'other'; expected one of "),
        ({"pool_size": 4}, "5x9 pixels .* too small .* 6x6 are needed"),
        ({"kernel": (3, 3, 2, 2), "lowering": "xla"}, "of 1 channels do not fit a kernel for 2"),
        ({"kernel": (3, 3, 2, 2), "lowering": "matmul"}, "of 1 channels do not fit a kernel for 2"),
    ],
    ids=str,
)
def test_invalid_options_and_channels_and_small_images_are_refused(options, message):
    kernel = jnp.zeros(options.pop("kernel", (3, 3, 1, 2)))
    with pytest.raises(ValueError, match=message):
        conv_pool(jnp.zeros((1, 5, 9, 1)), kernel, **options)


@pytest.mark.parametrize("lowering", ["auto", "matmul", "xla"])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (4, 1)])
def test_a_bias_has_a_number_for_each_filter(lowering, shape):
    images, kernel = jnp.zeros((1, 5, 5, 16)), jnp.zeros((3, 3, 1, 4))
    with pytest.raises(ValueError, match="does not fit a kernel of 4 filters"):
        conv_pool(images, kernel, jnp.zeros(shape), lowering=lowering)
