"""The comparison of populations seed by seed, by Student's paired t test."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mnist_jax.laboratory.population import read_population
from mnist_jax.metrics import mean_and_spread


def compare(a: Mapping[str, Any] | str | Path, b: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """Compares two finished populations, seed by seed.

    Members with the same seed share initial parameters and the order of the examples, if the
    recipes allow, so their differences vary less than the accuracies.

    Args:
        a: result of `population`, or the workdir of a finished one.
        b: another, with the same seeds and varied values.

    Returns:
        `pairs`, and for `val_accuracy`, by which to choose, and `test_accuracy` the mean
        `difference` b - a, a fraction, and the `half_width` of its 95 % interval. Both are None
        without a test, `half_width` also with one pair.

    Raises:
        FileNotFoundError: a workdir holds no finished population.
        ValueError: seeds or varied values differ, or a population cannot be read.
    """
    pair: list[Any] = [x if isinstance(x, Mapping) else read_population(x) for x in (a, b)]
    check_pairs(*pair)
    comparison: dict[str, Any] = {"pairs": len(pair[0]["seeds"])}
    for name in ("val_accuracy", "test_accuracy"):
        first, second = pair[0][name], pair[1][name]
        known = None not in (*first, *second)
        spread = mean_and_spread(np.subtract(second, first) if known else [None])
        half_width = spread["ci95"] and spread["ci95"][1] - spread["mean"]
        comparison[name] = {"difference": spread["mean"], "half_width": half_width}
    return comparison


def check_pairs(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Raises ValueError unless two populations have the same seeds and varied values."""
    for name in ("seeds", "values"):
        if a[name] != b[name]:
            raise ValueError(
                f"populations must have the same {name} to be compared, got {a[name]} and {b[name]}"
            )


def comparison_line(comparison: dict[str, Any], split: str) -> str:
    """Formats a result of `compare` on "test" or "validation"."""
    name = {"test": "test_accuracy", "validation": "val_accuracy"}[split]
    difference, half_width = comparison[name]["difference"], comparison[name]["half_width"]
    if half_width is None:
        return f"B - A is {100 * difference:+.2f} points on the {split} set; one pair: no interval"
    size = f"± {100 * half_width:.2f} points on the {split} set (95 %, {comparison['pairs']} pairs)"
    if abs(difference) <= half_width:
        return f"no detectable difference: B - A is {100 * difference:+.2f} {size}"
    word = "better" if difference > 0 else "worse"
    return f"B is {word} by {100 * abs(difference):.2f} {size}"
