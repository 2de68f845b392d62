"""A training as compiled calls: all that is decided before the first step."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

from mnist_jax import rng
from mnist_jax.loader import epoch_order, eval_chunks, steps_per_epoch, train_chunks
from mnist_jax.metrics import Sums, mean_metrics
from mnist_jax.sharding import create_mesh, replicated, split_batch
from mnist_jax.state import create_train_state
from mnist_jax.steps import Batch, run_eval_steps, run_steps


class Program(NamedTuple):
    """What a loop over epochs calls.

    Attributes:
        state: before the first step.
        train_chunks: (first_step, last_step) -> the chunks of the run between these steps, epoch
            after epoch, see `loader.train_chunks`.
        run_chunk: (state, chunk) -> (state, sums), see `steps.run_steps`. It uses up the state.
        measure: (params, split) -> the mean `loss` and `accuracy` over "validation" or "test".
    """

    state: TrainState
    train_chunks: Callable[[int, int], Iterator[Batch]]
    run_chunk: Callable[[TrainState, Batch], tuple[TrainState, Sums]]
    measure: Callable[[Any, str], dict[str, float]]


def compile_program(
    model: nn.Module,
    tx: optax.GradientTransformation,
    splits: dict[str, Any],
    *,
    seed: int,
    batch_size: int,
    chunk_steps: int,
) -> Program:
    """Places the data on the devices, initialises the state and compiles the steps.

    Args:
        model: images -> logits.
        tx: the optimizer.
        splits: (images uint8 [N, H, W, C], labels int32 [N]) for "train", "validation" and "test".
        seed: the root of all keys.
        batch_size: examples a step.
        chunk_steps: steps in one compiled call.
    """
    mesh = create_mesh()
    data = jax.block_until_ready(jax.device_put(splits, replicated(mesh)))
    images, labels = data["train"]
    num_examples, *image_shape = images.shape
    num_steps = steps_per_epoch(num_examples, batch_size)
    init_rng, shuffle_rng, dropout_rng = jax.device_put(
        [rng.stream(seed, role) for role in ("init", "shuffle", "dropout")], replicated(mesh)
    )
    state = create_train_state(model, tx, init_rng, tuple(image_shape))
    state = jax.device_put(state, replicated(mesh))
    layout = {"batch_size": batch_size, "sharding": split_batch(mesh)}

    def run_chunks(first_step: int, last_step: int) -> Iterator[Batch]:
        while first_step < last_step:
            epoch, epoch_step = divmod(first_step, num_steps)
            order = epoch_order(shuffle_rng, epoch, num_examples)
            yield from train_chunks(
                images, labels, order, epoch_step, chunk_steps=chunk_steps, **layout
            )
            first_step += num_steps - epoch_step

    by_size = {len(chunk["label"]): chunk for chunk in run_chunks(0, num_steps)}  # one or two
    compiled = {
        size: run_steps.lower(state, chunk, dropout_rng).compile()
        for size, chunk in by_size.items()
    }
    chunks_to_measure = {
        split: functools.partial(eval_chunks, *data[split], **layout)
        for split in ("validation", "test")
    }
    some_chunk = next(chunks_to_measure["validation"]())
    run_eval_chunk = run_eval_steps.lower(state.params, state.apply_fn, some_chunk).compile()

    def run_chunk(state: TrainState, chunk: Batch) -> tuple[TrainState, Sums]:
        return compiled[len(chunk["label"])](state, chunk, dropout_rng)

    def measure(params: Any, split: str) -> dict[str, float]:
        return mean_metrics(run_eval_chunk(params, chunk) for chunk in chunks_to_measure[split]())

    return Program(state, run_chunks, run_chunk, measure)
