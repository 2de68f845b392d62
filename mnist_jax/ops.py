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

MOST_WEIGHTS = 2**17  # beyond this, a matrix product is faster
SMALL_WINDOW = 16  # numbers; beyond this, copying windows costs more than the products of `rows`
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

    The bias and the rectifier come after the pooling, on fewer numbers. A maximum commutes with
    both, a mean only with the bias.

    The batch is the last axis, as in cuda-convnet: a CPU's vector instructions then work on many
    images at once, whatever the other sizes.

    Four lowerings give the same values and reverse-mode gradients, up to rounding and for finite
    numbers:

    `xla` is `lax.conv_general_dilated` followed by `lax.reduce_window`. The maximum has its own
    gradient, because XLA's, a select-and-scatter, is slow on CPUs, GPUs and TPUs.

    `matmul` makes both one matrix product. Every pooled output sees one window of the image,
    stride * (p - 1) + k pixels a side; the p * p convolution outputs inside it are the products of
    that window with the kernel placed at p * p offsets. Max-pooling becomes a maximum over p * p
    rows. This takes more arithmetic but less time: XLA's CPU back end runs the gradients of a
    convolution and of a max-pool as plain loops, which would take most of a step, while the
    gradient of a product is a product.

    `rows` is a convolution down the image, for TPUs. It multiplies a whole row of pixels and
    channels at once by a matrix with one band of the kernel for each column of outputs. This takes
    even more arithmetic, which matrix units have to spare, but copies no window. Pooling is as in
    `matmul`.

    `native` is the package's own kernel for CPUs, `native/conv_pool.cc`. It keeps the values
    between convolution and pooling in registers, where `matmul` writes them to memory and reads
    them back. A layer that `native.conv_pool.fits` excludes takes the next choice of `auto`.
    `jax.export` cannot write it.

    Args:
        images: float [C, H, W, B].
        kernel: float [kh, kw, C, F].
        bias: float [F], or None for no bias.
        stride: step of the convolution, in pixels, along both axes.
        padding: padding of the convolution: `VALID` for none, or `SAME` for zeros around the image
            that leave ceil(H / stride) rows, as in TensorFlow. Pooling never pads: rows and columns
            that do not fill a window are dropped.
        pool: reduction of a pooling window, `max` or `mean`. Of equal maxima, the first in
            row-major order gets the gradient.
        pool_size: p, the side of a pooling window and the distance between windows, in pixels; 1
            disables pooling.
        rectify: True to set negative outputs to 0.
        lowering: `matmul`, `xla`, `rows`, `native`, or `auto`, see `choose_lowering`.

    Returns:
        float [F, H', W', B].

    Raises:
        ValueError: the images are too small for one window or do not have the kernel's channels;
            the bias does not have its filters; an option is invalid; or the library of `native`
            cannot be made.

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
    if any(side < window for side, window in zip(padded.shape[1:3], size, strict=True)):
        raise ValueError(
            f"images of {images.shape[1]}x{images.shape[2]} pixels are too small for a kernel of "
            f"{kernel.shape[0]}x{kernel.shape[1]}, stride {stride}, {padding} padding and a "
            f"pooling window of {pool_size}: {size[0]}x{size[1]} are needed, padding included"
        )
    lowering = choose_lowering(padded, kernel, stride, pool_size, lowering)
    if lowering == "native":
        bias = jnp.zeros(kernel.shape[-1]) if bias is None else bias
        bias = bias.astype(kernel.dtype)
        options = native.Options(stride, pool, pool_size, rectify)
        return native.conv_pool(padded, kernel, bias, options)
    lower = {"matmul": _conv_pool_matmul, "rows": _conv_pool_rows, "xla": _conv_pool_xla}[lowering]
    outputs = lower(padded, kernel, stride, pool, pool_size)
    if bias is not None:
        outputs += bias.reshape(-1, 1, 1, 1)
    return jax.nn.relu(outputs) if rectify else outputs


