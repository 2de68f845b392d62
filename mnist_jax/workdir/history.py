"""The history of a training, as metrics.jsonl and checkpoints hold it."""

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
    """An epoch, as a line of metrics.jsonl; of a population a metric is a list over the members.

    Losses are in nats an example, accuracies in [0, 1]; `generalization_gap` is the training
    accuracy less the validation accuracy; `learning_rate` that of the last step, None where it is
    not known; `gradient_norm` the mean over the steps; `input_seconds` what training waited for its
    images. Each own metric has `train_NAME` and `val_NAME`.
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
    """The part of a checkpoint beside the state, with which a resumed run begins.

    Attributes:
        origin: the record of what the run is made of.
        history: a row for each epoch so far.
        sums: the metric sums of an unfinished epoch's steps so far, as one entry.
        seconds: an unfinished epoch's, before the checkpoint.
        input_seconds: those of them that training waited for images.
        diverged: the place where each member of a population diverged, or None.
    """

    origin: Origin
    history: Sequence[Row] = ()
    sums: Sequence[dict[str, Any]] = ()
    seconds: float = 0.0
    input_seconds: float = 0.0
    diverged: list[dict[str, int] | None] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the values as JSON can hold them: None for a loss that is not finite."""
        values = self._asdict() | {"origin": self.origin.to_json()}
        values["sums"] = [
            {name: _without_nan(np.asarray(value).tolist()) for name, value in totals.items()}
            for totals in self.sums
        ]
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Progress":
        """Rebuilds what `to_json` gave, also in a version that had fewer fields."""
        kinds = dict.fromkeys(COUNTS, int)
        sums = [
            {name: np.asarray(value, kinds.get(name, float)) for name, value in totals.items()}
            for totals in values["sums"]
        ]
        return cls(**values | {"origin": Origin.from_json(values["origin"]), "sums": sums})


def _without_nan(value: Any) -> Any:
    return [*map(_without_nan, value)] if isinstance(value, list) else json_number(value)


def write_history(workdir: Path, history: Sequence[Row]) -> None:
    """Writes metrics.jsonl, a line an epoch, at once or not at all."""
    lines = [json.dumps(row, allow_nan=False) + "\n" for row in history]
    write_text(workdir / "metrics.jsonl", "".join(lines))


def read_history(workdir: Path) -> list[Row]:
    """Reads metrics.jsonl; ValueError if it is not what `write_history` writes."""
    path = workdir / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} cannot be read: line {number} is not JSON") from error
    return rows


def holds_history(workdir: Path, history: Sequence[Row]) -> bool:
    """Tells whether metrics.jsonl holds these rows."""
    try:
        return read_history(workdir) == [*history]
    except ValueError:
        return False


def without_times(values: Mapping[str, Any]) -> dict[str, Any]:
    """Drops the timings of a row or a result, which differ between runs of one config."""
    return {name: value for name, value in values.items() if name not in TIMES}


def check_monitors(watch: WatchConfig, metrics: Iterable[str] = ()) -> None:
    """Raises ValueError if a config watches a metric that its history will not have.

    Times are refused, too: they differ between two runs of one config, which must decide the same.
    The names of a user's own metrics each give train_NAME and val_NAME.
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
    """Returns a metric of one network's epoch so that higher is better.

    Lower is better, and the sign changes, where the name contains "loss", "error" or "gap". A value
    that is missing, None or not finite is the worst: -inf.
    """
    value = row.get(monitor)
    if value is None or not math.isfinite(value):
        return -math.inf
    return -value if any(part in monitor for part in LOWER_IS_BETTER) else value


def best_row(history: Sequence[Row], monitor: str) -> Row:
    """Returns the row whose metric of this name is the best, see `score`; of equals the newest."""
    return max(history, key=lambda row: (score(row, monitor), row["step"]))
