"""A training as compiled calls."""

import contextlib
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple, Unpack

import jax
import numpy as np
import optax
from flax import linen as nn
from flax.core import freeze
from jax.sharding import Mesh

from mnist_jax import loader, rng
from mnist_jax.compiled import compile_once
from mnist_jax.datasets.arrays import check_labels, check_parts
from mnist_jax.datasets.streamed import StreamedImages
from mnist_jax.forward import Forward, check_module
from mnist_jax.metrics import Sums, cross_entropy, mean_metrics, with_hash
from mnist_jax.sharding import create_mesh, replicated, split_batch, target_of, traced_for
from mnist_jax.state import TrainState, create_train_state
from mnist_jax.steps import Batch, StepOptions, check_options, run_eval_steps, run_steps


class Program(NamedTuple):
    """The compiled calls of a training, of one network or a population of N.

    Attributes:
        state: state before the first step, on the devices.
        train_chunks: (first_step, last_step) -> the chunks between them.
        run_chunk: (state, chunk, rate_factor) -> (state, sums), see `steps.run_steps`; consumes the
            state. A population has N rate factors, and sums [N, k].
        measure: (state, split) -> result of `metrics.mean_metrics`; lists of N in a population.
        place: function that puts a checkpoint's state on the devices.
        collect: inverse of `place`.
        step_sha256: `compiled.text_sha256` of the training steps.
    """

    state: TrainState
    train_chunks: Callable[[int, int], Generator[Any]]
    run_chunk: Callable[[TrainState, Any, Any], tuple[TrainState, Sums]]
    measure: Callable[[TrainState, str], Any]
    place: Callable[[TrainState], TrainState] = lambda state: state
    collect: Callable[[TrainState], TrainState] = lambda state: state
    step_sha256: str = ""


class StepParts(NamedTuple):
    """The parts of a training step, with the options of `steps.train_step`."""

    model: nn.Module
    tx: optax.GradientTransformation
    options: StepOptions


# Numbers of the recipe, which are arguments of the program -> the parts that use them.
Build = Callable[[Mapping[str, Any]], StepParts]


def compile_program(
    model: nn.Module,
    tx: optax.GradientTransformation,
    splits: Mapping[str, Any],
    *,
    seed: int,
    batch_size: int,
    chunk_steps: int,
    **options: Unpack[StepOptions],
) -> Program:
    """Places the data on the devices, initialises the state and compiles the steps.

    `StreamedImages` stay on the host, and a thread reads ahead.

    Args:
        model: module from images to logits, see `forward.Forward`.
        tx: optimizer.
        splits: "train", "validation" and maybe "test", see `datasets.arrays.as_parts`.
        seed: root of all keys.
        batch_size: examples per step.
        chunk_steps: steps in one compiled call.
        **options: options of `steps.StepOptions`.

    Raises:
        ValueError: the model does not fit the data, or an option is invalid.
    """
    check_options("compile_program", options)
    parts = check_parts(splits)
    num_classes = check_module(Forward(model), parts["train"].images.shape[1:])
    check_labels(parts, num_classes)
    layout = {"seed": seed, "batch_size": batch_size, "chunk_steps": chunk_steps}
    return compile_training(lambda _: StepParts(model, tx, options), {}, parts, **layout)


def compile_training(
    build: Build,
    numbers: Mapping[str, float],
    splits: dict[str, Any],
    *,
    seed: int,
    batch_size: int,
    chunk_steps: int,
) -> Program:
    """Compiles a training like `compile_program`, with `numbers` as traced arguments of `build`."""
    mesh = create_mesh()
    whole = replicated(mesh)
    layout = {"batch_size": batch_size, "sharding": split_batch(mesh)}
    parts = build(numbers)
    data = loader.place_splits(splits, whole)
    images, labels = data["train"]
    num_examples, *image_shape = images.shape
    steps_per_epoch = loader.steps_per_epoch(num_examples, batch_size)
    streams = jax.jit(rng.streams, out_shardings=whole)(np.uint32(seed))
    step_rngs = {role: streams[role] for role in ("dropout", "augment")}
    values = {name: np.float32(number) for name, number in numbers.items()}
    init = compile_initial_state(parts, (*image_shape,), is_averaged(parts.options), whole)
    state = init(streams["init"])

    def chunks_between(first_step: int, last_step: int) -> Generator[Batch]:
        for epoch, epoch_step in loader.epochs_between(first_step, last_step, steps_per_epoch):
            order = loader.epoch_order(streams["shuffle"], epoch, num_examples)
            yield from loader.train_chunks(
                images, labels, order, epoch_step, chunk_steps=chunk_steps, **layout
            )

    def train_chunks(first_step: int, last_step: int) -> Generator[Batch]:
        chunks = chunks_between(first_step, last_step)
        return loader.prefetch(chunks) if isinstance(images, StreamedImages) else chunks

    jitted = jit_chunk(build, mesh)
    compiled, step_sha256 = compile_chunks(
        lambda chunk: jitted.lower(bare(state), chunk, np.float32(1), step_rngs, values),
        train_chunks,
        steps_per_epoch,
        chunk_steps,
    )

    def lower_eval(chunk: Batch) -> jax.stages.Lowered:
        with traced_for(target_of(mesh)):
            return run_eval_steps.lower(
                state.eval_variables, state.apply_fn, chunk, **eval_options(parts.options)
            )

    eval_sums = compile_eval(lower_eval, data, **layout)

    def run_chunk(
        state: TrainState, chunk: Batch, rate_factor: float = 1.0
    ) -> tuple[TrainState, Sums]:
        new, sums = compiled(chunk)(bare(state), chunk, np.float32(rate_factor), step_rngs, values)
        return new.replace(apply_fn=state.apply_fn, tx=state.tx), sums

    def measure(state: TrainState, split: str) -> dict[str, float]:
        return mean_metrics(eval_sums(state, split))

    return Program(state, train_chunks, run_chunk, measure, step_sha256=step_sha256)


