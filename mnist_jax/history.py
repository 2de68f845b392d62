"""The readable files of a work directory, each replaced as a whole."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


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
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON file, at once or not at all; ValueError for a number that is not finite."""
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    with atomic_file(path) as file:
        file.write(text.encode())


def write_history(workdir: Path, history: list[dict[str, Any]]) -> None:
    """Writes metrics.jsonl, a line an epoch, at once or not at all."""
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in history)
    with atomic_file(workdir / "metrics.jsonl") as file:
        file.write(text.encode())


def read_json(path: Path) -> Any:
    """Reads a JSON file; None where there is none, ValueError where it is not JSON."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
