"""Optional packages (extras), and the requirements of installed ones."""

import importlib.metadata
import importlib.util
from collections.abc import Sequence

from packaging.requirements import Requirement

PACKAGES = {"sklearn": "scikit-learn"}  # by module, if the names differ


def require(purpose: str, *modules: str, extra: str) -> None:
    """Raises ValueError if a module that `purpose` needs is not installed.

    The message advises to install the missing packages, or the extra, which contains them.
    """
    missing = [PACKAGES.get(name, name) for name in modules if not importlib.util.find_spec(name)]
    if missing:
        raise ValueError(
            f"{purpose} needs {' and '.join(missing)}: `pip install {' '.join(missing)}`, or the "
            f"extra `{extra}`"
        )


def metadata(package: str, field: str) -> list[str]:
    """Returns the values of a metadata field, [] if it or the package is missing."""
    try:
        return importlib.metadata.metadata(package).get_all(field) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def requirements(package: str) -> dict[str, list[Requirement]]:
    """Returns an installed package's requirements by extra; those without one by ""."""
    extras: dict[str, list[Requirement]] = {
        extra: [] for extra in ("", *metadata(package, "Provides-Extra"))
    }
    for requirement in map(Requirement, metadata(package, "Requires-Dist")):
        marker, requirement.marker = requirement.marker, None  # pip skips those of extras
        for extra, required in extras.items():
            if marker.evaluate({"extra": extra}) if marker else not extra:
                required.append(requirement)
    return extras


def installed_version(package: str) -> str:
    """Returns a package's version, "" if it is not installed."""
    return next(iter(metadata(package, "Version")), "")


def unmet(requirements: Sequence[Requirement]) -> list[Requirement]:
    """Returns the requirements whose package is missing or has a wrong version."""
    return [
        requirement
        for requirement in requirements
        if not (version := installed_version(requirement.name))
        or not requirement.specifier.contains(version, prereleases=True)
    ]


def has_extra(extra: str) -> bool:
    """Tells whether an extra of this package is installed."""
    return not unmet(requirements("mnist_jax").get(extra, []))
