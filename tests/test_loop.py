"""The loop, driven with toy chunks: the order of its events, and what decides it; no disk."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mnist_jax.clock import Stopwatch
from mnist_jax.events import Chunk, Diverged, Epoch, Plateau, Save
from mnist_jax.laboratory.members import MemberRules
from mnist_jax.loop import training_events
from mnist_jax.rules import Rules
from mnist_jax.start import Start
from mnist_jax.workdir.history import Progress

PHASES = ("data", "train", "eval", "checkpoint")
ORIGIN: Any = None
BEGINNING = Progress(ORIGIN)


@dataclasses.dataclass
class Toy:
    """A program of two chunks an epoch, of two steps each; its state is the number of steps.

    Attributes:
        val_losses: validation loss after each epoch.
        val_accuracies: validation accuracy after each epoch.
        losses: training loss by step, from 0; all others are 1.
        rates: the factor of the learning rate of each chunk that was run.
        closed: True after the chunks were closed.
        state_after: the states that are not the number of steps, by that number.
    """

    val_losses: tuple[float, ...] = (1.0,) * 9
    val_accuracies: tuple[float, ...] = (0.5,) * 9
    losses: dict[int, float] = dataclasses.field(default_factory=dict)
    rates: list[float] = dataclasses.field(default_factory=list)
    closed: bool = False
    state_after: dict[int, float] = dataclasses.field(default_factory=dict)

    def train_chunks(self, first_step: int, last_step: int) -> Iterator[range]:
        try:
            for step in range(first_step, last_step, 2):
                yield range(step, step + 2)
        finally:
            self.closed = True

    def run_chunk(self, state: Any, chunk: range, rate: float) -> tuple[Any, dict[str, Any]]:
        self.rates.append(rate)
        losses = np.array([self.losses.get(step, 1.0) for step in chunk])
        state = self.state_after.get(state + 2, state + 2)
        return state, {"loss_sum": losses, "correct": np.ones(2), "count": np.ones(2)}

    def measure(self, state: int, split: str) -> dict[str, float]:
        assert split == "validation"
        epoch = state // 4 - 1
        return {"loss": self.val_losses[epoch], "accuracy": self.val_accuracies[epoch]}

    def collect(self, state: int) -> int:
        return state


def rules(epochs: int = 2, **fields: Any) -> Rules:
    saved = fields.pop("saved", lambda step: step % 4 == 0)
    return Rules(4, 4, 4 * epochs, saved, **fields)


def iterate(
    toy: Toy,
    rules: Any,
    found: list[Any],
    *,
    step: int = 0,
    state: Any = None,
    progress: Progress = BEGINNING,
    signals: dict[int, int] | None = None,
) -> list[Any]:
    """Appends all events of a training to `found`; signals are received in a chunk, from 1 on."""
    asked = itertools.count(1)
    for event in training_events(
        toy,  # type: ignore[arg-type]
        rules,
        Start(step if state is None else state, step, progress, []),
        stop_signal=lambda: (signals or {}).get(next(asked), 0),
        stopwatch=Stopwatch(PHASES),
    ):
        found.append(event)
    return found


def events(toy: Toy, rules: Any, **options: Any) -> list[Any]:
    return iterate(toy, rules, [], **options)


def names(found: list[Any]) -> list[str]:
    return [type(event).__name__ for event in found]


def test_an_epoch_is_saved_before_it_is_told():
    found = events(Toy(), rules())
    assert names(found) == ["Chunk", "Chunk", "Save", "Epoch"] * 2 + ["Stop"]
    assert [event.step for event in found if isinstance(event, Chunk)] == [2, 4, 6, 8]
    assert [event.row["epoch"] for event in found if isinstance(event, Epoch)] == [1, 2]
    assert (found[-1].step, found[-1].state, found[-1].signum) == (8, 8, 0)


def test_an_epoch_that_is_not_scheduled_is_not_saved():
    found = events(Toy(), rules(saved=lambda step: step == 8))
    assert names(found) == ["Chunk", "Chunk", "Epoch", "Chunk", "Chunk", "Save", "Epoch", "Stop"]


def test_a_signal_saves_within_an_epoch_with_the_sums_so_far_and_stops():
    toy = Toy()
    found = events(toy, rules(), signals={3: 15})
    assert names(found[4:]) == ["Chunk", "Save", "Stop"]
    save, stop = found[-2:]
    assert (save.step, save.state, stop.step, stop.signum) == (6, 6, 6, 15)
    assert save.progress.sums == [{"loss_sum": [1.0, 1.0], "correct": 2, "count": 2}]
    assert [row["step"] for row in save.progress.history] == [4]
    assert toy.closed


def test_a_signal_at_the_end_of_an_epoch_finishes_the_epoch():
    found = events(Toy(), rules(), signals={2: 2})
    assert names(found) == ["Chunk", "Chunk", "Save", "Epoch", "Stop"]
    assert (found[-1].signum, found[-2].row["epoch"]) == (2, 1)


@pytest.mark.parametrize(("bad_step", "chunks"), [(0, 1), (1, 1), (2, 2), (5, 3)])
def test_a_loss_that_is_not_finite_ends_the_loop_before_its_epoch_is_measured(bad_step, chunks):
    """Within an epoch the chunk after it is under way when it is found."""
    toy, found = Toy(losses={bad_step: np.nan}), []
    with pytest.raises(FloatingPointError, match=rf"step {bad_step + 1}: the loss is nan"):
        iterate(toy, rules(), found)
    assert names(found).count("Chunk") == chunks
    assert all(event.step <= bad_step for event in found if isinstance(event, Save))
    assert toy.closed


@pytest.mark.parametrize(("bad_step", "saved"), [(1, lambda _: True), (3, lambda _: False)])
def test_a_loss_that_is_not_finite_is_neither_saved_nor_told(bad_step, saved):
    """Also where a save comes within an epoch, or an epoch ends without one."""
    found = []
    with pytest.raises(FloatingPointError, match=rf"step {bad_step + 1}: the loss is nan"):
        iterate(Toy(losses={bad_step: np.nan}), rules(saved=saved), found)
    assert {*names(found)} == {"Chunk"}
    assert found[-1].step == bad_step + 1


def test_a_plateau_lowers_the_rate_of_the_next_epoch_and_is_told_before_it():
    toy = Toy(val_losses=(1.0, 1.0, 2.0))
    found = events(toy, rules(3, plateau_patience=1, plateau_factor=0.5))
    assert toy.rates == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5]
    assert [event for event in found if isinstance(event, Plateau)] == [Plateau(1.0, 0.5)]
    assert names(found)[8] == "Plateau"


def test_early_stopping_ends_the_loop_after_the_epoch():
    toy = Toy(val_accuracies=(0.5, 0.5, 0.4, 0.9))
    found = events(toy, rules(9, patience=1))
    # Of equal accuracies the newest is the best one.
    assert (found[-1].step, found[-1].signum) == (12, 0)
    assert names(found)[-4:] == ["Chunk", "Save", "Epoch", "Stop"]
    assert toy.closed


def test_a_run_that_was_to_stop_early_does_so_at_once_when_resumed():
    history: Any = [
        {"epoch": epoch, "step": 4 * epoch, "val_accuracy": 0.5 - epoch, "val_loss": 1.0}
        for epoch in (1, 2)
    ]
    toy, found = Toy(), []
    iterate(toy, rules(9, patience=1), found, step=8, progress=Progress(ORIGIN, history))
    assert names(found) == ["Stop"]
    assert toy.rates == []


def test_a_state_is_checked_before_it_is_saved():
    """The losses are from before each update."""

    class Poisoned(Toy):
        def measure(self, state: int, split: str) -> dict[str, float]:
            return super().measure(state, split) | {"loss": float("inf")}

    found = []
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 4: val_loss is not finite"):
        iterate(Poisoned(), rules(), found)
    assert names(found) == ["Chunk", "Chunk"]
    found = []
    with pytest.raises(FloatingPointError, match=r"step 2: .* is not finite"):
        iterate(Toy(state_after={2: np.nan}), rules(saved=lambda _: True), found)
    assert names(found) == ["Chunk"]


class TwoMembers(Toy):
    """A population: the second member's state is not finite after the second chunk."""

    def run_chunk(self, state: Any, chunk: range, rate: Any) -> tuple[Any, dict[str, Any]]:
        _, sums = super().run_chunk(0, chunk, rate)
        state = state + np.array([2, np.nan if chunk.start == 2 else 2])
        return state, {name: np.stack([values] * 2) for name, values in sums.items()}

    def measure(self, state: Any, split: str) -> Any:
        return [super().measure(int(state[0]), split)] * 2


def test_a_member_whose_state_is_not_finite_is_told_before_the_save_and_the_others_go_on():
    diverged: Any = [None, None]
    found = events(
        TwoMembers(),
        MemberRules([rules()] * len(diverged), diverged),
        state=np.zeros(2),
        progress=BEGINNING._replace(diverged=diverged),
    )
    epoch = ["Chunk", "Chunk", "Save", "Epoch"]
    assert names(found) == ["Chunk", "Chunk", "Diverged", "Save", "Epoch", *epoch, "Stop"]
    assert found[2] == Diverged(1, 1, 4)
    assert found[3].progress.diverged == [None, {"epoch": 1, "step": 4}]


def test_an_event_that_is_kept_does_not_change():
    chunks = [event for event in events(Toy(), rules()) if isinstance(event, Chunk)]
    assert [len(event.history) for event in chunks] == [0, 0, 1, 1]
    assert all(event.sums["loss_sum"].shape == (event.chunk_steps,) for event in chunks)