def jit_chunk(build: Build, mesh: Mesh) -> Any:
    """Jits `train_chunk` on a mesh.

    The function (state, chunk, rate_factor, rngs, values) -> (state, sums) consumes the state.
    """

    def train_steps(state: TrainState, chunk: Batch, rate: Any, rngs: Any, values: Any) -> Any:
        with traced_for(target_of(mesh)):
            return train_chunk(build, values, state, chunk, rngs, rate)

    return jax.jit(train_steps, donate_argnums=0, out_shardings=replicated(mesh))


def compile_initial_state(
    parts: StepParts, image_shape: tuple[int, ...], averaged: bool, sharding: Any = None
) -> Callable[[jax.Array], TrainState]:
    """Compiles `create_train_state` as a function of the role `init`'s key."""
    options = {"image_shape": image_shape, "averaged": averaged}

    def create_arrays(key: jax.Array) -> TrainState:
        return bare(create_train_state(parts.model, parts.tx, key, **options))

    jitted = jax.jit(create_arrays, out_shardings=sharding)
    # It runs once; all LLVM passes would take as long as for the steps.
    fast = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None

    def create(key: jax.Array) -> TrainState:
        compiled, _ = compile_once(jitted.lower(key), fast)
        return compiled(key).replace(apply_fn=Forward(parts.model), tx=parts.tx)

    return create


def train_chunk(
    build: Build,
    values: Mapping[str, Any],
    state: TrainState,
    chunk: Batch,
    rngs: Any,
    rate_factor: Any,
) -> tuple[TrainState, Sums]:
    """Runs `steps.run_steps` on a `bare` state, with streams by role and traced values by name."""
    model, tx, options = build(values)
    state, sums = run_steps(
        state.replace(apply_fn=Forward(model), tx=tx), chunk, rngs, rate_factor, **options
    )
    return bare(state), sums


def bare(state: TrainState) -> TrainState:
    """Removes model and optimizer from a state, so that equal programs compile once."""
    return state.replace(apply_fn=None, tx=None)


def is_averaged(options: Mapping[str, Any]) -> bool:
    """Tells whether a running mean is kept; `ema_decay` may be traced."""
    decay = options.get("ema_decay", 0.0)
    return isinstance(decay, jax.Array) or decay > 0


def eval_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Selects the options of `steps.run_eval_steps`."""
    metrics = options.get("metrics") or {}
    return {
        "loss_fn": with_hash(options.get("loss_fn") or cross_entropy),
        "metrics": freeze({name: with_hash(metric) for name, metric in metrics.items()}),
    }


def compile_chunks(
    lower: Callable[[Any], jax.stages.Lowered],
    train_chunks: Callable[[int, int], Generator[Any]],
    steps_per_epoch: int,
    chunk_steps: int,
) -> tuple[Callable[[Any], Callable[..., Any]], str]:
    """Compiles a call for each of the one or two sizes of a chunk.

    Returns a function chunk -> compiled call, and the SHA-256 of the first size's program.
    """
    first_steps = {
        size: first for first, size in loader.chunk_grid(0, steps_per_epoch, chunk_steps)
    }
    chunks = [_first(train_chunks(first, steps_per_epoch)) for first in first_steps.values()]
    compiled = {_shapes(chunk): compile_once(lower(chunk)) for chunk in chunks}
    _, sha256 = compiled[_shapes(chunks[0])]
    return lambda chunk: compiled[_shapes(chunk)][0], sha256


def compile_eval(
    lower: Callable[[Any], jax.stages.Lowered], data: dict[str, Any], **layout: Any
) -> Callable[[TrainState, str], list[Sums]]:
    """Compiles the evaluation of chunks, of one size in all splits.

    `lower` lowers a function of a state's `eval_variables` and a chunk; `layout` are the options of
    `loader.eval_chunks`. Returns a function (state, split) -> the metric sums of each chunk.
    """

    def chunks(split: str) -> Generator[Batch]:
        return loader.eval_chunks(*data[split], **layout)

    compiled, _ = compile_once(lower(_first(chunks("validation"))))
    return lambda state, split: [compiled(state.eval_variables, c) for c in chunks(split)]


def _shapes(chunk: Any) -> tuple[Any, ...]:
    return tuple(map(np.shape, jax.tree.leaves(chunk)))


def _first(chunks: Generator[Any]) -> Any:
    with contextlib.closing(chunks):
        return next(chunks)
