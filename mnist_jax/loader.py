"""From arrays to chunks of batches; the order of the examples is arithmetic on (seed, epoch)."""

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

# Images in one compiled call of an evaluation, or one batch if that is more. One size for every
# split means one compilation.
EVAL_IMAGES = 2048


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Batches in one pass over the examples; the last one may be padded."""
    return math.ceil(num_examples / batch_size)


def epochs_between(
    first_step: int, last_step: int, steps_per_epoch: int
) -> Iterator[tuple[int, int]]:
    """Yields the epochs of the steps in between, each with its own step to begin at; all from 0."""
    while first_step < last_step:
        epoch, epoch_step = divmod(first_step, steps_per_epoch)
        yield epoch, epoch_step
        first_step += steps_per_epoch - epoch_step


def chunk_grid(first_step: int, num_steps: int, chunk_steps: int) -> Iterator[tuple[int, int]]:
    """Yields first step and length of the chunks of an epoch; the last one may be shorter.

    Chunks end on multiples of `chunk_steps` and at the end of the epoch, so they have one or two
    sizes, and a run makes the same compiled calls whatever step it continues from.

    Args:
        first_step: of the epoch, the end of a chunk.
        num_steps: of the whole epoch.
        chunk_steps: in a chunk.
    """
    for chunk_step in range(first_step, num_steps, chunk_steps):
        yield chunk_step, min(chunk_steps, num_steps - chunk_step)


@functools.partial(jax.jit, static_argnums=2)
def epoch_order(rng: jax.Array, epoch: int | jax.Array, num_examples: int) -> jax.Array:
    """Returns the order of the examples in an epoch, a permutation: int32 [num_examples].

    A pure function of the key and the epoch (counted from 0): nothing has to be saved to resume.
    """
    return jax.random.permutation(jax.random.fold_in(rng, epoch), num_examples)


@functools.partial(jax.jit, static_argnames=("num_steps", "batch_size", "sharding"))
def take_chunk(
    images: jax.Array,
    labels: jax.Array,
    order: jax.Array,
    first_step: int | jax.Array,
    *,
    num_steps: int,
    batch_size: int,
    sharding: NamedSharding | None = None,
) -> dict[str, jax.Array]:
    """Gathers the batches of `num_steps` steps of an epoch, on the device.

    Step s of the epoch sees the examples `order[s * batch_size : (s + 1) * batch_size]`. What lies
    beyond the end of the order, and what fills a batch up to a multiple of the device count, is
    padding: some example, with mask False.

    Args:
        images: uint8 [N, H, W, C], whole on every device.
        labels: int32 [N].
        order: int32 [N], or any part of it.
        first_step: the first step, counted from 0 in the epoch.
        num_steps: k.
        batch_size: B.
        sharding: of the chunk, see `sharding.split_batch`; None: one device has it all.

    Returns:
        `image` uint8 [k, B', H, W, C], `label` int32 [k, B'] and `mask` bool [k, B'], where B' is B
        rounded up to a multiple of the device count.
    """
    devices = sharding.mesh.size if sharding else 1
    column = jnp.arange(math.ceil(batch_size / devices) * devices)[None, :]
    step = first_step + jnp.arange(num_steps)[:, None]
    position = step * batch_size + column
    index = order.at[position].get(mode="clip")
    chunk = {
        "image": images[index],
        "label": labels[index],
        "mask": (column < batch_size) & (position < len(order)),
    }
    return jax.lax.with_sharding_constraint(chunk, sharding) if sharding else chunk


def train_chunks(
    images: jax.Array,
    labels: jax.Array,
    order: jax.Array,
    first_step: int = 0,
    *,
    chunk_steps: int,
    batch_size: int,
    sharding: NamedSharding,
) -> Iterator[dict[str, jax.Array]]:
    """Yields the batches of an epoch in chunks, see `chunk_grid`.

    Args and chunks as in `take_chunk`; `first_step` is the end of a chunk.
    """
    steps = steps_per_epoch(len(order), batch_size)
    for chunk_step, num_steps in chunk_grid(first_step, steps, chunk_steps):
        yield take_chunk(
            images,
            labels,
            order,
            chunk_step,
            num_steps=num_steps,
            batch_size=batch_size,
            sharding=sharding,
        )


def eval_chunks(
    images: jax.Array, labels: jax.Array, *, batch_size: int, sharding: NamedSharding
) -> Iterator[dict[str, jax.Array]]:
    """Yields all examples in their own order, in chunks of one size, the end padded.

    Args and chunks as in `take_chunk`.
    """
    order = jnp.arange(len(images), dtype=jnp.int32)
    num_steps = max(1, EVAL_IMAGES // batch_size)
    for first_step in range(0, steps_per_epoch(len(images), batch_size), num_steps):
        yield take_chunk(
            images,
            labels,
            order,
            first_step,
            num_steps=num_steps,
            batch_size=batch_size,
            sharding=sharding,
        )
