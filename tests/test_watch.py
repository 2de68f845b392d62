"""When training stops early and when its rate falls: tables of histories."""

from collections.abc import Sequence

from mnist_jax.rules import rate_scale, stops_early
from mnist_jax.workdir.history import best_row


def rows(name: str, values: Sequence[float]) -> list[dict[str, float]]:
    return [{"epoch": n, "step": 8 * n, name: value} for n, value in enumerate(values, start=1)]


def test_training_stops_when_patience_epochs_have_passed_since_the_best(subtests):
    for accuracies, patience, stops in (
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.6], 1, False),
        ([0.5, 0.4], 1, True),
        ([0.5, 0.5], 1, False),  # of equal ones the newest is the best
        ([0.5, 0.4], 2, False),
        ([0.5, 0.4, 0.5], 2, False),
        ([0.5, 0.4, 0.45], 2, True),
        ([0.5, 0.4, 0.45, 0.45], 2, True),  # also where a stop came in between
        ([0.5, 0.4, 0.6, 0.5], 2, False),
        ([0.5, 0.4, 0.6, 0.5, 0.5], 2, True),
        ([0.9, 0.1, 0.1, 0.1], 4, False),
        ([0.9, 0.1, 0.1, 0.1], 0, False),
        ([], 0, False),
    ):
        with subtests.test(msg=f"{accuracies}, patience {patience}"):
            assert stops_early(rows("val_accuracy", accuracies), patience) is stops


def test_the_rate_falls_after_patience_epochs_without_a_lower_loss(subtests):
    for losses, patience, scale in (
        ([], 1, 1),
        ([3], 1, 1),
        ([3, 2, 1], 1, 1),
        ([1, 2], 1, 0.5),
        ([1, 1], 1, 0.5),  # an equal one is not lower
        ([1, 1, 1], 2, 0.5),
        ([1, 2, 1], 2, 0.5),
        ([1, 2], 2, 1),
        ([1, 2, 2], 2, 0.5),
        ([3, 2, 2.5, 2.4], 2, 0.5),  # lower than the lowest, not than the one before
        ([3, 2, 2.5, 1.9, 2], 2, 1),
        ([1, 2, 2, 0.5, 1, 1], 2, 0.25),
        ([1, 2, 2, 2], 2, 0.5),  # the count begins anew
        ([1, 2, 2, 2, 2], 2, 0.25),
        ([1, 2, 3, 4], 1, 0.125),
        ([1, 2, 2, 1.5, 1.5], 2, 0.25),  # the lowest stays when the rate falls
        ([float("inf"), float("inf")], 1, 0.25),  # of a member that has diverged
        ([1, 2, 2, 2, 2], 0, 1),
    ):
        with subtests.test(msg=f"{losses}, patience {patience}"):
            assert rate_scale(losses, patience, 0.5) == scale


def test_the_best_row_has_the_highest_accuracy_and_of_equal_ones_is_the_newest():
    history = rows("val_accuracy", [0.5, 0.7, 0.7, 0.6])
    assert best_row(history)["epoch"] == 3
    assert best_row(history[::-1])["epoch"] == 3
    assert best_row(history[:1])["epoch"] == 1
