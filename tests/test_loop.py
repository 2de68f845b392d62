"""The loop, driven with toy chunks: the order of its events, and what decides it; no disk."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mnist_jax.clock import Stopwatch
from mnist_jax.events import Chunk, Diverged
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
        val_loss: validation loss after each epoch.
        losses: training loss by step, from 0; all others are 1.
        state_after: the states that are not the number of steps, by that number.
        closed: True after the chunks were closed.
    """

    val_loss: float = 1.0
    losses: dict[int, float] = dataclasses.field(default_factory=dict)
    state_after: dict[int, float] = dataclasses.field(default_factory=dict)
    closed: bool = False

    def train_chunks(self, first_step: int, last_step: int) -> Iterator[range]:
        try:
            for step in range(first_step, last_step, 2):
                yield range(step, step + 2)
        finally:
            self.closed = True

    def run_chunk(self, state: Any, chunk: range, rate: Any) -> tuple[Any, dict[str, Any]]:
        assert rate == 1.0
        losses = np.array([self.losses.get(step, 1.0) for step in chunk])
        state = self.state_after.get(state + 2, state + 2)
        return state, {"loss_sum": losses, "correct": np.ones(2), "count": np.ones(2)}

    def measure(self, state: Any, split: str) -> Any:
        assert (split, state % 4) == ("validation", 0)
        return {"loss": self.val_loss, "accuracy": 0.5}

    def collect(self, state: Any) -> Any:
        return state


def rules(every_steps: int = 4) -> Rules:
    return Rules(4, 4, 8, lambda step: step % every_steps == 0)


def iterate(
    toy: Any, rules: Any, found: list[Any], state: Any = 0, progress: Progress = BEGINNING
) -> list[Any]:
    """Appends all events of a training to `found`."""
    begin, stopwatch = Start(state, 0, progress, []), Stopwatch(PHASES)
    events = training_events(toy, rules, begin, stop_signal=lambda: 0, stopwatch=stopwatch)
    for event in events:
        found.append(event)  # also those before an error
    return found


def names(found: list[Any]) -> list[str]:
    return [type(event).__name__ for event in found]


EPOCH = ["Chunk", "Chunk", "Save", "Epoch"]


@pytest.mark.parametrize(
    ("toy", "every_steps", "message", "heard"),
    [
        # Within an epoch the chunk after it is under way when it is found.
        (Toy(losses={0: np.nan}), 4, "epoch 1, step 1: the loss is nan", ["Chunk"]),
        (Toy(losses={1: np.nan}), 4, "epoch 1, step 2: the loss is nan", ["Chunk"]),
        (Toy(losses={2: np.nan}), 4, "epoch 1, step 3: the loss is nan", ["Chunk"] * 2),
        (Toy(losses={5: np.nan}), 4, "epoch 2, step 6: the loss is nan", [*EPOCH, "Chunk"]),
        # Also where a save comes within an epoch, or an epoch ends without one.
        (Toy(losses={1: np.nan}), 1, "epoch 1, step 2: the loss is nan", ["Chunk"]),
        (Toy(losses={3: np.nan}), 8, "epoch 1, step 4: the loss is nan", ["Chunk"] * 2),
        # The losses are from before each update.
        (Toy(val_loss=np.inf), 4, "epoch 1, step 4: val_loss is not finite", ["Chunk"] * 2),
        (Toy(state_after={2: np.nan}), 1, "epoch 1, step 2: .* is not finite", ["Chunk"]),
    ],
)
def test_a_value_that_is_not_finite_ends_the_loop_before_it_is_saved_or_told(
    toy, every_steps, message, heard
):
    found = []
    with pytest.raises(FloatingPointError, match=message):
        iterate(toy, rules(every_steps), found)
    assert names(found) == heard
    assert toy.closed


class TwoMembers(Toy):
    """A population: the second member's state is not finite after the second chunk."""

    def run_chunk(self, state: Any, chunk: range, rate: Any) -> tuple[Any, dict[str, Any]]:
        _, sums = super().run_chunk(0, chunk, rate[0])
        state = state + np.array([2, np.nan if chunk.start == 2 else 2])
        return state, {name: np.stack([values] * 2) for name, values in sums.items()}

    def measure(self, state: Any, split: str) -> Any:
        return [super().measure(int(state[0]), split)] * 2


def test_a_member_whose_state_is_not_finite_is_told_before_the_save_and_the_others_go_on():
    diverged: Any = [None, None]
    progress = BEGINNING._replace(diverged=diverged)
    found = iterate(TwoMembers(), MemberRules([rules()] * 2, diverged), [], np.zeros(2), progress)
    assert names(found) == ["Chunk", "Chunk", "Diverged", "Save", "Epoch", *EPOCH, "Stop"]
    assert found[2] == Diverged(1, 1, 4)
    assert found[3].progress.diverged == [None, {"epoch": 1, "step": 4}]


def test_an_event_that_is_kept_does_not_change():
    chunks = [event for event in iterate(Toy(), rules(), []) if isinstance(event, Chunk)]
    assert [len(event.history) for event in chunks] == [0, 0, 1, 1]
    assert all(event.sums["loss_sum"].shape == (event.chunk_steps,) for event in chunks)
