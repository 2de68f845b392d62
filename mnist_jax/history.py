"""The readable files of a work directory, each replaced as a whole."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mnist_jax.distributed import by_first_process
from mnist_jax.hashing import sync

TIMES = ("seconds", "input_seconds", "examples_per_second")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file for writing so that a reader, or a crash, sees the old one or the whole new one.

    The new file takes the place of the old one when the `with` block ends without an error.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:  # of a write it has no file name
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@by_first_process
def write_json(path: Path, values: Any) -> None:
    """Writes a JSON file, at once or not at all; ValueError for a number that is not finite."""
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    with atomic_file(path) as file:
        file.write(text.encode())


@by_first_process
def write_history(workdir: Path, history: list[dict[str, Any]]) -> None:
    """Writes metrics.jsonl, a line an epoch, at once or not at all."""
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in history)
    with atomic_file(workdir / "metrics.jsonl") as file:
        file.write(text.encode())


def read_history(workdir: Path) -> list[dict[str, Any]]:
    """Reads metrics.jsonl; ValueError where it is not what `write_history` writes."""
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


def without_times(values: dict[str, Any]) -> dict[str, Any]:
    """Returns what of a row, or of a result, is the same in every run of a config."""
    return {name: value for name, value in values.items() if name not in TIMES}


def best_row(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the row with the highest validation accuracy; of equal ones the newest."""
    return max(history, key=lambda row: (row["val_accuracy"], row["step"]))


def read_json(path: Path) -> Any:
    """Reads a JSON file; ValueError where it cannot be read, or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def json_number(value: float) -> float | None:
    """The value as JSON can hold it: None for what is not finite."""
    return value if math.isfinite(value) else None
