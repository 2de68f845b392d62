"""The events of a training or a population, passed to its listeners.

A state is valid until the next event, because the next chunk consumes it. In a population, `state`
and `sums` have a leading axis of members, and a metric in a row is a list.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnist_jax.config import Config
from mnist_jax.metrics import Sums
from mnist_jax.workdir.history import Progress, Row


class Begin(NamedTuple):
    """The run is compiled and its directory ready; the first chunk comes next.

    Attributes:
        num_params: number of parameters (of one member).
        splits: images and labels by split.
        step: updates so far; above 0 in a resumed run.
        total_steps: updates in all epochs.
        history: one row per epoch so far.
        messages: lines such as the names of frozen parameters.
        members: names of a population's members.
    """

    config: Config
    workdir: Path
    model: Any
    num_params: int
    splits: dict[str, Any]
    step: int
    total_steps: int
    history: Sequence[Row]
    messages: Sequence[str]
    members: Sequence[str] = ()


class Chunk(NamedTuple):
    """A chunk of steps is being computed.

    Attributes:
        step: updates after this chunk.
        chunk_steps: updates in this chunk.
        sums: metric sums of each step; reading them waits for the chunk.
    """

    step: int
    chunk_steps: int
    sums: Sums
    history: Sequence[Row]


class Diverged(NamedTuple):
    """A member of a population has its first non-finite value, at `step` (from 1)."""

    member: int
    epoch: int
    step: int


class Save(NamedTuple):
    """A checkpoint is due, of the state and the progress to resume from."""

    step: int
    state: Any
    progress: Progress


class Epoch(NamedTuple):
    """An epoch is measured, and saved if due; `history` ends with its row."""

    row: Row
    state: Any
    history: Sequence[Row]


class Plateau(NamedTuple):
    """The factor of the learning rate changes; a population has lists of factors."""

    before: Any
    after: Any


class Stop(NamedTuple):
    """The last event of the loop.

    Attributes:
        step: updates made.
        state: last state, which stays valid.
        signum: signal that stopped the run; 0 if it ended by itself.
    """

    step: int
    state: Any
    history: Sequence[Row]
    signum: int = 0


class Done(NamedTuple):
    """The run has its result; `trained` is False if it was complete before."""

    workdir: Path
    result: Any
    history: Sequence[Row]
    trained: bool = True


class Failed(NamedTuple):
    """An exception or a signal has ended the run."""

    error: BaseException


Event = Begin | Chunk | Diverged | Save | Epoch | Plateau | Stop | Done | Failed
Listener = Callable[[Event], object]
"""A function called with each event; its result is ignored."""
