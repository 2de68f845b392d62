"""A program that plays a part: `train` and `population` with known metrics, and a known clock."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
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
    """In place of the module `time`: it stands still but for what is said to take long."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def slow(self, seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which takes some seconds."""

        def slowly(*args: Any, **fields: Any) -> Any:
            self.now += seconds
            return function(*args, **fields)

        return slowly


@dataclasses.dataclass
class Script:
    """What happens in a run.

    Attributes:
        clock: of the run.
        rates: the scales of the learning rate, of each chunk that was run.
    """

    clock: Clock
    rates: list[Any] = dataclasses.field(default_factory=list)


def sums_of(
    first_step: int, num_steps: int, member: int = 0, diverges: float = np.inf
) -> dict[str, np.ndarray]:
    """The metric sums of some steps, of two examples each."""
    steps = np.arange(first_step, first_step + num_steps)
    return {
        "loss_sum": np.where(steps < diverges, 1 / (steps + 3 + member), np.nan).astype(np.float32),
        "correct": ((steps + member) % 3).astype(np.int32),
        "count": np.full(num_steps, 2, np.int32),
    }


@contextlib.contextmanager
def scripted(
    *,
    accuracies: Sequence[Any] = (0.5,),
    losses: Sequence[Any] = (1.0,),
    averaged: bool = False,
    diverges: dict[int, int] | None = None,
    seconds: dict[str, float] | None = None,
) -> Iterator[Script]:
    """Has `train` and `population` run a program that computes next to nothing.

    Each step adds 1 to the only parameter, and a half to its running mean.

    Args:
        accuracies: of the validation after each epoch; after the last one it stays. Of a
            population each may be a sequence over the members.
        losses: likewise. That of the test is larger by 1.
        averaged: whether there is a running mean.
        diverges: the steps, counted from 0, from which on members have no loss.
        seconds: what the calls of the program (`data`, `compile`, `run`, `eval`), of the saver
            (`save`, `wait`), and loading (`load`) and restoring (`restore`) take. Where nothing is
            said, a chunk takes one second, and all else none.
    """
    script, takes = Script(Clock()), {"run": 1.0} | (seconds or {})

    def slow(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return script.clock.slow(takes.get(name, 0.0), function)

    def state_of(shape: tuple[int, ...]) -> TrainState:
        params: Any = {"layer": {"kernel": jnp.zeros(shape)}}
        tx = optax.sgd(0.1)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            apply_fn=len,
            params=params,
            tx=tx,
            opt_state=tx.init(params),
            batch_stats={},
            average={"params": params} if averaged else {},
        )

    def advanced(state: TrainState, num_steps: int) -> TrainState:
        def add(tree: Any, number: float) -> Any:
            return jax.tree.map(lambda x: x + number, tree)

        return state.replace(
            step=state.step + num_steps,
            params=add(state.params, num_steps),
            average=add(state.average, num_steps / 2),
        )

    def chunks(first_step: int, last_step: int) -> Iterator[tuple[int, int]]:
        for epoch, epoch_step in epochs_between(first_step, last_step, 8):
            for first, number in chunk_grid(epoch_step, 8, 3):
                yield 8 * epoch + first, number

    def after(epoch: int, values: Sequence[Any]) -> Any:
        return values[min(epoch, len(values)) - 1]

    def compile_program(*_: Any, **__: Any) -> Program:
        def train_chunks(first_step: int, last_step: int) -> Generator[dict[str, Any]]:
            for first, number in chunks(first_step, last_step):
                script.clock.now += takes.get("data", 0.0)
                yield {"label": np.zeros((number, 2)), "sums": sums_of(first, number)}

        def run_chunk(state: TrainState, chunk: Any, rate: float = 1.0) -> Any:
            script.rates.append(rate)
            return advanced(state, len(chunk["label"])), chunk["sums"]

        def measure(state: TrainState, split: str) -> dict[str, float]:
            epoch = int(state.step) // 8
            loss = after(epoch, losses) + (split == "test")
            return {"loss": loss, "accuracy": after(epoch, accuracies)}

        return Program(state_of(()), train_chunks, slow("run", run_chunk), slow("eval", measure))

    def compile_population(*_: Any, seeds: Sequence[int], **__: Any) -> Program:
        count = len(seeds)

        def train_chunks(first_step: int, last_step: int) -> Generator[dict[str, Any]]:
            for first, number in chunks(first_step, last_step):
                script.clock.now += takes.get("data", 0.0)
                yield {"step": np.arange(first, first + number)}

        def run_chunk(state: TrainState, chunk: dict[str, Any], rates: Sequence[float]) -> Any:
            script.rates.append([*rates])
            each = [
                sums_of(chunk["step"][0], len(chunk["step"]), n, (diverges or {}).get(n, np.inf))
                for n in range(count)
            ]
            sums = {name: np.stack([one[name] for one in each]) for name in each[0]}
            return advanced(state, len(chunk["step"])), sums

        def measure(state: TrainState, split: str) -> list[dict[str, float]]:
            epoch = int(np.asarray(state.step)[0]) // 8
            each = [np.broadcast_to(after(epoch, values), count) for values in (losses, accuracies)]
            return [
                {"loss": float(loss) + (split == "test"), "accuracy": float(accuracy)}
                for loss, accuracy in zip(*each, strict=True)
            ]

        def place(state: TrainState) -> TrainState:
            return state.replace(step=jnp.full(count, state.step, jnp.int32))

        def collect(state: TrainState) -> TrainState:
            return state.replace(step=jnp.asarray(state.step)[0])

        return Program(
            place(state_of((count,))),
            train_chunks,
            slow("run", run_chunk),
            slow("eval", measure),
            place,
            collect,
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "time", script.clock)
        patch.setattr(clock, "IMPORT_SECONDS", takes.get("import", 0.0))
        for place, name, function in (
            (program, "compile_program", slow("compile", compile_program)),
            (member_program, "compile_population", slow("compile", compile_population)),
            (Saver, "save", slow("save", Saver.save)),
            (Saver, "wait", slow("wait", Saver.wait)),
            (start, "load_splits", slow("load", start.load_splits)),
            (start, "restore_state", slow("restore", start.restore_state)),
        ):
            patch.setattr(place, name, function)
        yield script
