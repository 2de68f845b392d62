"""Packages that only some commands need, the extras of pyproject.toml; and what all of it needs."""

import importlib.metadata
import importlib.util
import tomllib
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

PACKAGES = {"sklearn": "scikit-learn"}  # modules whose package has another name
CHECKOUT = Path(__file__).parents[2]


def require(purpose: str, *modules: str, extra: str) -> None:
    """Raises ValueError, with the remedy, where some modules are not installed.

    Args:
        purpose: what needs them.
        modules: as Python imports them.
        extra: which has all that the purpose needs.
    """
    missing = [PACKAGES.get(name, name) for name in modules if not importlib.util.find_spec(name)]
    if missing:
        raise ValueError(
            f"{purpose} needs {' and '.join(missing)}: `pip install {' '.join(missing)}`, or the "
            f"extra `{extra}`, which has all that it needs"
        )


def requirements() -> dict[str, list[Requirement]]:
    """Returns what this package requires, "" its own needs, the others by extra.

    Of a checkout as pyproject.toml says: the metadata of an editable install are as old as that.
    Of an installed package as its metadata say. Where there is neither, nothing is known: {}.
    """
    project = CHECKOUT / "pyproject.toml"
    if project.is_file():
        told = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
        if told.get("name") == "mnist_jax":
            extras = {"": told["dependencies"]} | told["optional-dependencies"]
            return {name: [*map(Requirement, lines)] for name, lines in extras.items()}
    try:
        metadata = importlib.metadata.metadata("mnist_jax")
    except importlib.metadata.PackageNotFoundError:
        return {}
    lines = [*map(Requirement, metadata.get_all("Requires-Dist") or [])]
    names = ["", *(metadata.get_all("Provides-Extra") or [])]
    of_all = [line for line in lines if not line.marker or line.marker.evaluate({"extra": ""})]
    return {
        name: [line for line in lines if line.marker and line.marker.evaluate({"extra": name})]
        for name in names
    } | {"": of_all}


def installed_version(package: str) -> str:
    """Returns the version of a package; "" where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def unmet(requirements: Sequence[Requirement]) -> list[Requirement]:
    """Returns those whose package is not installed, or in another version."""
    return [
        requirement
        for requirement in requirements
        if not (version := installed_version(requirement.name))
        or not requirement.specifier.contains(version, prereleases=True)
    ]
