"""Which steps are saved, and which of the saved ones stay."""

from collections.abc import Callable
from typing import Any

from mnist_jax.history import best_row


def is_scheduled(
    step: int,
    *,
    epochs: int,
    steps_per_epoch: int,
    chunk_steps: int,
    every_epochs: int,
    every_steps: int,
) -> bool:
    """Tells whether there is to be a checkpoint at the end of the chunk that ends at `step`.

    A pure function of the step: a run that was stopped saves the same ones. `every_steps` of 0 adds
    none to the ends of the epochs.
    """
    if step % steps_per_epoch == 0:
        epoch = step // steps_per_epoch
        if epoch % every_epochs == 0 or epoch == epochs:
            return True
    chunk_start = step - 1 - (step - 1) % steps_per_epoch % chunk_steps
    return every_steps > 0 and step // every_steps > chunk_start // every_steps


def best_step(history: list[dict[str, Any]], scheduled: Callable[[int], bool]) -> int | None:
    """Returns the best step by validation accuracy of those that the schedule saves, if any."""
    rows = [row for row in history if scheduled(row["step"])]
    return best_row(rows)["step"] if rows else None


def kept_steps(
    saved: list[int], history: list[dict[str, Any]], scheduled: Callable[[int], bool]
) -> set[int]:
    """Returns the saved steps that stay: the newest, two newest of the schedule, and the best.

    Two, because the newest may be damaged one day. A step that only a signal has saved goes when
    the next ones of the schedule are there.
    """
    best = best_step(history, scheduled)
    newest = [step for step in saved if scheduled(step)][-2:]
    return {*saved[-1:], *newest, *([best] if best else [])}
