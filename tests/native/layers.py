"""Layers that the kernel computes exactly, and their reference in NumPy."""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

Arrays = dict[str, np.ndarray]


class Layer(NamedTuple):
    """Arguments of `ops.conv_pool`, and the gradient of its outputs."""

    images: Any
    kernel: Any
    bias: Any  # or None
    grads: Any
    options: dict[str, Any]


def create_layer(
    rng: np.random.Generator,
    shape: tuple[int, int, int, int],
    kernel_size: int,
    filters: int,
    *,
    few_values: bool = False,
    with_bias: bool = True,
    **options: Any,
) -> Layer:
    """Draws a layer whose sums are all exact in float32, in whatever order they are added.

    Products are multiples of 1/64. A bias is an odd multiple of 1/128, so rounding never decides
    whether a mean is rectified.
    """
    options = {"stride": 1, "padding": "VALID", "pool": "max", "pool_size": 1} | options

    def draw(*shape: int) -> np.ndarray:
        numbers = rng.integers(-1, 2, shape) if few_values else rng.integers(-16, 17, shape) / 8
        return numbers.astype(np.float32)

    stride, pool_size = options["stride"], options["pool_size"]
    sides = [
        (side - 1) // stride + 1
        if options["padding"] == "SAME"
        else (side - kernel_size) // stride + 1
        for side in shape[1:3]
    ]
    outputs = (filters, *(side // pool_size for side in sides), shape[3])
    bias = ((2 * rng.integers(-64, 64, filters) + 1) / 128).astype(np.float32)
    return Layer(
        draw(*shape),
        draw(kernel_size, kernel_size, shape[0], filters),
        bias if with_bias else None,
        draw(*outputs),
        options,
    )


@st.composite
def layers(draw) -> Layer:
    """Draws a layer for the kernel, possibly with dropped rows and columns, and ties."""
    kernel_size, stride, pool_size = (draw(st.sampled_from(s)) for s in ((3, 5), *[(1, 2, 3)] * 2))
    smallest = kernel_size + stride * (pool_size - 1)
    sides = [smallest + draw(st.integers(0, 4)) for _ in range(2)]
    return create_layer(
        np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        (draw(st.integers(1, 9)), *sides, draw(st.sampled_from((16, 48, 144)))),
        kernel_size,
        draw(st.integers(1, 9)),
        few_values=draw(st.booleans()),
        with_bias=draw(st.booleans()),
        stride=stride,
        pool_size=pool_size,
        padding=draw(st.sampled_from(("VALID", "SAME"))),
        pool=draw(st.sampled_from(("max", "mean"))),
        rectify=draw(st.booleans()),
    )


def in_numpy(layer: Layer) -> tuple[Arrays, Arrays]:
    """Computes a layer with VALID padding, a bias and a maximum as IEEE 754 does.

    NaN is the largest number, as in `np.max`: neither pooling nor rectifier hides it.

    Returns:
        The outputs and the gradients of the three arrays; and these gradients without zero terms,
        for implementations that skip 0 * infinity, which is NaN.
    """
    images, kernel, bias, grads, options = layer
    size, stride, pool = len(kernel), options["stride"], options["pool_size"]
    filters, height, width, batch = grads.shape
    windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))
    windows = windows[:, ::stride, ::stride][:, : height * pool, : width * pool]
    convolved = np.einsum("chwbij,ijcf->fhwb", windows, kernel)
    pools = convolved.reshape(filters, height, pool, width, pool, batch)
    pools = pools.transpose(0, 1, 3, 5, 2, 4).reshape(*grads.shape, pool * pool)
    winner = pools.argmax(axis=-1)  # the first of equal ones, and of NaNs
    outputs = np.take_along_axis(pools, winner[..., None], -1)[..., 0] + bias[:, None, None, None]
    passes = np.ones(outputs.shape, bool)
    if options.get("rectify"):
        passes = outputs > 0
        outputs = np.where(outputs <= 0, 0, outputs)

    places = (np.arange(pool * pool) == winner[..., None]) & passes[..., None]
    places = places.reshape(*grads.shape, pool, pool).transpose(0, 1, 4, 2, 5, 3)
    places = places.reshape(convolved.shape)
    passed = np.where(places, grads.repeat(pool, axis=1).repeat(pool, axis=2), 0)
    found = {"outputs": outputs}, {}
    for gradients, left_out in zip(found, (False, True), strict=True):
        kept = places | (not left_out)
        products = passed[:, None, ..., None, None] * windows
        terms = np.where(kept[:, None, ..., None, None], products, 0)
        gradients["kernel"] = terms.sum(axis=(2, 3, 4)).transpose(2, 3, 1, 0)
        gradients["bias"] = np.where(passes, grads, 0).sum(axis=(1, 2, 3))
        gradients["images"] = np.zeros_like(images)
        for i in range(size):
            for j in range(size):
                weights = kernel[i, j].T[:, :, None, None, None]  # [F, C, 1, 1, 1]
                terms = np.where(kept[:, None], passed[:, None] * weights, 0).sum(axis=0)
                rows = slice(i, i + stride * pool * height, stride)
                columns = slice(j, j + stride * pool * width, stride)
                gradients["images"][:, rows, columns] += terms
    return found
