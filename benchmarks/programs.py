"""The compiled programs of `train` and `population`, timed without the rest of a run.

Checkpoints, history and validation between epochs are left out.
"""

import functools
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
from hlo import estimate, summarize

from mnist_jax import Config, population, program, rng, train
from mnist_jax.forward import Forward
from mnist_jax.laboratory import member_program
from mnist_jax.loader import steps_per_epoch, take_chunk
from mnist_jax.reporting.summary import step_flops
from mnist_jax.steps import run_steps


class Compiled(NamedTuple):
    """A compiled program, its arguments, and the time to compile it.

    Attributes:
        program: the result of `program.compile_training` or `member_program.compile_population`.
        arguments: the arguments of that function.
        seconds: the time to place the data, compile and initialise.
        num_steps: steps per epoch.
        beginning: the state before the first step, on the host: training donates the program's own.
    """

    program: Any
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    seconds: float
    num_steps: int
    beginning: Any


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
    raise AssertionError(f"{verb.__name__} has compiled nothing")


class Training:
    """A training that can be repeated; `state` is the last one's result."""

    def __init__(self, compiled: Compiled, members: int = 0):
        self.compiled, self.num_steps = compiled, compiled.num_steps
        self.scale = [1.0] * members if members else 1.0
        self.shardings = jax.tree.map(lambda x: x.sharding, compiled.program.state)
        self.state: Any = None

    def run(self, steps: int) -> float:
        """Trains from the beginning; returns the seconds until the last step is computed."""
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
    """Counts the arithmetic that a step needs, and the compiled step's cost.

    Returns:
        `flops_needed`, see `summary.step_flops`; by XLA's count `flops` and `bytes`; its `estimate`
        of the seconds, None where it has none; and `kernels`, the operations that the device starts
        one after another.
    """
    (build, numbers, splits), fields = compiled.arguments
    model, tx, options = build(numbers)
    batch_size = fields["batch_size"]
    images, labels = splits["train"]
    chunk = take_chunk(
        images, labels, np.arange(8 * batch_size), 0, chunk_steps=8, batch_size=batch_size
    )
    rngs = {role: rng.stream(0, role) for role in ("dropout", "augment")}
    # XLA counts the body of a loop once, however often it is repeated.
    run = jax.jit(functools.partial(run_steps, **options), donate_argnums=0)
    state = compiled.program.state.replace(apply_fn=Forward(model), tx=tx)
    made = run.lower(state, chunk, rngs, np.float32(1)).compile()
    cost = made.cost_analysis() or {}
    return {
        "flops_needed": step_flops(model, images.shape[1:], batch_size),
        "flops": cost.get("flops", 0.0),
        "bytes": cost.get("bytes accessed", 0.0),
        "estimate": estimate(cost),
        "kernels": summarize(made.as_text() or "")["operations"],
    }
