"""A training as compiled calls: all that is decided before the first step."""

import contextlib
import functools
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn

from mnist_jax import loader, rng
from mnist_jax.datasets.streamed import StreamedImages
from mnist_jax.metrics import Sums, mean_metrics
from mnist_jax.sharding import create_mesh, place, replicated, split_batch
from mnist_jax.state import TrainState, create_train_state
from mnist_jax.steps import Batch, run_eval_steps, run_steps


class Program(NamedTuple):
    """The compiled calls that a loop over epochs makes, for one network or a population of N.

    Attributes:
        state: the state before the first step, on the devices.
        train_chunks: (first_step, last_step) -> the chunks of the run between these steps, epoch
            after epoch: what `run_chunk` takes.
        run_chunk: (state, chunk, rate_factor) -> (state, sums), see `steps.run_steps`. It uses up
            the state. A population has N rate factors, and sums [N, k].
        measure: (state, split) -> the mean `loss` and `accuracy` over "validation" or "test"; a
            list of N in a population.
        place: puts a state, such as a checkpoint's, on the devices.
        collect: its inverse, for a checkpoint.
    """

    state: TrainState
    train_chunks: Callable[[int, int], Generator[Any]]
    run_chunk: Callable[[TrainState, Any, Any], tuple[TrainState, Sums]]
    measure: Callable[[TrainState, str], Any]
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
    layout = {"batch_size": batch_size, "sharding": split_batch(mesh)}
    streams_images = isinstance(splits["train"][0], StreamedImages)
    data = splits if streams_images else jax.block_until_ready(place(splits, whole))
    images, labels = data["train"]
    num_examples, *image_shape = images.shape
    steps_per_epoch = loader.steps_per_epoch(num_examples, batch_size)
    streams = jax.jit(rng.streams, out_shardings=whole)(np.uint32(seed))
    step_rngs = {role: streams[role] for role in ("dropout", "augment")}
    averaged = options.get("ema_decay", 0.0) > 0
    init = functools.partial(
        create_train_state, model, tx, image_shape=tuple(image_shape), averaged=averaged
    )
    state = jax.jit(init, out_shardings=whole)(streams["init"])

    def chunks_between(first_step: int, last_step: int) -> Generator[Batch]:
        for epoch, epoch_step in loader.epochs_between(first_step, last_step, steps_per_epoch):
            order = loader.epoch_order(streams["shuffle"], epoch, num_examples)
            yield from loader.train_chunks(
                images, labels, order, epoch_step, chunk_steps=chunk_steps, **layout
            )

    def train_chunks(first_step: int, last_step: int) -> Generator[Batch]:
        chunks = chunks_between(first_step, last_step)
        return loader.prefetch(chunks) if streams_images else chunks

    # The old state's buffers become the new state's: whoever passes one in must not use it again.
    run = jax.jit(functools.partial(run_steps, **options), donate_argnums=0, out_shardings=whole)
    compiled = compile_chunks(
        lambda chunk: run.lower(state, chunk, step_rngs, np.float32(1)),
        train_chunks,
        steps_per_epoch,
        chunk_steps,
    )
    eval_sums = compile_eval(
        lambda chunk: run_eval_steps.lower(state.eval_variables, state.apply_fn, chunk),
        data,
        **layout,
    )

    def run_chunk(
        state: TrainState, chunk: Batch, rate_factor: float = 1.0
    ) -> tuple[TrainState, Sums]:
        return compiled(chunk)(state, chunk, step_rngs, np.float32(rate_factor))

    def measure(state: TrainState, split: str) -> dict[str, float]:
        return mean_metrics(eval_sums(state, split))

    return Program(state, train_chunks, run_chunk, measure)


def compile_chunks(
    lower: Callable[[Any], jax.stages.Lowered],
    train_chunks: Callable[[int, int], Generator[Any]],
    steps_per_epoch: int,
    chunk_steps: int,
) -> Callable[[Any], Callable[..., Any]]:
    """Compiles a chunk's call for each of the one or two sizes; returns chunk -> compiled call."""
    first_steps = {
        size: first for first, size in loader.chunk_grid(0, steps_per_epoch, chunk_steps)
    }
    chunks = [_first(train_chunks(first, steps_per_epoch)) for first in first_steps.values()]
    compiled = {_shapes(chunk): lower(chunk).compile() for chunk in chunks}
    return lambda chunk: compiled[_shapes(chunk)]


def compile_eval(
    lower: Callable[[Any], jax.stages.Lowered], data: dict[str, Any], **layout: Any
) -> Callable[[TrainState, str], list[Sums]]:
    """Compiles the evaluation of a chunk: all splits are in chunks of one size.

    Args:
        lower: chunk -> the lowered call, which takes a state's `eval_variables` and a chunk.
        data: images and labels by split.
        layout: options of `loader.eval_chunks`.

    Returns:
        (state, split) -> the metric sums of each chunk.
    """

    def chunks(split: str) -> Generator[Batch]:
        return loader.eval_chunks(*data[split], **layout)

    compiled = lower(_first(chunks("validation"))).compile()
    return lambda state, split: [compiled(state.eval_variables, c) for c in chunks(split)]


def _shapes(chunk: Any) -> tuple[Any, ...]:
    return tuple(map(np.shape, jax.tree.leaves(chunk)))


def _first(chunks: Generator[Any]) -> Any:
    with contextlib.closing(chunks):
        return next(chunks)
