"""Reports of several runs: the best of them, and whether the difference is detectable."""

import dataclasses
import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers import SMALL
from hypothesis import given
from hypothesis import strategies as st
from reports import check_page, table

from mnist_jax import predict, report, train
from mnist_jax.metrics import paired_interval
from mnist_jax.reporting.comparison import _headline, _tails
from mnist_jax.reporting.measured import Measured
from mnist_jax.reporting.page import listed


def test_networks_are_compared_image_by_image(small, other, mnist, tmp_path):
    written = report([small, other], tmp_path / "page.html")
    said = check_page(written.path)
    labels = mnist["test"].labels[:500]
    answers = [predict(workdir, mnist["test"].images[:500]).classes for workdir in (small, other)]
    first, second = (found == labels for found in answers)
    low, high = paired_interval(int((first & ~second).sum()), int((second & ~first).sum()), 500)
    for found in written.networks:
        error, chance = (found[f"{of}_calibration_error"] for of in ("expected", "chance"))
        assert f"{error:.2%} ({chance:.2%})" in said
    assert "the highest test accuracy of several is optimistic" in said
    assert "A and B answer" in said
    points = 100 * (second.mean() - first.mean())
    assert f"{points:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})" in said
    assert f"answer {(answers[0] != answers[1]).sum()} images differently" in said
    differing = table(written.path.read_text(encoding="utf-8"), "Fields that differ")
    assert [row[0] for row in differing] == ["field", "seed", "model.name", "model.hidden_size"]
    assert len(written.networks) == 2


def test_networks_are_named_by_what_differs_in_their_paths(subtests):
    for paths, names in (
        (["runs/a", "runs/b"], ["a", "b"]),
        (["runs/fast", "runs/faster"], ["fast", "faster"]),
        (["runs/a", "runs/a/b"], ["a", "a/b"]),
        (["runs/x/1", "runs/y/1"], ["x/1", "y/1"]),
        (["m/rate=0.1_seed-0", "m/rate=0.12_seed-0"], ["0.1_seed-0", "0.12_seed-0"]),
        (["runs/a", "runs/a"], ["a", "a"]),
    ):
        with subtests.test(msg=f"{paths}"):
            assert _tails([Named(Path(path)) for path in paths]) == names  # type: ignore[misc]


def test_names_are_joined_as_in_a_sentence():
    assert [listed("ABC"[:count]) for count in (1, 2, 3)] == ["A", "A and B", "A, B and C"]


class Named(NamedTuple):
    workdir: Path


def answers(right: str) -> Measured:
    """Makes answers to images of class 0; a 1 in the text is a right answer."""
    found = np.array([int(letter == "0") for letter in right])
    return Measured("test", None, np.zeros_like(found), found, np.ones(len(found)))


HEADLINES = {
    "b is better than a by 10.00 points in validation": ("1" * 90 + "0" * 10, "1" * 100),
    "No detectable difference between b and a in": ("10" * 50, "10" * 49 + "11"),
    "A tie: a and b are right equally often in": ("10" * 50, "01" * 50),
    "A tie: a, b and c are right": ("10", "01", "10", "00"),
    "": ("1",),
}


@pytest.mark.parametrize("said", HEADLINES)
def test_the_headline_names_a_winner_only_where_there_is_one(said):
    runs = zip("abcd", HEADLINES[said], strict=False)
    measured = [(name, answers(right), None) for name, right in runs]
    ((headline, _),) = {_headline(order) for order in itertools.permutations(measured)}
    assert headline.startswith(said)


def test_the_headline_names_the_best_in_validation_whatever_the_test_says():
    a = ("a", answers("1" * 90 + "0" * 10), answers("1" * 100))
    b = ("b", answers("1" * 100), answers("1" * 90 + "0" * 10))
    headline, detail = _headline([a, b])
    assert headline == "b is better than a by 10.00 points in validation"
    assert "b minus a, validation accuracy in points with the 95% interval: +10.00 (+" in detail
    assert "; on the test images -10.00 (-" in detail


@pytest.mark.slow
def test_networks_with_different_training_images_are_compared_on_the_same_test(small, tmp_path):
    data = dataclasses.replace(SMALL.data, train_split="train[:640]")
    train(dataclasses.replace(SMALL, epochs=1, data=data), tmp_path / "fewer")
    said = check_page(report([small, tmp_path / "fewer"], tmp_path / "page.html").path)
    assert "different images from A" not in said
    assert "No verdict: the networks were validated on different images" in said
    assert "different epochs (A: 2, B: 1)" in said
    assert "different numbers of training images (A: 1,024, B: 512)" in said
    assert "data.train_split train[:1280] train[:640]" in said
    assert "images differently" in said


def test_a_network_and_itself_do_not_differ(small, tmp_path):
    said = check_page(report([small, small], tmp_path / "page.html").path)
    assert "The recipes are the same" in said
    assert "A tie: A (small) and B (small) are right equally often" in said
    assert "give the same answer for each image" in said


@pytest.mark.slow
def test_networks_of_different_datasets_are_not_compared(small, easy, tmp_path):
    said = check_page(report([small, easy], tmp_path / "page.html").path)
    assert "B has different images from A" in said
    assert "No other network has A's images" in said


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 100))
def test_paired_intervals_hold_what_they_promise(only_first, only_second, others):
    count = only_first + only_second + others
    low, high = paired_interval(only_first, only_second, count)
    assert low <= (only_second - only_first) / (count + 2) <= high
    assert paired_interval(only_second, only_first, count) == pytest.approx((-high, -low))
    if only_first == only_second:
        assert low < 0 < high


def test_a_paired_interval_covers_the_true_difference():
    rng = np.random.default_rng(0)
    probabilities = [0.03, 0.06, 0.91]  # only the first is right, only the second, or neither
    draws = rng.multinomial(200, probabilities, size=2000)
    found = [paired_interval(int(a), int(b), 200) for a, b, _ in draws]
    covered = np.mean([low <= 0.03 <= high for low, high in found])
    assert 0.93 < covered < 0.98
