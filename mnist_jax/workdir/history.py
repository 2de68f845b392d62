"""The history of a run, in metrics.jsonl and in checkpoints."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from mnist_jax.config import WatchConfig, did_you_mean
from mnist_jax.metrics import COUNTS
from mnist_jax.workdir.files import json_number, write_text
from mnist_jax.workdir.origin import Origin

TIMES = ("seconds", "input_seconds", "examples_per_second")
LOWER_IS_BETTER = ("loss", "error", "gap")  # in the name of a metric


class Row(TypedDict):
    """An epoch, a line of metrics.jsonl; a population's metrics are lists over its members.

    Losses are in nats per example, accuracies in [0, 1]. `generalization_gap` is training minus
    validation accuracy, `learning_rate` the last step's (None if unknown), `gradient_norm` the mean
    over the steps, `input_seconds` the wait for images. Own metrics are `train_NAME` and
    `val_NAME`.
    """

    epoch: int
    step: int
    train_loss: Any
    train_accuracy: Any
    val_loss: Any
    val_accuracy: Any
    generalization_gap: Any
    learning_rate: NotRequired[Any]  # older versions had neither
    gradient_norm: NotRequired[Any]
    seconds: float
    input_seconds: float
    examples_per_second: float


class Progress(NamedTuple):
    """The record of a run's progress, saved with each state."""

    origin: Origin
    history: Sequence[Row] = ()  # of finished epochs
    sums: Sequence[dict[str, Any]] = ()  # metric sums of an unfinished epoch, as one entry
    seconds: float = 0.0  # duration of an unfinished epoch
    input_seconds: float = 0.0  # its wait for images
    diverged: list[dict[str, int] | None] | None = None  # by member, the place or None

    def to_json(self) -> dict[str, Any]:
        """Converts the values for JSON, with None for losses that are not finite."""
        values = self._asdict() | {"origin": self.origin.to_json()}
        values["sums"] = [
            {name: _without_nan(np.asarray(value).tolist()) for name, value in totals.items()}
            for totals in self.sums
        ]
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Progress":
        """Reverses `to_json`; older versions had fewer fields."""
        kinds = dict.fromkeys(COUNTS, int)
        sums = [
            {name: np.asarray(value, kinds.get(name, float)) for name, value in totals.items()}
            for totals in values["sums"]
        ]
        return cls(**values | {"origin": Origin.from_json(values["origin"]), "sums": sums})


def _without_nan(value: Any) -> Any:
    return [*map(_without_nan, value)] if isinstance(value, list) else json_number(value)


def write_history(workdir: Path, history: Sequence[Row]) -> None:
    """Writes metrics.jsonl atomically, a line per epoch."""
    lines = [json.dumps(row, allow_nan=False) + "\n" for row in history]
    write_text(workdir / "metrics.jsonl", "".join(lines))


def read_history(workdir: Path) -> list[Row]:
    """Reads metrics.jsonl; ValueError if it is invalid."""
    path, rows = workdir / "metrics.jsonl", []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            rows.append(json.loads(line))
    except (OSError, ValueError, RecursionError) as error:
        is_read = not isinstance(error, OSError | UnicodeError)
        reason = f"line {len(rows) + 1} is not JSON" if is_read else error
        raise ValueError(f"{path} cannot be read: {reason}") from error
    return rows


def holds_history(workdir: Path, history: Sequence[Row]) -> bool:
    """Tells whether metrics.jsonl holds these rows."""
    try:
        return read_history(workdir) == [*history]
    except ValueError:
        return False


def without_times(values: Mapping[str, Any]) -> dict[str, Any]:
    """Drops a row's or result's times, which differ between equal runs."""
    return {name: value for name, value in values.items() if name not in TIMES}


def check_monitors(watch: WatchConfig, metrics: Iterable[str] = ()) -> None:
    """Raises ValueError if a config watches a metric that its history will not have.

    Times are refused, because equal runs must decide alike. `metrics` are the user's own.
    """
    own = [f"{split}_{name}" for name in metrics for split in ("train", "val")]
    known = [name for name in Row.__annotations__ if name not in ("epoch", "step", *TIMES)] + own
    for field in ("monitor", "plateau_monitor"):
        name = getattr(watch, field)
        if name not in known:
            raise ValueError(
                f"watch.{field} must be one of {', '.join(known)}, got {name!r}"
                f"{did_you_mean(name, known)}"
            )


def score(row: Mapping[str, Any], monitor: str) -> float:
    """Returns a metric of one network's epoch, negated if lower is better.

    That is so for names with "loss", "error" or "gap". A value that is missing, None or
    not finite gives -inf.
    """
    value = row.get(monitor)
    if value is None or not math.isfinite(value):
        return -math.inf
    return -value if any(part in monitor for part in LOWER_IS_BETTER) else value


def best_row(history: Sequence[Row], monitor: str) -> Row:
    """Returns the row with the best `score`, the newest of equal ones."""
    return max(history, key=lambda row: (score(row, monitor), row["step"]))
