"""The rules of a training: pure functions of history, sums and step, so resumed runs agree."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mnist_jax.metrics import Sums, mean_metrics, total_sums
from mnist_jax.workdir.files import json_number
from mnist_jax.workdir.hashing import named_leaves
from mnist_jax.workdir.history import Row, best_row, score


def is_scheduled(
    step: int,
    *,
    epochs: int,
    steps_per_epoch: int,
    chunk_steps: int,
    every_epochs: int,
    every_steps: int,
) -> bool:
    """Decides whether a chunk that ends at `step` is saved; 0 steps: at epochs only."""
    epoch, rest = divmod(step, steps_per_epoch)
    if rest == 0 and (epoch % every_epochs == 0 or epoch == epochs):
        return True
    chunk_start = step - 1 - (step - 1) % steps_per_epoch % chunk_steps
    return every_steps > 0 and step // every_steps > chunk_start // every_steps


def stops_early(history: Sequence[Row], patience: int, monitor: str) -> bool:
    """Decides whether `patience` epochs have passed since `history.best_row`; 0 disables.

    References:
        L. Prechelt, "Early Stopping - But When?", 1998.
    """
    return bool(patience and history) and (
        history[-1]["epoch"] - best_row(history, monitor)["epoch"] >= patience
    )


def rate_factor(losses: list[float], patience: int, factor: float) -> float:
    """Computes the learning rate's factor after epochs with these losses (or negated metrics).

    After `patience` epochs in a row without a lower one it falls by `factor`; 0 disables.
    """
    scale, lowest, waited = 1.0, float("inf"), 0
    for loss in losses if patience else []:
        waited = 0 if loss < lowest else waited + 1
        lowest = min(lowest, loss)
        if waited == patience:
            scale, waited = scale * factor, 0
    return scale


def first_bad_step(losses: Any, last_step: int) -> int | None:
    """Returns the first step (from 1) with a non-finite loss, if any, up to `last_step`."""
    bad = np.flatnonzero(~np.isfinite(np.ravel(losses)))
    return last_step - np.size(losses) + int(bad[0]) + 1 if bad.size else None


def finite_leaves(tree: Any, axes: int = 0) -> dict[str, Any]:
    """Returns the leaves of a state that must be finite, by name.

    An optimizer's scalars, with only the `axes` of members, may be infinite, such as an initial
    best loss.
    """
    return {
        name: leaf
        for name, leaf in named_leaves(tree).items()
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)  # neither counters nor keys
        and not (name.split("/")[0] == "opt_state" and np.ndim(leaf) == axes)
    }


class Rules(NamedTuple):
    """The decisions of a training of one network; `laboratory.members` has a population's."""

    num_examples: int  # training images
    steps_per_epoch: int
    total_steps: int
    is_scheduled: Callable[[int], bool]  # step -> True if a checkpoint is due
    monitor: str = "val_accuracy"
    patience: int = 0
    plateau_monitor: str = "val_loss"
    plateau_patience: int = 0
    plateau_factor: float = 1.0
    # Updates so far -> the next one's rate without `rate_factor`; None if unknown.
    learning_rate: Callable[[int], float | None] = lambda _: None

    def best_step(self, history: Sequence[Row]) -> int | None:
        """Returns the best of the scheduled steps, see `best_row`, or None."""
        rows = [row for row in history if self.is_scheduled(row["step"])]
        return best_row(rows, self.monitor)["step"] if rows else None

    def kept_steps(self, saved: list[int], history: Sequence[Row]) -> set[int]:
        """Selects the saved steps to keep: the newest, the schedule's two newest, and the best.

        Two, because the newest may be damaged.
        """
        best = self.best_step(history)
        newest = [step for step in saved if self.is_scheduled(step)][-2:]
        return {*saved[-1:], *newest, *([best] if best else [])}

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
        metrics = {
            f"{part}_{name}": means[name]
            for part, means in (("train", trained), ("val", val))
            for name in val
        }
        # Older versions lack both.
        norms, rates = total.get("gradient_norm", []), total.get("learning_rate", [])
        rate = rates[-1] if rates else self.learning_rate(step - 1)
        row: Any = {
            "epoch": step // self.steps_per_epoch,
            "step": step,
            **metrics,
            # With dropout and augmentation the gap may be negative.
            "generalization_gap": trained["accuracy"] - val["accuracy"],
            "learning_rate": None if rate is None else rate * rate_factor,
            "gradient_norm": json_number(np.mean(norms).item()) if norms else None,
            "seconds": seconds,
            "input_seconds": input_seconds,
            "examples_per_second": self.num_examples / seconds,
        }
        return row

    def check_losses(self, sums: Sums, last_step: int) -> list[Any]:
        """Raises FloatingPointError if a loss is not finite; there are no events."""
        step = first_bad_step(sums["loss_sum"], last_step)
        if step:
            losses = np.ravel(sums["loss_sum"])
            raise self.diverged(step, f"the loss is {losses[step - last_step - 1]}")
        return []

    def check_state(self, state: Any, step: int, row: Row | None) -> list[Any]:
        """Raises FloatingPointError if a value of the state or row is not finite."""
        measured = {"val_loss": row["val_loss"]} if row else {}
        for name, leaf in (measured | finite_leaves(state)).items():
            if not np.isfinite(np.asarray(leaf)).all():
                raise self.diverged(step, f"{name} is not finite")
        return []

    def diverged(self, step: int, reason: str) -> FloatingPointError:
        return FloatingPointError(
            f"training diverged in epoch {(step - 1) // self.steps_per_epoch + 1}, step {step}: "
            f"{reason}; nothing of it is saved. Try a smaller optimizer.learning_rate"
        )
