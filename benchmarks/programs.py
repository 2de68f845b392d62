"""The parts of a training that benchmarks time: a chunk, a state, and compiled programs.

`Training` leaves out checkpoints, history and validation.
"""

import functools
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from hlo import estimate, summarize

from mnist_jax import Config, load_dataset, population, program, rng, train
from mnist_jax.forward import Forward
from mnist_jax.laboratory import member_program
from mnist_jax.loader import steps_per_epoch, take_chunk
from mnist_jax.models import create_model
from mnist_jax.optimizer import create_optimizer
from mnist_jax.reporting.summary import step_flops
from mnist_jax.state import TrainState, create_train_state
from mnist_jax.steps import run_steps


def mnist_chunk(steps: int, batch_size: int) -> dict[str, jax.Array]:
    """Loads a chunk of MNIST, see `loader.take_chunk`."""
    images, labels = load_dataset("mnist", f"train[:{steps * batch_size}]")
    return {
        "image": jnp.asarray(images.reshape(steps, batch_size, 28, 28, 1)),
        "label": jnp.asarray(labels.reshape(steps, batch_size)),
        "mask": jnp.ones((steps, batch_size), bool),
    }


def step_rngs() -> dict[str, jax.Array]:
    """Returns the keys of a training."""
    return {role: rng.stream(0, role) for role in ("dropout", "augment")}


def initial_state(config: Config, num_steps: int, **model_fields: Any) -> TrainState:
    """Initialises a recipe's network for MNIST, with some fields of the model changed."""
    model = create_model(num_classes=10, **vars(config.model) | model_fields)
    tx = create_optimizer(**vars(config.optimizer), num_steps=num_steps)
    return create_train_state(model, tx, rng.stream(0, "init"), (28, 28, 1))


class Compiled(NamedTuple):
    """A result of `program.compile_training` or `member_program.compile_population`."""

    program: Any
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    seconds: float  # to place the data, compile and initialise
    num_steps: int  # per epoch
    beginning: Any  # initial state, on the host, since training donates the program's own


class _EnoughError(Exception):
    """Ends `train` or `population` once it has compiled."""


@functools.cache
def compile_training(config: Config) -> Compiled:
    """Compiles the program of `train` for a config, once."""
    return _compiled(train, "compile_training", config)


def compile_members(config: Config, members: int) -> Compiled:
    """Compiles the program of `population` for a config and number of seeds."""
    return _compiled(population, "compile_population", config, seeds=members)


def _compiled(verb: Callable[..., Any], name: str, config: Config, **options: Any) -> Compiled:
    found, place = [], {"compile_training": program, "compile_population": member_program}[name]
    compile_program = getattr(place, name)

    def compile_and_leave(*args: Any, **fields: Any) -> None:
        start = time.perf_counter()
        compiled = compile_program(*args, **fields)
        jax.block_until_ready(compiled.state)
        seconds = time.perf_counter() - start
        splits = next(each for each in args if isinstance(each, dict) and "train" in each)
        num_steps = steps_per_epoch(len(splits["train"][1]), config.batch_size)
        beginning = jax.device_get(compiled.state)
        found.append(Compiled(compiled, (args, fields), seconds, num_steps, beginning))
        raise _EnoughError

    patched = mock.patch.object(place, name, compile_and_leave)
    with tempfile.TemporaryDirectory() as workdir, patched:
        try:
            verb(config, workdir, **options)
        except _EnoughError:
            return found[0]
    raise AssertionError(f"{verb.__name__} compiled nothing")


class Training:
    """A repeatable training; `state` is the last result."""

    def __init__(self, compiled: Compiled, members: int = 0):
        self.compiled, self.num_steps = compiled, compiled.num_steps
        self.scale = [1.0] * members if members else 1.0
        self.shardings = jax.tree.map(lambda x: x.sharding, compiled.program.state)
        self.state: Any = None

    def run(self, steps: int) -> float:
        """Trains from the initial state; returns the seconds."""
        program, sums = self.compiled.program, []
        state = jax.block_until_ready(jax.device_put(self.compiled.beginning, self.shardings))
        self.state = None  # frees its memory
        start = time.perf_counter()
        for chunk in program.train_chunks(0, steps):
            state, chunk_sums = program.run_chunk(state, chunk, self.scale)
            jax.block_until_ready(sums[-1:])  # of the previous chunk, as in train
            sums.append(chunk_sums)
        jax.block_until_ready((state, sums))
        seconds = time.perf_counter() - start
        self.state = state
        return seconds


def step_cost(compiled: Compiled) -> dict[str, Any]:
    """Counts the arithmetic of a step, and XLA's cost of the compiled one.

    Returns:
        `flops_needed`, by `summary.step_flops`; XLA's `flops`, `bytes` and `estimate` of the
        seconds (or None); and `kernels`, the operations started in sequence.
    """
    (build, numbers, splits), fields = compiled.arguments
    model, tx, options = build(numbers)
    batch_size = fields["batch_size"]
    images, labels = splits["train"]
    chunk = take_chunk(
        images, labels, np.arange(8 * batch_size), 0, chunk_steps=8, batch_size=batch_size
    )
    # XLA counts the body of a loop once.
    run = jax.jit(functools.partial(run_steps, **options), donate_argnums=0)
    state = compiled.program.state.replace(apply_fn=Forward(model), tx=tx)
    made = run.lower(state, chunk, step_rngs(), np.float32(1)).compile()
    cost = made.cost_analysis() or {}
    return {
        "flops_needed": step_flops(model, images.shape[1:], batch_size),
        "flops": cost.get("flops", 0.0),
        "bytes": cost.get("bytes accessed", 0.0),
        "estimate": estimate(cost),
        "kernels": summarize(made.as_text() or "")["operations"],
    }
