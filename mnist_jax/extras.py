"""Packages that only some commands need: the extras of pyproject.toml."""

import importlib.util

PACKAGES = {"sklearn": "scikit-learn"}  # modules whose package has another name


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