def choose_lowering(
    images: Any, kernel: Any, stride: int, pool_size: int, lowering: str = "auto"
) -> str:
    """Chooses the lowering of `conv_pool` for a layer.

    `auto` is the lowering expected to be the fastest on the target, see `sharding.target`:

    On a CPU (`benchmarks/conv.py`) it is `native` if a compiler is found, one device has the whole
    batch, the stride is 1 and there are at most MOST_WEIGHTS weights. Otherwise it is `matmul`,
    because XLA's convolutions are plain loops within a scan.

    On a GPU (`benchmarks/accelerator.py`) it is `matmul` with pooling, `xla` without.

    On a TPU (`benchmarks/ahead.py`) it is `matmul` for windows of at most SMALL_WINDOW numbers,
    such as 4 by 4 pixels. Larger windows take `rows` with pooling, up to LARGEST_BANDS, and `xla`
    without pooling. The rest is `matmul`, as are float32 products without pooling: XLA composes
    them of six bfloat16 products each, which would take minutes to compile.

    Args:
        images: padded images, float [C, H, W, B], or their shape and type.
        kernel: kernel, float [kh, kw, C, F], or its shape and type.
        stride: step of the convolution.
        pool_size: side of a pooling window.
        lowering: the requested lowering.

    Raises:
        ValueError: the lowering is `native`, and its library cannot be compiled.
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
        columns = images.shape[2] // stride * pool_size  # of the rows of a window, all its offsets
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
    """Returns True if a TPU makes a float32 product of several bfloat16 ones."""
    config: Any = jax.config  # type checkers do not know its fields
    return config.jax_default_matmul_precision not in (None, "default", "bfloat16", "fastest")


def _window_size(kernel_shape: tuple[int, ...], stride: int, pool_size: int) -> tuple[int, int]:
    """Returns the height and width of the window that one pooled output sees."""
    height, width = (k + stride * (pool_size - 1) for k in kernel_shape[:2])
    return height, width


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
    """Computes the maximum of each window, with a gradient that is not a select-and-scatter."""
    window = (1, size, size, 1)
    return lax.reduce_window(images, -jnp.inf, lax.max, window, window, "VALID")


def _max_pool_forward(images: jax.Array, size: int) -> tuple[jax.Array, Any]:
    def by_places(images: jax.Array) -> jax.Array:
        height, width = (side - side % size for side in images.shape[1:3])
        offsets = [(i, j) for i in range(size) for j in range(size)]
        return _first_max(jnp.stack([images[:, i:height:size, j:width:size] for i, j in offsets]))

    return jax.vjp(by_places, images)


def _max_pool_backward(size: int, gradient: Any, grad: jax.Array) -> Any:
    del size
    return gradient(grad)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _conv_pool_matmul(
    images: jax.Array, kernel: jax.Array, stride: int, pool: str, pool_size: int
) -> jax.Array:
    height, width = _window_size(kernel.shape, stride, pool_size)
    room = stride * (pool_size - 1)
    # The rows of each window first, then their columns: fewer slices than pixel by pixel.
    windows = _slices(_slices(images, 1, height, stride * pool_size), 2, width, stride * pool_size)
    offsets = range(0, room + 1, stride)
    placements = jnp.stack(
        [
            jnp.pad(kernel, ((i, room - i), (j, room - j), (0, 0), (0, 0)))
            for i in offsets
            for j in offsets
        ]
    )
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
    # `tall`: the kernel at each offset in a window of rows, [p, window, kw, C, F].
    # `band`: the columns of a row that each column of outputs sees, [columns, kw, W].
    tall = jnp.stack(
        [
            jnp.pad(kernel, ((i, room - i), (0, 0), (0, 0), (0, 0)))
            for i in range(0, room + 1, stride)
        ]
    )
    columns = ((width - kernel.shape[1]) // stride + 1) // pool_size * pool_size
    seen = stride * np.arange(columns)[:, None] + np.arange(kernel.shape[1])
    band = (seen[..., None] == np.arange(width)).astype(kernel.dtype)
    # One factor is 0 or 1, so in float32 the product is the other one to the bit.
    bands = jnp.einsum("iakcf,qkw->awciqf", tall, band, precision="float32")
    shape = (*bands.shape[:4], -1, pool_size, features)
    bands = bands.reshape(shape).swapaxes(4, 5)  # the columns of a window lie apart: j, q / p
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
    """Takes every `step`-th row (or column) from each of `size` offsets: [size * C, ...]."""
    count = (images.shape[axis] - size) // step + 1
    return jnp.concatenate(
        [lax.slice_in_dim(images, i, i + step * (count - 1) + 1, step, axis) for i in range(size)]
    )


def _product(matrix: jax.Array, windows: jax.Array) -> jax.Array:
    """Multiplies over the first axis of the windows: [P, K], [K, H, W, B] -> [P, H, W, B].

    Its gradient sums over places and batch. On a CPU, several axes would make XLA transpose an
    array (4 % of a step of the reference network, half a step of a deeper one), while a single axis
    would make every device gather all windows of a split batch. Places and batch therefore become
    one axis on each device, which moves nothing. Elsewhere XLA lays out arrays itself.
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

    `jnp.max` would divide the gradient among them, and keep the candidates for it.
    """
    # Not `candidates.max(axis=0)`: if only that follows the product, jaxlib 0.10 fuses the two and
    # is far slower.
    return functools.reduce(jnp.maximum, candidates)


def _first_max_forward(candidates: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    numbers = jnp.arange(len(candidates), dtype=jnp.uint8 if len(candidates) <= 256 else jnp.int32)
    return candidates.max(axis=0), (lax.argmax(candidates, 0, numbers.dtype), numbers)


def _first_max_backward(residuals: tuple[jax.Array, jax.Array], grad: jax.Array):
    winner, numbers = residuals
    return (jnp.where(winner[None] == numbers.reshape(-1, 1, 1, 1, 1), grad[None], 0),)


_first_max.defvjp(_first_max_forward, _first_max_backward)
