"""Chunks of batches, in an order computed from (seed, epoch)."""

import functools
import math
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from mnist_jax.datasets.arrays import Split
from mnist_jax.datasets.streamed import StreamedImages
from mnist_jax.sharding import place

EVAL_IMAGES = 2048  # images in a compiled evaluation call, or one batch


def place_splits(splits: Mapping[str, Split], sharding: NamedSharding) -> dict[str, Split]:
    """Puts splits on the devices, except streamed ones."""
    return {
        name: split
        if isinstance(split[0], StreamedImages)
        else jax.block_until_ready(place(split, sharding))
        for name, split in splits.items()
    }


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Counts the batches of an epoch; the last one may be padded."""
    return math.ceil(num_examples / batch_size)


def epochs_between(
    first_step: int, last_step: int, steps_per_epoch: int
) -> Iterator[tuple[int, int]]:
    """Yields the epochs between two steps, each with its own first step, all from 0."""
    while first_step < last_step:
        epoch, epoch_step = divmod(first_step, steps_per_epoch)
        yield epoch, epoch_step
        first_step += steps_per_epoch - epoch_step


def chunk_grid(
    first_step: int, steps_per_epoch: int, chunk_steps: int
) -> Iterator[tuple[int, int]]:
    """Yields first step and length of an epoch's chunks; the last one may be shorter.

    `first_step` must be the end of a chunk. Chunks end on multiples of `chunk_steps`, so a run
    makes the same compiled calls wherever it resumes.
    """
    for chunk_step in range(first_step, steps_per_epoch, chunk_steps):
        yield chunk_step, min(chunk_steps, steps_per_epoch - chunk_step)


@functools.partial(jax.jit, static_argnums=2)
def epoch_order(rng: jax.Array, epoch: int | jax.Array, num_examples: int) -> jax.Array:
    """Draws the order of an epoch's examples, a permutation: int32 [num_examples].

    It depends only on key and epoch (from 0), so a resumed run needs no saved order.
    """
    return jax.random.permutation(jax.random.fold_in(rng, epoch), num_examples)


def chunk_index(
    order: Any, first_step: Any, *, chunk_steps: int, batch_size: int, devices: int = 1
) -> tuple[Any, Any]:
    """Returns the indices of the examples in the batches of a chunk.

    Step s of the epoch sees `order[s * batch_size : (s + 1) * batch_size]`. Batches are padded with
    arbitrary examples, whose mask is False.

    Args:
        order: int32 [N], of JAX or NumPy, as is the result.
        first_step: first step of the chunk, from 0 in the epoch.
        chunk_steps: number of steps, k.
        batch_size: examples per step, B.
        devices: number of devices; B' is B rounded up to a multiple of it.

    Returns:
        int32 [k, B'], and the mask, bool [k, B'].
    """
    column = np.arange(math.ceil(batch_size / devices) * devices, dtype=np.int32)[None, :]
    step = first_step + np.arange(chunk_steps, dtype=np.int32)[:, None]
    position = step * batch_size + column
    mask = (column < batch_size) & (position < len(order))
    return order[position.clip(max=len(order) - 1)], mask


@functools.partial(jax.jit, static_argnames=("chunk_steps", "batch_size", "sharding"))
def take_chunk(
    images: jax.Array,
    labels: jax.Array,
    order: jax.Array,
    first_step: int | jax.Array,
    *,
    chunk_steps: int,
    batch_size: int,
    sharding: NamedSharding | None = None,
) -> dict[str, jax.Array]:
    """Gathers the batches of a chunk on the devices; see `chunk_index` for the other arguments.

    Images are uint8 [N, H, W, C], whole on every device, and labels int32 [N]. The chunk gets the
    sharding, see `sharding.split_batch`; None means one device.

    Returns:
        `image` uint8 [k, B', H, W, C], `label` int32 [k, B'] and `mask` bool [k, B'].
    """
    devices = sharding.mesh.size if sharding else 1
    index, mask = chunk_index(
        order, first_step, chunk_steps=chunk_steps, batch_size=batch_size, devices=devices
    )
    chunk = {"image": images[index], "label": labels[index], "mask": mask}
    return jax.lax.with_sharding_constraint(chunk, sharding) if sharding else chunk


def read_chunk(
    images: Any,
    labels: np.ndarray,
    order: Any,
    first_step: int,
    *,
    sharding: NamedSharding,
    **sizes: int,
) -> dict[str, jax.Array]:
    """Gathers a chunk like `take_chunk`, on the host, and sends it to the devices.

    `images` are a NumPy array or `StreamedImages`; a process reads those of its own devices.
    """
    devices = sharding.mesh.size
    index, mask = chunk_index(np.asarray(order), first_step, **sizes, devices=devices)

    def read(own: Any) -> np.ndarray:  # `own`: a device's slices of the chunk
        return images[index[own[:2]]]

    shape = (*index.shape, *images.shape[1:])
    return {
        "image": jax.make_array_from_callback(shape, sharding, read),
        **place({"label": labels[index], "mask": mask}, sharding),
    }


def prefetch(chunks: Iterator[Any], depth: int = 2) -> Generator[Any]:
    """Yields an iterator's items while a thread makes the next `depth`."""
    with ThreadPoolExecutor(1) as thread:
        ahead = deque(thread.submit(next, chunks, None) for _ in range(depth))
        while (chunk := ahead.popleft().result()) is not None:
            ahead.append(thread.submit(next, chunks, None))
            yield chunk


def train_chunks(
    images: Any, labels: Any, order: Any, first_step: int = 0, *, chunk_steps: int, **layout: Any
) -> Iterator[dict[str, jax.Array]]:
    """Yields an epoch's chunks, by `take_chunk`, or by `read_chunk` for images on the host."""
    steps = steps_per_epoch(len(order), layout["batch_size"])
    return _gather(images, labels, order, chunk_grid(first_step, steps, chunk_steps), **layout)


def eval_chunks(
    images: Any, labels: Any, *, batch_size: int, sharding: NamedSharding
) -> Generator[dict[str, jax.Array]]:
    """Yields all examples in their own order, in padded chunks of one size."""
    on_device = isinstance(images, jax.Array)
    order = (jnp if on_device else np).arange(len(images), dtype=jnp.int32)
    size = max(1, EVAL_IMAGES // batch_size)
    grid = ((first, size) for first in range(0, steps_per_epoch(len(images), batch_size), size))
    chunks = _gather(images, labels, order, grid, batch_size=batch_size, sharding=sharding)
    return chunks if on_device else prefetch(chunks)


def _gather(
    images: Any, labels: Any, order: Any, grid: Iterator[tuple[int, int]], **layout: Any
) -> Generator[dict[str, jax.Array]]:
    gather = take_chunk if isinstance(images, jax.Array) else read_chunk
    for first_step, size in grid:
        yield gather(images, labels, order, first_step, chunk_steps=size, **layout)
