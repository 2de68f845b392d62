"""The measurements of a report: a run's history, and its network's answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnist_jax.metrics import wilson_interval
from mnist_jax.network import as_network
from mnist_jax.reporting.calibration import (
    Reliability,
    chance_calibration_error,
    expected_calibration_error,
    reliability,
)
from mnist_jax.reporting.page import in_percent
from mnist_jax.state import count_params
from mnist_jax.workdir.hashing import network_sha256
from mnist_jax.workdir.history import Row, read_history
from mnist_jax.workdir.run import Result, is_tested, read_result
from mnist_jax.workdir.trained import Trained, load_trained, own_splits

PROBABILITIES = 1 << 24  # in memory at a time; thousands of classes would fill it
TOO_LARGE = 1e39  # above any float32 loss
CURVES = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
# Unknown in runs of older versions.
STEP_CURVES = {"learning_rate": "learning rate", "gradient_norm": "gradient norm"}


class RunRecord(NamedTuple):
    """A run's files; with early stopping, its best network."""

    trained: Trained
    result: Result | None  # None of an unfinished run
    history: list[Row]

    @property
    def workdir(self) -> Path:
        return self.trained.workdir

    @property
    def split(self) -> str:
        """The split to show: "validation" until the test is measured."""
        return "test" if is_tested(self.result) else "validation"


class Measured(NamedTuple):
    """A network's answers, its likeliest classes, for a split."""

    split: str  # "test" or "validation"
    images: Any  # uint8 [N, H, W, C], or `StreamedImages`
    labels: np.ndarray  # int [N], true classes
    answers: np.ndarray  # int [N]
    confidence: np.ndarray  # float [N], probabilities of the answers

    @property
    def right(self) -> np.ndarray:
        """Bool [N], True for right answers."""
        return self.answers == self.labels

    @property
    def reliability(self) -> Reliability:
        """The answers by bin of probability."""
        return reliability(self.confidence, self.right)

    def answer(self, number: int, names: Sequence[str]) -> tuple[str, str]:
        """Returns the name and probability of an image's answer, as written."""
        return names[int(self.answers[number])], in_percent(float(self.confidence[number]))


def read_run(workdir: str | Path, **own: Any) -> RunRecord:
    """Reads a run; arguments and errors as of `load_trained`."""
    trained = load_trained(workdir, **own)
    history = read_history(trained.workdir)
    for number, row in enumerate(history, 1):
        if not _is_row(row, number):
            path = trained.workdir / "metrics.jsonl"
            raise ValueError(f"{path} is not the history of a training: see line {number}")
    return RunRecord(trained, read_result(trained.workdir), history)


def _is_row(row: Any, epoch: int) -> bool:
    """Tells whether a row can be drawn: hostile numbers would exceed a figure."""
    if not isinstance(row, dict):
        return False
    values = [row.get(name) for name in CURVES]
    values += [row[name] for name in STEP_CURVES if row.get(name) is not None]
    return (
        all(map(_is_drawable, values))
        and row["epoch"] == epoch
        and max(row["train_accuracy"], row["val_accuracy"]) <= 1
    )


def _is_drawable(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value < TOO_LARGE


def measure(run: RunRecord, split: str) -> tuple[Measured, dict[str, Any]]:
    """Measures a network on a split; returns its answers and all splits.

    Raises ValueError if the data have changed since the training.
    """
    splits, _ = own_splits(run.trained)
    images, labels = splits[split]
    network = as_network(run.trained)
    batches = max(1, PROBABILITIES // (len(run.trained.info.label_names) * network.batch_size))
    answers, confidence = np.zeros(len(labels), np.int32), np.zeros(len(labels), np.float32)
    for first in range(0, len(labels), batches * network.batch_size):
        some = np.arange(first, min(first + batches * network.batch_size, len(labels)))
        probabilities, answers[some] = network.predict(images[some], check=False)
        confidence[some] = probabilities[np.arange(len(some)), answers[some]]
    return Measured(split, images, labels, answers, confidence), splits


def figures(run: RunRecord, measured: Measured) -> dict[str, Any]:
    """Returns the numbers of a report, ready for JSON.

    Fractions in [0, 1]: `accuracy` with its 95 % interval `ci95`, `mean_confidence`,
    `expected_calibration_error`, and `chance_calibration_error`, that of a perfectly calibrated
    network. Images: `count`, `errors`. `seconds` are those of all epochs, or None. `classes` are
    `class_figures`. The others are `workdir`, `split`, `step`, `params` and `params_sha256`.
    """
    count, right = len(measured.labels), int(measured.right.sum())
    seconds: list[Any] = [row.get("seconds") for row in run.history]
    return {
        "workdir": str(run.workdir),
        "split": measured.split,
        "accuracy": right / count,
        "ci95": [*wilson_interval(right, count)],
        "count": count,
        "errors": count - right,
        "expected_calibration_error": expected_calibration_error(measured.reliability),
        "chance_calibration_error": chance_calibration_error(measured.confidence),
        "mean_confidence": float(measured.confidence.mean(dtype=np.float64)),
        "step": run.trained.step,
        "params": count_params(run.trained.variables["params"]),
        "params_sha256": network_sha256(run.trained.variables),
        "seconds": sum(seconds) if seconds and all(map(_is_drawable, seconds)) else None,
        "classes": class_figures(measured, run.trained.info.label_names),
    }


def class_figures(measured: Measured, names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns each class's `name`, `precision`, `recall`, `f1` and `support`.

    A fraction without an image or an answer to define it is None.
    """
    from sklearn.metrics import precision_recall_fscore_support

    undefined: Any = np.nan
    scores: Any = precision_recall_fscore_support(
        measured.labels, measured.answers, labels=range(len(names)), zero_division=undefined
    )
    keys = ("name", "precision", "recall", "f1", "support")
    return [
        {key: None if value != value else value for key, value in zip(keys, row, strict=True)}
        for row in zip(names, *(score.tolist() for score in scores), strict=True)
    ]


def verdict(numbers: dict[str, Any]) -> str:
    """Writes `figures` as one line."""
    low, high = numbers["ci95"]
    return (
        "{workdir}: {split} accuracy {accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}), "
        "{errors:,} of {count:,} wrong"
    ).format(**numbers, low=low, high=high)
