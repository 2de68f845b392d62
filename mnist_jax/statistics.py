"""What measurements say: means and paired differences of trainings, 95 % intervals."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def mean_and_spread(values: Sequence[float]) -> dict[str, Any]:
    """Describes a sample by Student's t distribution.

    Args:
        values: N finite numbers, of trainings that differ by their seed alone.

    Returns:
        `mean`; `std`, the standard deviation of the population (ddof 1); and `ci95`, [low, high],
        the 95 % interval of the mean. One value has neither of the latter two: None.

    References:
        Student, "The Probable Error of a Mean", Biometrika 6, 1908.
    """
    from scipy.special import stdtrit  # the quantiles of scipy.stats.t; a tenth of a second

    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": mean, "std": None, "ci95": None}
    std = float(np.std(values, ddof=1))
    half_width = float(stdtrit(len(values) - 1, 0.975)) * std / math.sqrt(len(values))
    return {"mean": mean, "std": std, "ci95": [mean - half_width, mean + half_width]}


def wilson_interval(successes: int, count: int) -> tuple[float, float]:
    """Returns the 95 % interval of a probability, of which `count` trials had some successes.

    It stays within 0 and 1, unlike the one from the standard deviation, also where nearly all
    trials were successes.

    References:
        E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
        Journal of the American Statistical Association 22, 1927.
    """
    z = 1.959964  # 95 % of a normal distribution lie within so many standard deviations
    share, weight = successes / count, z**2 / count
    middle = (share + weight / 2) / (1 + weight)
    half_width = math.sqrt(weight * share * (1 - share) + weight**2 / 4) / (1 + weight)
    return max(0.0, middle - half_width), min(1.0, middle + half_width)


def paired_interval(only_first: int, only_second: int, count: int) -> tuple[float, float]:
    """Returns the 95 % interval of the difference of two accuracies on the same images.

    Images that both networks, or neither, got right say nothing of it, as in McNemar's test. Half
    an image is added to each of the four counts, so that the interval holds what it promises also
    where few differ.

    Args:
        only_first: images that the first network alone got right.
        only_second: those that the second one alone did.
        count: all images.

    Returns:
        (low, high) of the second accuracy less the first, fractions.

    References:
        A. Agresti and Y. Min, "Simple improved confidence intervals for comparing matched
        proportions", Statistics in Medicine 24, 2005.
    """
    difference = only_second - only_first
    differing, total = only_first + only_second + 1, count + 2
    half_width = 1.959964 * math.sqrt(differing - difference**2 / total) / total
    return difference / total - half_width, difference / total + half_width


def compare(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Compares two finished populations, seed by seed.

    Pairs with a seed in common share the first parameters and the order of the examples, where
    both recipes have the same ones: the differences spread less than the accuracies do.

    Args:
        a: what `population` returns.
        b: the same of another recipe, with the same seeds and varied values.

    Returns:
        `pairs`, and for each of `val_accuracy` and `test_accuracy` the mean `difference` b - a, a
        fraction, and `half_width`, that of its 95 % interval; None with a single pair.

    Raises:
        ValueError: the seeds or the varied values are others.
    """
    check_pairs(a, b)
    found: dict[str, Any] = {"pairs": len(a["seeds"])}
    for name in ("val_accuracy", "test_accuracy"):
        spread = mean_and_spread(np.subtract(b[name], a[name]))
        half_width = spread["ci95"] and spread["ci95"][1] - spread["mean"]
        found[name] = {"difference": spread["mean"], "half_width": half_width}
    return found


def check_pairs(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Raises ValueError unless the members of two populations are pairs."""
    for name in ("seeds", "values"):
        if a[name] != b[name]:
            raise ValueError(
                f"populations are compared seed by seed: the {name} must be the same, got "
                f"{a[name]} and {b[name]}"
            )


def comparison_line(found: dict[str, Any], split: str) -> str:
    """Spells what `compare` has found on "test" or "validation" in a sentence about B."""
    name = {"test": "test_accuracy", "validation": "val_accuracy"}[split]
    difference, half_width = (found[name][key] for key in ("difference", "half_width"))
    if half_width is None:
        return f"B - A is {100 * difference:+.2f} points on the {split} set; one pair: no interval"
    size = f"± {100 * half_width:.2f} points on the {split} set (95 %, {found['pairs']} pairs)"
    if abs(difference) <= half_width:
        return f"no difference to be seen: B - A is {100 * difference:+.2f} {size}"
    word = "better" if difference > 0 else "worse"
    return f"B is {word} by {100 * abs(difference):.2f} {size}"
