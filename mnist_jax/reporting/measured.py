"""A run as a report sees it: its files, and each answer of its network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
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
from mnist_jax.workdir.hashing import network_sha256
from mnist_jax.workdir.history import Row, read_history
from mnist_jax.workdir.run import Result, is_tested, read_result
from mnist_jax.workdir.trained import Trained, load_trained, own_splits

PROBABILITIES = 1 << 24  # in memory at a time: of thousands of classes, all would fill it
TOO_LARGE = 1e39  # float32, which losses are, has no such number
CURVES = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
# Older versions had neither.
STEP_CURVES = {"learning_rate": "learning rate", "gradient_norm": "gradient norm"}


class RunRecord(NamedTuple):
    """What `train` has left in a directory; with early stopping, its best network."""

    trained: Trained
    result: Result | None  # None of a run that is not finished
    history: list[Row]

    @property
    def workdir(self) -> Path:
        return self.trained.workdir

    @property
    def split(self) -> str:
        """The split that a page may show: the test is unseen until it is measured."""
        return "test" if is_tested(self.result) else "validation"


class Measured(NamedTuple):
    """The answers of a network for the "test" or "validation" split: the likeliest classes."""

    split: str
    images: Any  # uint8 [N, H, W, C], or `StreamedImages`
    labels: np.ndarray  # int [N], the true classes
    answers: np.ndarray  # int [N]
    confidence: np.ndarray  # float [N], the probabilities of the answers

    @property
    def right(self) -> np.ndarray:
        """Bool [N], whether the answer is the true class."""
        return self.answers == self.labels

    @property
    def reliability(self) -> Reliability:
        """Whether it is as often right as it is sure."""
        return reliability(self.confidence, self.right)

    def answer(self, number: int, names: Sequence[str]) -> tuple[str, str]:
        """Returns the name and the probability of the answer for an image, as they are written."""
        return names[int(self.answers[number])], in_percent(float(self.confidence[number]))


def read_run(workdir: str | Path, **own: Any) -> RunRecord:
    """Reads what `train` has left; arguments and errors as of `load_trained`."""
    trained = load_trained(workdir, **own)
    history = read_history(trained.workdir)
    for number, row in enumerate(history, 1):
        if not _is_row(row, number):
            path = trained.workdir / "metrics.jsonl"
            raise ValueError(f"{path} is not the history of a training: see line {number}")
    return RunRecord(trained, read_result(trained.workdir), history)


def _is_row(row: Any, epoch: int) -> bool:
    """Tells whether a row can be drawn: hostile numbers are larger than a figure is wide."""
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
    """Returns the network's answer for each image of a split, and all splits of its own data.

    Raises ValueError if the data are no longer those that it was trained on.
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
    """Returns the numbers that a report begins with, as JSON can hold them.

    `workdir` and `split`; `accuracy` in [0, 1] with `ci95`, its 95 % interval; `count` and `errors`
    in images; `expected_calibration_error`, `chance_calibration_error`, which a perfectly
    calibrated network would have, and `mean_confidence` in [0, 1]; `step`, `params`,
    `params_sha256`; `seconds` of all epochs, however often the run was stopped, or None; and the
    `classes`, see `class_figures`.
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
        "params": sum(leaf.size for leaf in jax.tree.leaves(run.trained.variables["params"])),
        "params_sha256": network_sha256(run.trained.variables),
        "seconds": sum(seconds) if seconds and all(map(_is_drawable, seconds)) else None,
        "classes": class_figures(measured, run.trained.info.label_names),
    }


def class_figures(measured: Measured, names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the `name`, `precision`, `recall`, `f1` and `support` of each class.

    A fraction is None for a class without an image or an answer that would define it.
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
    """Sums `figures` up in one line."""
    low, high = numbers["ci95"]
    return (
        "{workdir}: {split} accuracy {accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}), "
        "{errors:,} of {count:,} wrong"
    ).format(**numbers, low=low, high=high)
