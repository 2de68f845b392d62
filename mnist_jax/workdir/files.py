"""Files that a reader, or a crash, sees whole: the old one, or the new one."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mnist_jax.processes.distributed import by_first_process


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
def write_text(path: Path, text: str) -> None:
    """Writes a text file, at once or not at all."""
    with atomic_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON file, at once or not at all; ValueError for a number that is not finite."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file; ValueError if it cannot be read, or is not strict JSON.

    Python's parser takes NaN, and the last of two equal keys.
    """
    try:
        return json.loads(
            path.read_text(encoding="utf-8"), parse_constant=_refuse, object_pairs_hook=_object
        )
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it holds {twice[:100]!r} twice")
    return values


def json_number(value: float | None) -> float | None:
    """The value as JSON can hold it: None for what is not finite."""
    return value if value is not None and math.isfinite(value) else None


def sync(path: Path) -> None:
    """Waits until a file, or the names in a directory, are on the disk: for a loss of power."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
