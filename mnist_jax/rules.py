"""The rules of a training: pure functions of history, sums and step.

A run that was stopped and resumed has the same history and the same steps; so the same is decided.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax.metrics import Sums, mean_metrics, total_sums
from mnist_jax.workdir.files import json_number
from mnist_jax.workdir.history import Row, best_row, score

# Checkpoints: which steps are saved, and which of the saved ones stay


def is_scheduled(
    step: int,
    *,
    epochs: int,
    steps_per_epoch: int,
    chunk_steps: int,
    every_epochs: int,
    every_steps: int,
) -> bool:
    """Decides whether the chunk that ends at `step` ends with a checkpoint.

    A pure function of the step, so a resumed run saves the same steps. With `every_steps` of 0 only
    epochs end with one.
    """
    if step % steps_per_epoch == 0:
        epoch = step // steps_per_epoch
        if epoch % every_epochs == 0 or epoch == epochs:
            return True
    chunk_start = step - 1 - (step - 1) % steps_per_epoch % chunk_steps
    return every_steps > 0 and step // every_steps > chunk_start // every_steps


def best_step(
    history: Sequence[Row], is_scheduled: Callable[[int], bool], monitor: str
) -> int | None:
    """Returns the step of the `best_row` among the scheduled ones, if there are any."""
    rows = [row for row in history if is_scheduled(row["step"])]
    return best_row(rows, monitor)["step"] if rows else None


def kept_steps(
    saved: list[int], history: Sequence[Row], is_scheduled: Callable[[int], bool], monitor: str
) -> set[int]:
    """Returns the saved steps that stay: the newest, two newest of the schedule, and the best.

    Two, because the newest may turn out damaged. A step that was saved only because of a signal is
    deleted once the schedule has saved two more.
    """
    best = best_step(history, is_scheduled, monitor)
    newest = [step for step in saved if is_scheduled(step)][-2:]
    return {*saved[-1:], *newest, *([best] if best else [])}


# Validation that stops improving


def stops_early(history: Sequence[Row], patience: int, monitor: str) -> bool:
    """Decides whether `patience` epochs have passed since the best one; with 0, never.

    The best is `history.best_row`: of epochs with an equal metric the newest.

    References:
        L. Prechelt, "Early Stopping - But When?", 1998.
    """
    return bool(patience and history) and (
        history[-1]["epoch"] - best_row(history, monitor)["epoch"] >= patience
    )


def rate_factor(losses: list[float], patience: int, factor: float) -> float:
    """Returns the factor of the learning rate after these epochs.

    Args:
        losses: the validation loss of each epoch, or another metric of which lower is better.
        patience: the number of epochs in a row without a lower loss after which the rate falls and
            the count starts again; 0 disables.
        factor: the factor applied each time.
    """
    scale, lowest, waited = 1.0, float("inf"), 0
    for loss in losses if patience else []:
        waited = 0 if loss < lowest else waited + 1
        lowest = min(lowest, loss)
        if waited == patience:
            scale, waited = scale * factor, 0
    return scale


# Divergence


def first_bad_step(losses: Any, last_step: int) -> int | None:
    """Returns the first step (from 1) whose loss is not finite, if any.

    Args:
        losses: the losses of the steps up to `last_step`, in order; each is from before the step's
            update.
        last_step: the step of the last loss, counted from 1.
    """
    bad = np.flatnonzero(~np.isfinite(np.ravel(losses)))
    return last_step - np.size(losses) + int(bad[0]) + 1 if bad.size else None


def bad_leaf(tree: Any) -> str | None:
    """Returns the name of the first leaf with a value that is not finite, if any."""
    named = finite_leaves(tree).items()
    return next((name for name, leaf in named if not np.isfinite(np.asarray(leaf)).all()), None)


def finite_leaves(tree: Any, axes: int = 0) -> dict[str, Any]:
    """Returns the leaves of a state, or another tree, that must be finite, by name.

    A gradient that is not finite leaves its trace in the parameters and in the optimizer's moments,
    which are arrays. Numbers of an optimizer may begin at infinity, such as a best loss.

    Args:
        tree: a state, or another tree of arrays.
        axes: the number of axes that every leaf has, such as that of members.
    """
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)  # neither counters nor keys
        and not (path and getattr(path[0], "name", "") == "opt_state" and np.ndim(leaf) == axes)
    }


class Rules(NamedTuple):
    """The decisions of a training of one network; `laboratory.members` has a population's.

    Attributes:
        num_examples: the number of training images.
        steps_per_epoch: the number of steps in an epoch; the last one may be padded.
        total_steps: the number of steps in all epochs.
        is_scheduled: a function step -> whether a checkpoint is due.
        monitor: the metric that decides which epoch is the best.
        patience: the argument of `stops_early`.
        plateau_monitor: the metric whose plateaus count.
        plateau_patience: the patience of `rate_factor`.
        plateau_factor: the factor of `rate_factor`.
        learning_rate: a function, number of updates so far -> learning rate of the next one without
            that factor, or None where it is not known.
    """

    num_examples: int
    steps_per_epoch: int
    total_steps: int
    is_scheduled: Callable[[int], bool]
    monitor: str = "val_accuracy"
    patience: int = 0
    plateau_monitor: str = "val_loss"
    plateau_patience: int = 0
    plateau_factor: float = 1.0
    learning_rate: Callable[[int], float | None] = lambda _: None

    def best_step(self, history: Sequence[Row]) -> int | None:
        return best_step(history, self.is_scheduled, self.monitor)

    def kept_steps(self, saved: list[int], history: Sequence[Row]) -> set[int]:
        return kept_steps(saved, history, self.is_scheduled, self.monitor)

    def stops_early(self, history: Sequence[Row]) -> bool:
        return stops_early(history, self.patience, self.monitor)

    def rate_factor(self, history: Sequence[Row]) -> float:
        losses = [-score(row, self.plateau_monitor) for row in history]
        return rate_factor(losses, self.plateau_patience, self.plateau_factor)

    def totals(self, sums: Sequence[Sums]) -> dict[str, Any]:
        return total_sums(sums)

    def row(
        self,
        step: int,
        sums: Sequence[Sums],
        val: Any,
        rate_factor: float,
        seconds: float,
        input_seconds: float,
    ) -> Row:
        trained, total = mean_metrics(sums), total_sums(sums)
        both = {"train": trained, "val": val}
        metrics = {f"{part}_{name}": both[part][name] for part in both for name in val}
        rate = (
            total["learning_rate"][-1] if "learning_rate" in total else self.learning_rate(step - 1)
        )
        norms = total.get("gradient_norm", [])  # an older version summed up none
        row: Any = {
            "epoch": step // self.steps_per_epoch,
            "step": step,
            **metrics,
            # Training accuracy is that of the epoch's own steps, with dropout and augmentation, so
            # the gap may be negative.
            "generalization_gap": trained["accuracy"] - val["accuracy"],
            "learning_rate": None if rate is None else rate * rate_factor,
            "gradient_norm": json_number(np.mean(norms).item()) if norms else None,
            "seconds": seconds,
            "input_seconds": input_seconds,
            "examples_per_second": self.num_examples / seconds,
        }
        return row

    def check_losses(self, sums: Sums, last_step: int) -> list[Any]:
        """Raises FloatingPointError where a loss is not finite; there are no events."""
        step = first_bad_step(sums["loss_sum"], last_step)
        if step:
            losses = np.ravel(sums["loss_sum"])
            raise self.diverged(step, f"the loss is {losses[step - last_step - 1]}")
        return []

    def check_state(self, state: Any, step: int, row: Row | None) -> list[Any]:
        """Raises FloatingPointError where a value of the state, or of the row, is not finite."""
        measured = {"val_loss": row["val_loss"]} if row else {}
        for tree in (measured, state):
            name = bad_leaf(tree)
            if name is not None:
                raise self.diverged(step, f"{name} is not finite")
        return []

    def diverged(self, step: int, reason: str) -> FloatingPointError:
        return FloatingPointError(
            f"training diverged in epoch {(step - 1) // self.steps_per_epoch + 1}, step {step}: "
            f"{reason}; nothing of it is saved. Try a smaller optimizer.learning_rate"
        )
