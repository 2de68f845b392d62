"""A run as a report sees it: its files, and each answer of its network."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mnist_jax.metrics import wilson_interval
from mnist_jax.predict import as_network
from mnist_jax.reporting.calibration import (
    Reliability,
    chance_calibration_error,
    expected_calibration_error,
    reliability,
)
from mnist_jax.workdir.hashing import network_sha256
from mnist_jax.workdir.history import Row, read_history
from mnist_jax.workdir.run import Result, is_tested, read_result
from mnist_jax.workdir.trained import Trained, load_trained, own_splits

PROBABILITIES = 1 << 24  # in memory at a time: of thousands of classes, all would fill it
TOO_LARGE = 1e39  # float32, which losses are, has no such number
CURVES = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
STEP_CURVES = ("learning_rate", "gradient_norm")  # older versions had neither


class RunRecord(NamedTuple):
    """What `train` has left in a directory.

    Attributes:
        workdir: the directory.
        trained: the network; with early stopping the best one, otherwise the last.
        result: what result.json holds; None of a run that is not finished.
        history: its rows.
    """

    workdir: Path
    trained: Trained
    result: Result | None
    history: list[Row]

    @property
    def split(self) -> str:
        """The split that a page may show: the test is unseen until it is measured."""
        return "test" if is_tested(self.result) else "validation"


class Measured(NamedTuple):
    """The answers of a network.

    Attributes:
        split: "test" or "validation".
        images: uint8 [N, H, W, C], or `StreamedImages`.
        labels: int [N], the true classes.
        answers: int [N], the likeliest classes.
        confidence: float [N], their probabilities.
    """

    split: str
    images: Any
    labels: np.ndarray
    answers: np.ndarray
    confidence: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Bool [N], whether the answer is the true class."""
        return self.answers == self.labels

    @property
    def reliability(self) -> Reliability:
        """Whether it is as often right as it is sure."""
        return reliability(self.confidence, self.right)


def read_run(workdir: str | Path, **own: Any) -> RunRecord:
    """Reads what `train` has left; arguments and errors as of `load_trained`."""
    trained = load_trained(workdir, **own)
    history = read_history(Path(workdir))
    for number, row in enumerate(history, 1):
        if not _is_row(row, number):
            raise ValueError(
                f"{Path(workdir) / 'metrics.jsonl'} is not the history of a training: see line "
                f"{number}"
            )
    return RunRecord(Path(workdir), trained, read_result(Path(workdir)), history)


def _is_row(row: Any, epoch: int) -> bool:
    """Tells whether a row can be drawn: hostile numbers are larger than a figure is wide."""
    if not isinstance(row, dict):
        return False
    values = [row.get(name) for name in CURVES]
    values += [row[name] for name in STEP_CURVES if row.get(name) is not None]
    return (
        all(isinstance(value, int | float) and 0 <= value < TOO_LARGE for value in values)
        and row["epoch"] == epoch
        and max(row["train_accuracy"], row["val_accuracy"]) <= 1
    )


def measure(run: RunRecord, split: str) -> tuple[Measured, dict[str, Any]]:
    """Lets the network answer for each image of a split of its own data.

    Returns:
        The answers, and all splits.

    Raises:
        ValueError: the data are no longer those that it was trained on.
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
    `params_sha256`; and `seconds` that all epochs took together, None where that is not known.
    """
    count, right = len(measured.labels), int(measured.right.sum())
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
        "seconds": _training_seconds(run.history),
    }


def _training_seconds(history: list[Row]) -> float | None:
    """The time of all epochs, also of those before a run was stopped and went on."""
    seconds: list[Any] = [row.get("seconds") for row in history]
    known = all(isinstance(value, int | float) and 0 <= value < TOO_LARGE for value in seconds)
    return sum(seconds) if seconds and known else None


def verdict(numbers: dict[str, Any]) -> str:
    """Sums `figures` up in one line."""
    low, high = numbers["ci95"]
    return (
        "{workdir}: {split} accuracy {accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}), "
        "{errors:,} of {count:,} wrong"
    ).format(**numbers, low=low, high=high)
