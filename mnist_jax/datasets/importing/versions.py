"""The versions of an imported dataset, which are told from those that others have made."""

import re
from collections.abc import Sequence
from pathlib import Path

from mnist_jax.datasets.prepare import was_imported


def imported_versions(directory: Path, overwrite: bool) -> list[Path]:
    """Returns the versions of a dataset, oldest first.

    Raises ValueError unless there are none, or they were imported and are to be overwritten.
    """
    versions = []
    if directory.exists():
        for path in directory.iterdir():
            if path.name != ".lock" and not path.name.startswith("incomplete."):
                versions.append(path)
                if not (was_imported(path) and re.fullmatch(r"\d+(\.\d+)*", path.name)):
                    raise ValueError(
                        f"{path} is there already, and was not imported: choose another name"
                    )
    if versions and not overwrite:
        raise ValueError(
            f"the dataset {directory.name} is in {directory} already: choose another name, or "
            "overwrite it"
        )
    return sorted(versions, key=_version)


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in path.name.split("."))


def next_version(old: Sequence[Path]) -> str:
    """Returns the version after the last of some: "1.0.0" at first."""
    if not old:
        return "1.0.0"
    *first, last = _version(old[-1])
    return ".".join(map(str, [*first, last + 1]))
