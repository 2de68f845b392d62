"""Array to array primitives with fast lowerings."""

import functools
from typing import Any

import jax
import jax.numpy as jnp


def conv_max_pool(images: jax.Array, kernel: jax.Array, pool_size: int) -> jax.Array:
    """Convolves (stride 1, no padding) and takes the maximum of each pooling window, in one pass.

    Equal to `lax.conv_general_dilated` followed by `lax.reduce_window`, values and gradients, ties
    included (the first of equal maxima in row-major order gets the gradient).

    Every pooled output sees one window of k + p - 1 pixels a side. The p * p convolution outputs
    inside it are the products of that window with the kernel placed at p * p offsets, so the
    whole layer is one matrix product and p * p - 1 element-wise maxima; its gradient is another
    product. XLA's CPU back end runs the gradients of a convolution and of a max-pool as plain
    loops, which then take most of a step.

    Args:
        images: float [B, H, W, C].
        kernel: float [k, k, C, F].
        pool_size: p, 1 or more; 1 is a plain convolution.

    Returns:
        float [B, (H - k + 1) // p, (W - k + 1) // p, F]; rows and columns that do not fill a
        pooling window are left out.

    Raises:
        ValueError: the images are smaller than k + p - 1 a side, so no window fits.

    References:
        K. Chellapilla, S. Puri and P. Simard, "High Performance Convolutional Neural Networks for
        Document Processing", 2006 (convolution as a matrix product).
    """
    size = kernel.shape[0] + pool_size - 1
    if min(images.shape[1:3]) < size:
        raise ValueError(
            f"images of {images.shape[1]}x{images.shape[2]} pixels are too small for a kernel of "
            f"{kernel.shape[0]} and a pooling window of {pool_size}: {size} a side are needed"
        )
    return _conv_max_pool(images, kernel, pool_size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_max_pool(images: jax.Array, kernel: jax.Array, pool_size: int) -> Any:
    return _forward(images, kernel, pool_size)[0]


def _forward(images: jax.Array, kernel: jax.Array, pool_size: int):
    features = kernel.shape[-1]
    products = _products(images, kernel, pool_size)
    best = products[:, :features]
    winner = jnp.zeros(best.shape, jnp.int32)
    # A chain of two-argument maxima: XLA fuses it, which it does not do for reshape and max.
    for n in range(1, pool_size**2):
        candidate = products[:, n * features : (n + 1) * features]
        winner = jnp.where(candidate > best, n, winner)
        best = jnp.maximum(candidate, best)
    batch, height, width = images.shape[:3]
    size = kernel.shape[0] + pool_size - 1
    shape = (batch, _count(height, size, pool_size), _count(width, size, pool_size), features)
    return best.reshape(shape), (images, kernel, winner)


def _backward(pool_size: int, residuals, grad: jax.Array):
    images, kernel, winner = residuals
    grad = grad.reshape(winner.shape)
    # Only the winner of a window gets its gradient: the others' columns are zero.
    grads = jnp.concatenate([jnp.where(winner == n, grad, 0) for n in range(pool_size**2)], axis=1)
    _, transpose = jax.vjp(functools.partial(_products, pool_size=pool_size), images, kernel)
    return transpose(grads)


_conv_max_pool.defvjp(_forward, _backward)


def _products(images: jax.Array, kernel: jax.Array, pool_size: int) -> jax.Array:
    """The convolution outputs that compete in each pooling window: [B * H' * W', p*p * F]."""
    windows = _windows(images, kernel.shape[0] + pool_size - 1, pool_size)
    # Two dimensions: from four, XLA's CPU back end makes a slower product.
    return windows.reshape(-1, windows.shape[-1]) @ _placements(kernel, pool_size)


def _windows(images: jax.Array, size: int, stride: int) -> jax.Array:
    """Cuts windows out of [B, H, W, C] and flattens each: [B, H', W', size*size * C]."""
    height = _count(images.shape[1], size, stride)
    width = _count(images.shape[2], size, stride)
    return jnp.concatenate(
        [
            images[:, i : i + stride * height : stride, j : j + stride * width : stride]
            for i in range(size)
            for j in range(size)
        ],
        axis=-1,
    )


def _count(length: int, size: int, stride: int) -> int:
    """How many windows fit along a side."""
    return (length - size) // stride + 1


def _placements(kernel: jax.Array, pool_size: int) -> jax.Array:
    """Places [k, k, C, F] at each of the p*p offsets of a window: [(k+p-1)**2 * C, p*p * F]."""
    room = pool_size - 1
    return jnp.concatenate(
        [
            jnp.pad(kernel, ((i, room - i), (j, room - j), (0, 0), (0, 0))).reshape(
                -1, kernel.shape[-1]
            )
            for i in range(pool_size)
            for j in range(pool_size)
        ],
        axis=-1,
    )
