"""A scripted program for `train` and `population`: known metrics and a known clock."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import SMALL

from mnist_jax import clock, program, start
from mnist_jax.config import DataConfig
from mnist_jax.laboratory import member_program
from mnist_jax.loader import chunk_grid, epochs_between
from mnist_jax.program import Program
from mnist_jax.state import TrainState
from mnist_jax.workdir.checkpoint import Saver

# 8 steps an epoch, in chunks of 3, 3 and 2.
LESSON = dataclasses.replace(
    SMALL,
    epochs=3,
    batch_size=2,
    chunk_steps=3,
    data=DataConfig(train_split="train[:20]", test_split="test[:4]"),
)


class Clock:
    """A replacement for the module `time`, advanced only by the script."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def slow(self, seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:

        def slowly(*args: Any, **fields: Any) -> Any:
            self.now += seconds
            return function(*args, **fields)

        return slowly


@dataclasses.dataclass
class Script:
    """The course of a run.

    Attributes:
        accuracies: validation accuracy after each epoch, in a population perhaps of each member;
            the last one repeats.
        losses: validation loss, likewise. The test loss is larger by 1.
        averaged: True adds a running mean of the parameter.
        diverges: step, from 0, at which a member's losses end.
        broken: number of steps after which a member's parameter is not finite.
        seconds: time that calls take, by names such as `data`, `run`, `eval` and `save`; by default
            a chunk takes one second, and all else none.
        rates: factor of the learning rate of each chunk that was run.
        open_chunks: number of generators of chunks that were started and not closed.
    """

    accuracies: Sequence[Any] = (0.5,)
    losses: Sequence[Any] = (1.0,)
    averaged: bool = False
    diverges: dict[int, int] = dataclasses.field(default_factory=dict)
    broken: dict[int, int] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    clock: Clock = dataclasses.field(default_factory=Clock)
    rates: list[Any] = dataclasses.field(default_factory=list)
    open_chunks: int = 0

    def slow(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return self.clock.slow(({"run": 1.0} | self.seconds).get(name, 0.0), function)

    def compile(self, *_: Any, seeds: Sequence[int] | None = None, **__: Any) -> Program:
        """Compiles steps that add 1 to the only parameter and 0.5 to its running mean."""
        shape = () if seeds is None else (len(seeds),)
        params: Any = {"layer": {"kernel": jnp.zeros(shape)}}
        tx = optax.sgd(0.1)
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            apply_fn=len,
            params=params,
            tx=tx,
            opt_state=tx.init(params),
            collections={},
            average={"params": params} if self.averaged else {},
        )

        def run_chunk(state: TrainState, steps: range, rate: Any = 1.0) -> Any:
            self.rates.append(rate)
            each = [self.sums(np.array(steps), member) for member in range(len(seeds or [0]))]
            sums = jax.tree.map(lambda *values: np.stack(values).reshape(*shape, -1), *each)
            number = len(steps)
            ends = [self.broken.get(member, np.inf) for member in range(len(seeds or [0]))]
            more = np.reshape(np.where(np.array(ends) <= steps[-1] + 1, np.nan, number), shape)
            state = state.replace(
                step=state.step + number,
                params=jax.tree.map(lambda x: x + more.astype(np.float32), state.params),
                average=jax.tree.map(lambda x: x + number / 2, state.average),
            )
            return state, sums

        def measure(state: TrainState, split: str) -> Any:
            last = int(np.ravel(state.step)[0]) // 8 - 1
            losses, accuracies = (
                np.ravel(np.broadcast_to(values[min(last, len(values) - 1)], shape)).tolist()
                for values in (self.losses, self.accuracies)
            )
            both = zip(losses, accuracies, strict=True)
            each = [{"loss": loss + (split == "test"), "accuracy": right} for loss, right in both]
            return each[0] if seeds is None else each

        def place(state: TrainState) -> TrainState:
            return state.replace(step=jnp.full(shape, state.step, jnp.int32))

        def collect(state: TrainState) -> TrainState:
            return state.replace(step=jnp.ravel(state.step)[0])

        run, measured = self.slow("run", run_chunk), self.slow("eval", measure)
        return Program(place(state), self.train_chunks, run, measured, place, collect)

    def train_chunks(self, first_step: int, last_step: int) -> Any:
        self.open_chunks += 1
        try:
            for epoch, epoch_step in epochs_between(first_step, last_step, 8):
                for first, number in chunk_grid(epoch_step, 8, 3):
                    self.clock.now += self.seconds.get("data", 0.0)
                    yield range(8 * epoch + first, 8 * epoch + first + number)
        finally:
            self.open_chunks -= 1

    def sums(self, steps: np.ndarray, member: int) -> dict[str, np.ndarray]:
        end = self.diverges.get(member, np.inf)
        losses = np.where(steps < end, 1 / (steps + 3 + member), np.nan)
        return {
            "loss_sum": losses.astype(np.float32),
            "correct": ((steps + member) % 3).astype(np.int32),
            "count": np.full(len(steps), 2, np.int32),
        }


@contextlib.contextmanager
def scripted(**fields: Any) -> Iterator[Script]:
    """Replaces the program of `train` and `population` by a `Script`."""
    script = Script(**fields)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "time", script.clock)
        patch.setattr(clock, "IMPORT_SECONDS", script.seconds.get("import", 0.0))
        for place, name, function in (
            (program, "compile_training", script.slow("compile", script.compile)),
            (member_program, "compile_population", script.slow("compile", script.compile)),
            (Saver, "save", script.slow("save", Saver.save)),
            (Saver, "wait", script.slow("wait", Saver.wait)),
            (start, "load_splits", script.slow("load", start.load_splits)),
            (start, "restore_state", script.slow("restore", start.restore_state)),
        ):
            patch.setattr(place, name, function)
        yield script
