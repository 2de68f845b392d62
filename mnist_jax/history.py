"""The readable files of a work directory, each replaced as a whole."""

import json
import os
from pathlib import Path
from typing import Any


def write_atomic(path: Path, text: str) -> None:
    """Replaces a file so that a reader, or a crash, sees the old text or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON file as `write_atomic` does."""
    write_atomic(path, json.dumps(values, indent=2) + "\n")


def write_history(workdir: Path, history: list[dict[str, Any]]) -> None:
    """Writes metrics.jsonl, a line an epoch."""
    write_atomic(workdir / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history))


def read_json(path: Path) -> Any:
    """Reads a JSON file; None where there is none, ValueError where it is not JSON."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
