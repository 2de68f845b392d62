"""A training as compiled calls: all that is decided before the first step."""

import contextlib
import functools
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn

from mnist_jax import rng
from mnist_jax.datasets.streamed import StreamedImages
from mnist_jax.loader import (
    chunk_grid,
    epoch_order,
    epochs_between,
    eval_chunks,
    prefetch,
    steps_per_epoch,
    train_chunks,
)
from mnist_jax.metrics import Sums, mean_metrics
from mnist_jax.sharding import create_mesh, place, replicated, split_batch
from mnist_jax.state import TrainState, create_train_state
from mnist_jax.steps import Batch, run_eval_steps, run_steps


class Program(NamedTuple):
    """What a loop over epochs calls.

    Attributes:
        state: before the first step.
        train_chunks: (first_step, last_step) -> the chunks of the run between these steps, epoch
            after epoch, see `loader.train_chunks`.
        run_chunk: (state, chunk, rate_scale) -> (state, sums), see `steps.run_steps`. It uses up
            the state.
        measure: (state, split) -> the mean `loss` and `accuracy` over "validation" or "test".
        place: puts a state on the devices.
        collect: its inverse, for a checkpoint.
    """

    state: TrainState
    train_chunks: Callable[[int, int], Generator[Batch]]
    run_chunk: Callable[[TrainState, Batch, float], tuple[TrainState, Sums]]
    measure: Callable[[TrainState, str], dict[str, float]]
    place: Callable[[TrainState], TrainState] = lambda state: state
    collect: Callable[[TrainState], TrainState] = lambda state: state


def compile_program(
    model: nn.Module,
    tx: optax.GradientTransformation,
    splits: dict[str, Any],
    *,
    seed: int,
    batch_size: int,
    chunk_steps: int,
    **options: Any,
) -> Program:
    """Places the data on the devices, initialises the state and compiles the steps.

    Images that are `StreamedImages` stay where they are: a thread reads ahead what is needed.

    Args:
        model: images -> logits.
        tx: the optimizer.
        splits: (images uint8 [N, H, W, C], labels int32 [N]) for "train", "validation" and "test".
        seed: the root of all keys.
        batch_size: examples a step.
        chunk_steps: steps in one compiled call.
        options: of `steps.train_step`: `ema_decay`, `label_smoothing`, augmentations.
    """
    mesh = create_mesh()
    whole = replicated(mesh)
    data, streams_images = splits, isinstance(splits["train"][0], StreamedImages)
    if not streams_images:
        data = jax.block_until_ready(place(splits, whole))
    images, labels = data["train"]
    num_examples, *image_shape = images.shape
    num_steps = steps_per_epoch(num_examples, batch_size)
    streams = jax.jit(
        lambda seed: {role: rng.stream(seed, role) for role in rng.ROLES}, out_shardings=whole
    )(np.uint32(seed))
    step_rngs = {role: streams[role] for role in ("dropout", "augment")}
    averaged = options.get("ema_decay", 0.0) > 0
    init = functools.partial(
        create_train_state, model, tx, image_shape=tuple(image_shape), averaged=averaged
    )
    state = jax.jit(init, out_shardings=whole)(streams["init"])
    layout = {"batch_size": batch_size, "sharding": split_batch(mesh)}

    def chunks_between(first_step: int, last_step: int) -> Generator[Batch]:
        for epoch, epoch_step in epochs_between(first_step, last_step, num_steps):
            order = epoch_order(streams["shuffle"], epoch, num_examples)
            yield from train_chunks(
                images, labels, order, epoch_step, chunk_steps=chunk_steps, **layout
            )

    def run_chunks(first_step: int, last_step: int) -> Generator[Batch]:
        chunks = chunks_between(first_step, last_step)
        return prefetch(chunks) if streams_images else chunks

    # The last chunk of each size; there are one or two sizes.
    by_size = {size: first for first, size in chunk_grid(0, num_steps, chunk_steps)}
    # The old state's buffers become the new state's: whoever passes one in must not use it again.
    run = jax.jit(functools.partial(run_steps, **options), donate_argnums=0, out_shardings=whole)
    compiled = {
        size: run.lower(
            state, _first(run_chunks(first_step, num_steps)), step_rngs, np.float32(1)
        ).compile()
        for size, first_step in by_size.items()
    }
    chunks_to_measure = {
        split: functools.partial(eval_chunks, *data[split], **layout)
        for split in ("validation", "test")
    }
    some_chunk = _first(chunks_to_measure["validation"]())
    run_eval_chunk = run_eval_steps.lower(
        state.eval_variables, state.apply_fn, some_chunk
    ).compile()

    def run_chunk(
        state: TrainState, chunk: Batch, rate_scale: float = 1.0
    ) -> tuple[TrainState, Sums]:
        run_size = compiled[len(chunk["label"])]
        return run_size(state, chunk, step_rngs, np.float32(rate_scale))

    def measure(state: TrainState, split: str) -> dict[str, float]:
        variables = state.eval_variables
        return mean_metrics(run_eval_chunk(variables, c) for c in chunks_to_measure[split]())

    return Program(state, run_chunks, run_chunk, measure)


def _first(chunks: Generator[Batch]) -> Batch:
    with contextlib.closing(chunks):
        return next(chunks)
