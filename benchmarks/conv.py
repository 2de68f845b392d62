"""Times the lowerings of `ops.conv_pool`, with gradients, over layers of many shapes.

    python benchmarks/conv.py

The last column is the choice of `auto`, with its cost if it is not the fastest. Times include bias
and rectifier, since `native` computes them in the same pass. Steps run in a scan, as in training: a
separate call would wait for new memory.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from machine import describe, headline

from mnist_jax.native.conv_pool import fits
from mnist_jax.ops import choose_lowering, conv_pool

LOWERINGS = ("matmul", "xla", "native")
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
    """Returns compiled steps of gradient descent on a kernel and, if asked, on the images."""

    def layer(kernel, images):
        bias = jnp.zeros(kernel.shape[-1])
        return conv_pool(images, kernel, bias, rectify=True, lowering=lowering, **options)

    def steps(arrays, grads):
        def step(arrays, _):
            kernel, images = arrays
            d_kernel, d_images = jax.vjp(layer, kernel, images)[1](grads)
            if images_too:  # otherwise their gradient is unused and not computed
                images -= 1e-9 * d_images
            return (kernel - 1e-9 * d_kernel, images), None

        return jax.lax.scan(step, arrays, length=STEPS)[0]

    return jax.jit(steps)


def main() -> None:
    """Prints a row per layer."""
    print(f"| layer | {' | '.join(f'{name}, ms' for name in LOWERINGS)} | auto |")
    print("|---|---|---|---|---|")
    for channels, side, size, filters, stride, padding, pool, batch in LAYERS:
        keys = jax.random.split(jax.random.key(0), 3)
        images = jax.random.normal(keys[0], (channels, side, side, batch))
        kernel = jax.random.normal(keys[1], (size, size, channels, filters))
        # The first layer of a network needs no gradient of its images.
        images_too = channels not in (1, 3)

        chosen = choose_lowering(images, kernel, stride, pool)
        names = LOWERINGS if fits(images, kernel, pool) else LOWERINGS[:2]
        options = {"stride": stride, "padding": padding, "pool_size": pool}
        shape = jax.eval_shape(lambda *x, o=options: conv_pool(*x, **o), images, kernel)
        grads = jax.random.normal(keys[2], shape.shape)
        programs = {name: descend(name, images_too=images_too, **options) for name in names}
        seconds = {name: [] for name in programs}
        for _ in range(6):
            for name, program in programs.items():
                if name == "xla" and len(seconds[name]) > 1:
                    continue  # once is enough for so slow a lowering
                start = time.perf_counter()
                jax.block_until_ready(program((kernel, images), grads))
                seconds[name].append((time.perf_counter() - start) / STEPS)
        # The first call compiles.
        medians = {
            name: 1e3 * statistics.median(seconds[name][1:] or seconds[name]) for name in names
        }
        loss = medians[chosen] / min(medians.values())
        times = " | ".join(f"{medians[name]:.2f}" if name in names else "" for name in LOWERINGS)
        print(
            f"| {channels}x{side}x{side}, {size}x{size} to {filters}, stride {stride}, {padding}, "
            f"pool {pool}, batch {batch} | {times} | "
            f"{chosen}{f', {loss:.2f} times the fastest' if loss > 1.05 else ''} |"
        )
    print(f"\nMedians of 5; xla once. {headline(describe())}")


if __name__ == "__main__":
    main()
