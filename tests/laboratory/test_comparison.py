"""Populations compared seed by seed, against SciPy's paired t test."""

import json
from typing import Any

import pytest
from helpers import make_files
from scipy import stats

from mnist_jax import compare
from mnist_jax.laboratory.comparison import comparison_line
from mnist_jax.laboratory.population import read_population


def made_up(test: list[float], val: list[float], seeds: list[int] | None = None) -> dict[str, Any]:
    seeds = seeds or list(range(len(test)))
    return {"seeds": seeds, "values": {}, "test_accuracy": test, "val_accuracy": val}


def test_a_comparison_of_populations_is_a_paired_t_test():
    a = made_up([0.98, 0.97, 0.96, 0.99], [0.9, 0.8, 0.7, 0.6])
    b = made_up([0.983, 0.972, 0.9625, 0.9925], [0.9, 0.81, 0.69, 0.6])
    found = compare(a, b)
    low, high = stats.ttest_rel(b["test_accuracy"], a["test_accuracy"]).confidence_interval(0.95)
    expected = {"difference": (low + high) / 2, "half_width": (high - low) / 2}
    assert found["test_accuracy"] == pytest.approx(expected)
    one = compare(made_up([0.5], [0.5]), made_up([0.6], [0.5]))
    assert one["test_accuracy"]["half_width"] is None
    none = "no detectable difference: B - A is"
    for comparison, split, line in (
        (found, "test", "B is better by 0.25 ± 0.06 points on the test set (95 %, 4 pairs)"),
        (compare(b, a), "test", "B is worse by 0.25 ± 0.06 points"),
        (found, "validation", f"{none} +0.00 ± 1.30 points on the validation set (95 %, 4 pairs)"),
        (one, "test", "B - A is +10.00 points on the test set; one pair: no interval"),
        (compare(a, a), "test", f"{none} +0.00 ± 0.00"),
    ):
        assert comparison_line(comparison, split).startswith(line)


def test_populations_are_compared_by_their_work_directories(tmp_path):
    a, b = made_up([0.5, 0.6], [0.5, 0.6]), made_up([0.6, 0.8], [0.6, 0.7])
    for name, result in (("a", a), ("b", b)):
        values = result | {"diverged": [None, None]}
        make_files(tmp_path, {f"{name}/population.json": json.dumps(values)})
    found = compare(tmp_path / "a", str(tmp_path / "b"))
    assert found == compare(a, tmp_path / "b") == compare(a, b)
    assert list(found) == ["pairs", "val_accuracy", "test_accuracy"]
    assert read_population(tmp_path / "a")["validation"]["mean"] == pytest.approx(0.55)
    with pytest.raises(FileNotFoundError, match="there is no finished population in"):
        compare(a, tmp_path / "c")


def test_a_comparison_without_a_test_compares_validation():
    a, b = made_up([0.5, 0.6], [0.5, 0.6]), made_up([0.6, 0.7], [0.6, 0.7])
    found = compare(a | {"test_accuracy": [None, None]}, b)
    assert found["test_accuracy"] == {"difference": None, "half_width": None}
    assert found["val_accuracy"]["difference"] == pytest.approx(0.1)


def test_populations_of_different_seeds_are_not_compared():
    with pytest.raises(ValueError, match=r"the same seeds to be compared, got \[0, 1\] and"):
        compare(made_up([0.5, 0.6], [0.5, 0.6]), made_up([0.5, 0.6], [0.5, 0.6], [1, 2]))
