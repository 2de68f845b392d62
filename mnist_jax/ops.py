"""A fused convolution and pooling with fast lowerings."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnist_jax.native import conv_pool as native
from mnist_jax.native.library import load
from mnist_jax.sharding import target

MOST_WEIGHTS = 2**17  # with more, a matrix product is faster
SMALL_WINDOW = 16  # numbers; copying larger windows costs more than the products of `rows`
LARGEST_BANDS = 2**18  # numbers in the matrix of `rows`, which grows with the width squared


def conv_pool(
    images: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    stride: int = 1,
    padding: str = "VALID",
    pool: str = "max",
    pool_size: int = 1,
    rectify: bool = False,
    lowering: str = "auto",
) -> jax.Array:
    """Convolves, pools, adds a bias and rectifies, in one pass.

    Bias and rectifier follow the pooling, on fewer numbers: a maximum commutes with both, a mean
    only with the bias. The batch is the last axis, as in cuda-convnet, so that a CPU's vectors hold
    many images, whatever the other sizes.

    Four lowerings give the same values and reverse-mode gradients, up to rounding and for finite
    numbers:

    `xla` is `lax.conv_general_dilated`, then `lax.reduce_window`. The maximum has its own gradient,
    because XLA's, a select-and-scatter, is slow.

    `matmul` makes both one matrix product, see docs/network.md: the window of a pooled output,
    stride * (p - 1) + k pixels a side, times the kernel at its p * p offsets, which are then
    pooled. It is more arithmetic in less time: XLA's CPU back end runs the gradients of
    convolutions and max-pools as plain loops.

    `rows`, for TPUs, is a convolution down the image. It multiplies rows of pixels and channels by
    a matrix with a band of the kernel for each column of outputs: even more arithmetic, but no
    copies of windows. It pools like `matmul`.

    `native` is the package's kernel for CPUs, `native/conv_pool.cc`, which keeps the values before
    pooling in registers. A layer that `native.conv_pool.fits` excludes takes the next choice of
    `auto`. `jax.export` cannot write it.

    Args:
        images: float [C, H, W, B].
        kernel: float [kh, kw, C, F].
        bias: float [F], or None.
        stride: step of the convolution along both axes, in pixels.
        padding: `VALID` for none, or `SAME` for zeros around the image that leave ceil(H / stride)
            rows, as in TensorFlow. Pooling drops rows and columns that do not fill a window.
        pool: reduction of a window, `max` or `mean`. Of equal maxima, the first in row-major order
            gets the gradient.
        pool_size: p, the side and the distance of windows, in pixels; 1 disables pooling.
        rectify: True to set negative outputs to 0.
        lowering: `matmul`, `xla`, `rows`, `native`, or `auto`, see `choose_lowering`.

    Returns:
        float [F, H', W', B].

    Raises:
        ValueError: images, kernel and bias do not fit each other; an option is invalid; or the
            library of `native` cannot be compiled.

    References:
        K. Chellapilla, S. Puri and P. Simard, "High Performance Convolutional Neural Networks for
        Document Processing", 2006 (convolution as a matrix product).
        https://code.google.com/archive/p/cuda-convnet (batch last).
    """
    for name, value, names in (
        ("padding", padding, ("VALID", "SAME")),
        ("pool", pool, ("max", "mean")),
        ("lowering", lowering, ("auto", "matmul", "xla", "rows", "native")),
    ):
        if value not in names:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(names)}")
    for name, value in (("stride", stride), ("pool_size", pool_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if images.shape[0] != kernel.shape[2]:
        raise ValueError(
            f"images of {images.shape[0]} channels do not fit a kernel for {kernel.shape[2]}: "
            "images are [C, H, W, B], a kernel is [kh, kw, C, F]"
        )
    if bias is not None and bias.shape != kernel.shape[-1:]:
        raise ValueError(
            f"a bias of shape {bias.shape} does not fit a kernel of {kernel.shape[-1]} filters: a "
            "bias is [F], a kernel is [kh, kw, C, F]"
        )
    pads = lax.padtype_to_pads(images.shape[1:3], kernel.shape[:2], (stride, stride), padding)
    padded = jnp.pad(images, ((0, 0), *pads, (0, 0)))
    size = _window_size(kernel.shape, stride, pool_size)
    if padded.shape[1] < size[0] or padded.shape[2] < size[1]:
        raise ValueError(
            f"images of {images.shape[1]}x{images.shape[2]} pixels are too small for a kernel of "
            f"{kernel.shape[0]}x{kernel.shape[1]}, stride {stride}, {padding} padding and a "
            f"pooling window of {pool_size}: {size[0]}x{size[1]} are needed, padding included"
        )
    lowering = choose_lowering(padded, kernel, stride, pool_size, lowering)
    if lowering == "native":
        bias = jnp.zeros(kernel.shape[-1]) if bias is None else bias
        options = native.Options(stride, pool, pool_size, rectify)
        return native.conv_pool(padded, kernel, bias.astype(kernel.dtype), options)
    lower = {"matmul": _conv_pool_matmul, "rows": _conv_pool_rows, "xla": _conv_pool_xla}[lowering]
    outputs = lower(padded, kernel, stride, pool, pool_size)
    if bias is not None:
        outputs += bias.reshape(-1, 1, 1, 1)
    return jax.nn.relu(outputs) if rectify else outputs


def choose_lowering(
    images: Any, kernel: Any, stride: int, pool_size: int, lowering: str = "auto"
) -> str:
    """Chooses the lowering of `conv_pool` for a layer.

    `auto` picks the one expected to be fastest on `sharding.target`: on GPUs and TPUs, those of
    docs/accelerators.md; on CPUs (`benchmarks/conv.py`) `native` if a compiler is found, one device
    has the whole batch, and the layer is small and of stride 1, else `matmul`, because XLA's
    convolutions are plain loops within a scan.

    The padded images and the kernel may be shapes with types. Raises ValueError if `native` cannot
    be compiled.
    """
    if lowering in ("matmul", "xla", "rows"):
        return lowering
    platform, devices = target()
    if platform == "tpu":
        height, width = _window_size(kernel.shape, stride, pool_size)
        if height * width * kernel.shape[2] <= SMALL_WINDOW:
            return "matmul"
        if pool_size == 1:
            return "matmul" if _in_parts() and images.dtype != jnp.bfloat16 else "xla"
        columns = images.shape[2] // stride * pool_size
        bands = height * images.shape[2] * kernel.shape[2] * columns * kernel.shape[3]
        return "rows" if bands <= LARGEST_BANDS else "matmul"
    if platform != "cpu":
        return "matmul" if pool_size > 1 else "xla"
    asked = lowering == "native"
    pays = stride == 1 and math.prod(kernel.shape) <= MOST_WEIGHTS and devices == 1
    if (asked or pays) and native.fits(images, kernel, pool_size):
        library = load()
        if not library.problem:
            return "native"
        if asked:
            raise ValueError(f"the lowering `native` cannot be used: {library.problem}")
    return "matmul"


def _in_parts() -> bool:
    """Tells whether a TPU composes float32 products of bfloat16 ones."""
    config: Any = jax.config
    return config.jax_default_matmul_precision not in (None, "default", "bfloat16", "fastest")


def _window_size(kernel_shape: tuple[int, ...], stride: int, pool_size: int) -> tuple[int, int]:
    """Returns height and width of the window that a pooled output sees."""
    room = stride * (pool_size - 1)
    return kernel_shape[0] + room, kernel_shape[1] + room


def _conv_pool_xla(
    images: jax.Array, kernel: jax.Array, stride: int, pool: str, pool_size: int
) -> jax.Array:
    outputs = lax.conv_general_dilated(
        images, kernel, (stride, stride), "VALID", dimension_numbers=("CHWN", "HWIO", "CHWN")
    )
    if pool == "max":
        return _max_pool(outputs, pool_size)
    window = (1, pool_size, pool_size, 1)
    return lax.reduce_window(outputs, 0.0, lax.add, window, window, "VALID") / pool_size**2


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(images: jax.Array, size: int) -> jax.Array:
    """Computes the maximum of each window; its gradient is not a select-and-scatter."""
    window = (1, size, size, 1)
    return lax.reduce_window(images, -jnp.inf, lax.max, window, window, "VALID")


def _max_pool_forward(images: jax.Array, size: int) -> tuple[jax.Array, Any]:
    def by_places(images: jax.Array) -> jax.Array:
        height, width = (side - side % size for side in images.shape[1:3])
        offsets = [(i, j) for i in range(size) for j in range(size)]
        return _first_max(jnp.stack([images[:, i:height:size, j:width:size] for i, j in offsets]))

    return jax.vjp(by_places, images)


_max_pool.defvjp(_max_pool_forward, lambda _, gradient, grad: gradient(grad))


def _conv_pool_matmul(
    images: jax.Array, kernel: jax.Array, stride: int, pool: str, pool_size: int
) -> jax.Array:
    height, width = _window_size(kernel.shape, stride, pool_size)
    room = stride * (pool_size - 1)
    # Rows first, then columns: fewer slices than pixel by pixel.
    windows = _slices(_slices(images, 1, height, stride * pool_size), 2, width, stride * pool_size)
    offsets = range(0, room + 1, stride)
    pads = [((i, room - i), (j, room - j), (0, 0), (0, 0)) for i in offsets for j in offsets]
    placements = jnp.stack([jnp.pad(kernel, pad) for pad in pads])
    if pool == "mean":  # the mean of the products is the product with the mean
        placements = placements.mean(axis=0, keepdims=True)
    placements = placements.transpose(0, 4, 2, 1, 3).reshape(-1, len(windows))
    products = _product(placements, windows).reshape(-1, kernel.shape[-1], *windows.shape[1:])
    return _pooled(products, pool)


def _conv_pool_rows(
    images: jax.Array, kernel: jax.Array, stride: int, pool: str, pool_size: int
) -> jax.Array:
    width, features = images.shape[2], kernel.shape[-1]
    room = stride * (pool_size - 1)
    # tall: the kernel at each offset in a window of rows, [p, window, kw, C, F].
    # band: the columns of a row that each column of outputs sees, [columns, kw, W].
    pads = [((i, room - i), (0, 0), (0, 0), (0, 0)) for i in range(0, room + 1, stride)]
    tall = jnp.stack([jnp.pad(kernel, pad) for pad in pads])
    columns = ((width - kernel.shape[1]) // stride + 1) // pool_size * pool_size
    seen = stride * np.arange(columns)[:, None] + np.arange(kernel.shape[1])
    band = (seen[..., None] == np.arange(width)).astype(kernel.dtype)
    # One factor is 0 or 1, so a float32 product is the other one to the bit.
    bands = jnp.einsum("iakcf,qkw->awciqf", tall, band, precision="float32")
    shape = (*bands.shape[:4], -1, pool_size, features)
    bands = bands.reshape(shape).swapaxes(4, 5)  # a window's columns lie apart: j, q / p
    outputs = lax.conv_general_dilated(
        images,
        bands.reshape(*bands.shape[:3], -1),
        (stride * pool_size, 1),
        "VALID",
        dimension_numbers=("CHWN", "HWIO", "CHWN"),
    )
    outputs = outputs.reshape(pool_size**2, -1, features, outputs.shape[1], images.shape[-1])
    return _pooled(outputs, pool).transpose(1, 2, 0, 3)


def _slices(images: jax.Array, axis: int, size: int, step: int) -> jax.Array:
    """Takes every `step`-th row or column from each of `size` offsets: [size * C, ...]."""
    count = (images.shape[axis] - size) // step + 1
    return jnp.concatenate(
        [lax.slice_in_dim(images, i, i + step * (count - 1) + 1, step, axis) for i in range(size)]
    )


def _product(matrix: jax.Array, windows: jax.Array) -> jax.Array:
    """Multiplies over the first axis of the windows: [P, K], [K, H, W, B] -> [P, H, W, B].

    Its gradient sums over places and batch. XLA's CPU back end would transpose an array for several
    axes, and gather a split batch for a single one; one axis per device moves nothing.
    """
    platform, parts = target()
    if platform != "cpu":
        return jnp.tensordot(matrix, windows, 1)
    if windows.shape[-1] % parts:
        parts = 1
    by_part = windows.reshape(*windows.shape[:-1], parts, -1)  # [K, H, W, parts, B / parts]
    by_part = jnp.moveaxis(by_part, -2, 0).reshape(parts, len(windows), -1)
    products = jnp.broadcast_to(matrix, (parts, *matrix.shape)) @ by_part
    products = products.reshape(parts, len(matrix), *windows.shape[1:3], -1)
    return jnp.moveaxis(products, 0, -2).reshape(len(matrix), *windows.shape[1:])


def _pooled(places: jax.Array, pool: str) -> jax.Array:
    """Pools over the first axis, the places of a window."""
    if len(places) == 1:
        return places[0]
    return _first_max(places) if pool == "max" else places.mean(axis=0)


@jax.custom_vjp
def _first_max(candidates: jax.Array) -> jax.Array:
    """Computes the maximum over the first axis; the first of equal maxima gets the gradient.

    `jnp.max` would divide the gradient among them, and keep the candidates.
    """
    # Not `candidates.max(axis=0)`, which jaxlib 0.10 fuses with the product and slows down.
    return functools.reduce(jnp.maximum, candidates)


def _first_max_forward(candidates: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    numbers = jnp.arange(len(candidates), dtype=jnp.uint8 if len(candidates) <= 256 else jnp.int32)
    return candidates.max(axis=0), (lax.argmax(candidates, 0, numbers.dtype), numbers)


def _first_max_backward(residuals: tuple[jax.Array, jax.Array], grad: jax.Array):
    winner, numbers = residuals
    return (jnp.where(winner[None] == numbers.reshape(-1, 1, 1, 1, 1), grad[None], 0),)


_first_max.defvjp(_first_max_forward, _first_max_backward)
