"""Optional packages (the extras of pyproject.toml), and requirements of installed packages."""

import importlib.metadata
import importlib.util
from collections.abc import Sequence

from packaging.requirements import Requirement

PACKAGES = {"sklearn": "scikit-learn"}  # modules whose package has another name


def require(purpose: str, *modules: str, extra: str) -> None:
    """Raises ValueError, with the remedy, if a module is not installed.

    Args:
        purpose: the subject of the message, which needs the modules.
        modules: their names in Python.
        extra: the extra that contains all that the purpose needs.
    """
    missing = [PACKAGES.get(name, name) for name in modules if not importlib.util.find_spec(name)]
    if missing:
        raise ValueError(
            f"{purpose} needs {' and '.join(missing)}: `pip install {' '.join(missing)}`, or the "
            f"extra `{extra}`, which has all that it needs"
        )


def metadata(package: str, field: str) -> list[str]:
    """Returns all values of a field in an installed package's metadata, [] if it has none."""
    try:
        return importlib.metadata.metadata(package).get_all(field) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def requirements(package: str) -> dict[str, list[Requirement]]:
    """Returns an installed package's requirements by extra; "" has those without any extra."""
    extras: dict[str, list[Requirement]] = {
        extra: [] for extra in ("", *metadata(package, "Provides-Extra"))
    }
    for requirement in map(Requirement, metadata(package, "Requires-Dist")):
        marker, requirement.marker = requirement.marker, None  # pip would skip one for an extra
        for extra, required in extras.items():
            if marker.evaluate({"extra": extra}) if marker else not extra:
                required.append(requirement)
    return extras


def installed_version(package: str) -> str:
    """Returns a package's version, "" if it is not installed."""
    return next(iter(metadata(package, "Version")), "")


def unmet(requirements: Sequence[Requirement]) -> list[Requirement]:
    """Returns the requirements whose package is missing or has a different version."""
    return [
        requirement
        for requirement in requirements
        if not (version := installed_version(requirement.name))
        or not requirement.specifier.contains(version, prereleases=True)
    ]
