"""Times the lowerings of `ops.conv_pool`, with gradients, over layers of many shapes.

    python benchmarks/conv.py

The last column is the choice of `auto`, with its cost if it is not the fastest. Times include bias
and rectifier, which `native` computes in the same pass. Steps run in a scan, as in training.
"""

import functools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from machine import alternate, headline
from markdown_table import print_table

from mnist_jax.native.conv_pool import fits
from mnist_jax.ops import choose_lowering, conv_pool

STEPS = 5  # per call
# channels, side, kernel, filters, stride, padding, pool, batch
LAYERS = [
    (1, 28, 3, 32, 1, "VALID", 2, 128),
    (1, 28, 3, 8, 1, "VALID", 2, 128),
    (1, 28, 3, 256, 1, "VALID", 2, 128),
    (1, 28, 5, 12, 1, "VALID", 2, 128),
    (12, 12, 5, 24, 1, "VALID", 2, 128),
    (1, 28, 3, 32, 1, "VALID", 2, 1024),
    (1, 28, 3, 32, 2, "SAME", 1, 128),
    (1, 28, 3, 32, 1, "VALID", 3, 128),
    (3, 32, 3, 32, 1, "SAME", 2, 128),
    (32, 14, 3, 64, 2, "SAME", 1, 128),
    (32, 13, 3, 64, 1, "SAME", 1, 128),
    (64, 14, 1, 64, 1, "VALID", 1, 128),
    (64, 13, 3, 64, 1, "SAME", 1, 128),
    (64, 13, 3, 64, 1, "SAME", 2, 128),
    (128, 7, 3, 128, 1, "SAME", 1, 128),
    (256, 7, 3, 256, 1, "SAME", 1, 64),
    (64, 14, 5, 64, 1, "SAME", 1, 64),
    (64, 14, 5, 64, 1, "SAME", 2, 64),
    (32, 28, 5, 32, 1, "SAME", 2, 64),
    (32, 12, 3, 64, 1, "VALID", 4, 128),
]


def descend(lowering: str, *, images_too: bool, **options: Any) -> Callable:
    """Creates compiled steps of gradient descent on a kernel, and perhaps on the images."""

    def layer(kernel, images):
        bias = jnp.zeros(kernel.shape[-1])
        return conv_pool(images, kernel, bias, rectify=True, lowering=lowering, **options)

    def steps(arrays, grads):
        def step(arrays, _):
            kernel, images = arrays
            d_kernel, d_images = jax.vjp(layer, kernel, images)[1](grads)
            if images_too:  # otherwise XLA drops their gradient
                images -= 1e-9 * d_images
            return (kernel - 1e-9 * d_kernel, images), None

        return jax.lax.scan(step, arrays, length=STEPS)[0]

    return jax.jit(steps)


def measure(
    channels: int,
    side: int,
    size: int,
    filters: int,
    stride: int,
    padding: str,
    pool: int,
    batch: int,
) -> dict[str, Any]:
    """Times the lowerings of a layer."""
    keys = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(keys[0], (channels, side, side, batch))
    kernel = jax.random.normal(keys[1], (size, size, channels, filters))
    options = {"stride": stride, "padding": padding, "pool_size": pool}
    shape = jax.eval_shape(lambda *x: conv_pool(*x, **options), images, kernel)
    grads = jax.random.normal(keys[2], shape.shape)
    images_too = channels not in (1, 3)  # not in the first layer of a network
    chosen = choose_lowering(images, kernel, stride, pool)

    def times(names: Sequence[str], rounds: int) -> dict[str, float]:
        steps = {name: descend(name, images_too=images_too, **options) for name in names}
        runs = {name: functools.partial(steps[name], (kernel, images), grads) for name in names}
        found = alternate(runs, rounds, scale=1e3 / STEPS)
        return {name: statistics.median(values) for name, values in found.items()}

    fast = ("matmul", "native") if fits(images, kernel, pool) else ("matmul",)
    medians = times(fast, 5) | times(("xla",), 1)
    loss = medians[chosen] / min(medians.values())
    return {
        "layer": f"{channels}x{side}x{side}, {size}x{size} to {filters}, stride {stride}, "
        f"{padding}, pool {pool}, batch {batch}",
        **{f"{name}, ms": medians.get(name) for name in ("native", "matmul", "xla")},
        "auto": f"{chosen}{f', {loss:.2f} times the fastest' if loss > 1.05 else ''}",
    }


def main() -> None:
    """Prints a row per layer."""
    print_table(measure(*layer) for layer in LAYERS)
    print(f"\nMedians of 5; xla once. {headline()}")


if __name__ == "__main__":
    main()
