"""Reports of several runs: which of them is better, and whether that can be told."""

import dataclasses
import itertools

import numpy as np
import pytest
from helpers import SMALL
from hypothesis import given
from hypothesis import strategies as st
from reports import check_page, table
from reports import easy as easy
from reports import other as other
from reports import own_data as own_data
from reports import small as small

from mnist_jax import predict, report, train
from mnist_jax.metrics import paired_interval
from mnist_jax.reporting.comparison import _headline
from mnist_jax.reporting.measured import Measured
from mnist_jax.reporting.page import listed


def test_networks_are_compared_image_by_image(small, other, mnist, tmp_path):
    written = report([small, other], tmp_path / "page.html")
    said = check_page(written.path)
    labels = mnist["test"].labels[:500]
    answers = [predict(workdir, mnist["test"].images[:500]).classes for workdir in (small, other)]
    first, second = (found == labels for found in answers)
    low, high = paired_interval(int((first & ~second).sum()), int((second & ~first).sum()), 500)
    chance = [found["chance_calibration_error"] for found in written.networks]
    errors = [found["expected_calibration_error"] for found in written.networks]
    for error, floor in zip(errors, chance, strict=True):
        assert f"{error:.2%} ({floor:.2%})" in said
    assert "the highest test accuracy of several is optimistic" in said
    assert "A and B answer" in said
    points = 100 * (second.mean() - first.mean())
    assert f"{points:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})" in said
    assert f"answer {(answers[0] != answers[1]).sum()} images differently" in said
    differing = table(written.path.read_text(encoding="utf-8"), "Fields that differ")
    fields = ["field", "seed", "model.name", "model.hidden_size"]
    assert [row[0] for row in differing] == fields
    assert len(written.networks) == 2


def test_names_are_joined_as_in_a_sentence():
    assert [listed("ABC"[:count]) for count in (1, 2, 3)] == ["A", "A and B", "A, B and C"]


def answers(right: str) -> Measured:
    """Of images of class 0; a 1 in the text is a right answer."""
    found = np.array([int(letter == "0") for letter in right])
    return Measured("test", None, np.zeros_like(found), found, np.ones(len(found)))


def test_the_headline_names_a_winner_only_where_there_is_one(subtests):
    cases = [
        (
            {"a": "1" * 90 + "0" * 10, "b": "1" * 100},
            "b is better than a by 10.00 points in validation",
        ),
        ({"a": "10" * 50, "b": "10" * 49 + "11"}, "No detectable difference between b and a in"),
        ({"a": "10" * 50, "b": "01" * 50}, "A tie: a and b are right equally often in"),
        ({"a": "10", "b": "01", "c": "10", "d": "00"}, "A tie: a, b and c are right"),
        ({"a": "1"}, ""),
    ]
    for all_right, said in cases:
        with subtests.test(msg=said):
            measured = [(name, answers(right), None) for name, right in all_right.items()]
            found = {_headline(order) for order in itertools.permutations(measured)}
            assert len(found) == 1
            assert found.pop()[0].startswith(said)


def test_the_headline_names_the_best_in_validation_whatever_the_test_says():
    a = ("a", answers("1" * 90 + "0" * 10), answers("1" * 100))
    b = ("b", answers("1" * 100), answers("1" * 90 + "0" * 10))
    headline, detail = _headline([a, b])
    assert headline == "b is better than a by 10.00 points in validation"
    assert "of b less that of a, in points with the 95% interval: +10.00 (+" in detail
    assert "; on the test images -10.00 (-" in detail


@pytest.mark.slow
def test_networks_of_other_training_images_are_compared_on_the_same_test(small, tmp_path):
    data = dataclasses.replace(SMALL.data, train_split="train[:640]")
    train(dataclasses.replace(SMALL, epochs=1, data=data), tmp_path / "fewer")
    said = check_page(report([small, tmp_path / "fewer"], tmp_path / "page.html").path)
    assert "different images from A" not in said
    assert "different epochs (A: 2, B: 1)" in said
    assert "data.train_split train[:1280] train[:640]" in said
    assert "images differently" in said


def test_a_network_and_itself_do_not_differ(small, tmp_path):
    said = check_page(report([small, small], tmp_path / "page.html").path)
    assert "The recipes are the same" in said
    assert "A tie: A (small) and B (small) are right equally often" in said
    assert "give the same answer for each image" in said


@pytest.mark.slow
def test_networks_of_other_data_are_not_compared(small, easy, tmp_path):
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
