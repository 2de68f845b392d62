"""The rules of a training: checkpoints to save and keep, early stopping, plateaus.

Tables, and a definition that walks along the run; then whole runs that are decided by them.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from helpers import TINY, stop_after, times
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import LESSON, scripted

from mnist_jax import evaluate, population, train
from mnist_jax.config import WatchConfig, config_from_dict, replace_fields
from mnist_jax.events import Save
from mnist_jax.progress import console
from mnist_jax.rules import Rules, is_scheduled, rate_factor, stops_early
from mnist_jax.workdir.checkpoint import Saver, check_checkpoints
from mnist_jax.workdir.hashing import tree_sha256
from mnist_jax.workdir.history import best_row, check_monitors

ACCURACY = "val_accuracy"
EVERY_5 = {"checkpoint.every_epochs": 3, "checkpoint.every_steps": 5}


def chunk_ends(epochs: int, steps_per_epoch: int, chunk_steps: int) -> list[int]:
    return [
        epoch * steps_per_epoch + end
        for epoch in range(epochs)
        for end in [*range(chunk_steps, steps_per_epoch, chunk_steps), steps_per_epoch]
    ]


@settings(max_examples=200)
@given(*(st.integers(*ends) for ends in ((1, 5), (1, 12), (1, 14), (1, 6), (0, 30))))
def test_the_schedule_agrees_with_a_walk_along_the_run(
    epochs, steps_per_epoch, chunk_steps, every_epochs, every_steps
):
    run = {"epochs": epochs, "steps_per_epoch": steps_per_epoch, "chunk_steps": chunk_steps}
    when = {"every_epochs": every_epochs, "every_steps": every_steps}
    ends, saved = chunk_ends(**run), []
    for start, end in itertools.pairwise([0, *ends]):
        steps = range(start + 1, end + 1)
        passes = every_steps and any(step % every_steps == 0 for step in steps)
        finished = [n for n in range(1, epochs + 1) if n * steps_per_epoch == end]
        if passes or any(n % every_epochs == 0 or n == epochs for n in finished):
            saved.append(end)
    assert [step for step in ends if is_scheduled(step, **run, **when)] == saved


def epochs_at(accuracies: dict[int, float]) -> Any:
    return [{"step": step, ACCURACY: value} for step, value in accuracies.items()]


def test_the_best_step_is_a_scheduled_one(subtests):
    for accuracies, best in (
        ({}, None),
        ({10: 0.9}, None),  # an epoch that is not saved
        ({10: 0.9, 20: 0.5}, 20),
        ({10: 0.9, 20: 0.5, 30: 0.8, 40: 0.6}, 40),
        ({20: 0.6, 40: 0.5}, 20),
        ({20: 0.6, 40: 0.6}, 40),  # the newest of equal ones
        ({20: 0.6, 40: 0.7, 60: 0.7, 80: 0.1}, 60),
    ):
        with subtests.test(msg=str(accuracies)):
            rules = Rules(10, 10, 100, lambda step: step % 20 == 0)
            assert rules.best_step(epochs_at(accuracies)) == best


def test_pruning_keeps_the_best_and_the_two_newest_checkpoints(subtests):
    """The schedule saves multiples of 10; signals save all others."""
    for saved, accuracies, kept in (
        ([], {}, set()),
        ([4], {}, {4}),
        ([10, 20], {10: 0.5, 20: 0.6}, {10, 20}),
        ([10, 20, 30], {10: 0.5, 20: 0.6, 30: 0.7}, {20, 30}),
        ([10, 20, 30, 40], {10: 0.5, 20: 0.9, 30: 0.6, 40: 0.7}, {20, 30, 40}),
        ([10, 20, 30, 40], {10: 0.7, 20: 0.7, 30: 0.6, 40: 0.6}, {20, 30, 40}),
        ([10, 20, 30, 40], {}, {30, 40}),  # a population has no best step
        ([10, 20, 24], {10: 0.9, 20: 0.6}, {10, 20, 24}),  # the newest, scheduled or not
        ([10, 20, 24, 30], {10: 0.5, 20: 0.6, 30: 0.7}, {20, 30}),
        ([4, 8], {}, {8}),
        ([10, 14, 18, 20], {10: 0.5, 20: 0.6}, {10, 20}),
    ):
        with subtests.test(msg=f"{saved} {accuracies}"):
            rules = Rules(10, 10, 100, lambda step: step % 10 == 0)
            assert rules.kept_steps(saved, epochs_at(accuracies)) == kept


@pytest.mark.parametrize(
    ("fields", "accuracies", "saved", "kept"),
    [
        ({"checkpoint.every_epochs": 2}, [0.1, 0.2, 0.3], [16, 24], [16, 24]),
        (EVERY_5, [0.1, 0.2, 0.3], [6, 11, 16, 22, 24], [22, 24]),
        ({}, [0.3, 0.9, 0.4, 0.5, 0.1], [8, 16, 24, 32, 40], [16, 32, 40]),
    ],
)
def test_a_training_saves_by_the_schedule_and_keeps_the_best_and_the_newest(
    tmp_path, monkeypatch, fields, accuracies, saved, kept
):
    heard, wait = [], Saver.wait

    def checked(self: Saver) -> None:
        wait(self)  # for a save, before which others are pruned
        assert not [*(tmp_path / "checkpoints").glob("*.deleted")]

    monkeypatch.setattr(Saver, "wait", checked)
    config = replace_fields(LESSON, {"epochs": len(accuracies), **fields})
    with scripted(accuracies=accuracies):
        run = train(config, tmp_path, listeners=[heard.append])
    assert [event.step for event in heard if isinstance(event, Save)] == saved
    assert check_checkpoints(tmp_path / "checkpoints") == (kept, {})
    assert run.result["best_step"] in kept


@pytest.mark.parametrize(("chunks", "kept"), [(4, [8, 11]), (7, [8, 16, 19]), (10, [16, 24, 27])])
def test_a_stopped_population_keeps_the_two_newest_of_the_schedule(tmp_path, chunks, kept):
    with scripted(accuracies=[0.9, 0.1]):
        stop_after(chunks, population, dataclasses.replace(LESSON, epochs=4), tmp_path, seeds=1)
    assert check_checkpoints(tmp_path / "checkpoints") == (kept, {})


def epochs_of(accuracies: Sequence[float]) -> Any:
    return [{"epoch": n, "step": 8 * n, ACCURACY: value} for n, value in enumerate(accuracies, 1)]


def test_training_stops_when_patience_epochs_have_passed_since_the_best(subtests):
    for accuracies, patience, stops in (
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.4], 1, True),
        ([0.5, 0.5], 1, False),  # the newest of equal ones is the best
        ([0.5, 0.4, 0.5], 2, False),
        ([0.5, 0.4, 0.45], 2, True),
        ([0.5, 0.4, 0.45, 0.45], 2, True),  # the same row twice
        ([0.5, 0.4, 0.6, 0.5], 2, False),
        ([0.9, 0.1, 0.1, 0.1], 4, False),
        ([0.9, 0.1, 0.1, 0.1], 0, False),
        ([], 0, False),
    ):
        with subtests.test(msg=f"{accuracies}, patience {patience}"):
            assert stops_early(epochs_of(accuracies), patience, ACCURACY) is stops


def test_the_rate_falls_after_patience_epochs_without_a_lower_loss(subtests):
    for losses, patience, scale in (
        ([], 1, 1),
        ([3, 2, 1], 1, 1),
        ([1, 2], 1, 0.5),
        ([1, 1], 1, 0.5),  # an equal one is not lower
        ([1, 2, 1], 2, 0.5),
        ([1, 2], 2, 1),
        ([3, 2, 2.5, 2.4], 2, 0.5),  # lower than the lowest, not than the one before
        ([3, 2, 2.5, 1.9, 2], 2, 1),
        ([1, 2, 2, 0.5, 1, 1], 2, 0.25),
        ([1, 2, 2, 2], 2, 0.5),  # the count restarts
        ([1, 2, 2, 2, 2], 2, 0.25),
        ([1, 2, 3, 4], 1, 0.125),
        ([1, 2, 2, 1.5, 1.5], 2, 0.25),  # the lowest stays when the rate falls
        ([float("inf"), float("inf")], 1, 0.25),  # a diverged member
        ([1, 2, 2, 2, 2], 0, 1),
    ):
        with subtests.test(msg=f"{losses}, patience {patience}"):
            assert rate_factor([*map(float, losses)], patience, 0.5) == scale


def test_a_metrics_name_decides_whether_lower_is_better_and_nan_is_the_worst(subtests):
    for monitor, values, best in (
        ("val_loss", [0.5, 0.4, 0.4, 0.6], 3),
        ("val_error_rate", [0.5, 0.6], 1),
        ("generalization_gap", [0.1, -0.1, 0.2], 2),
        ("val_top5", [0.5, 0.6, 0.4], 2),
        ("val_top5", [None, 0.1, math.nan], 2),
        ("val_loss", [math.nan, 9.0, None, math.inf], 2),
        ("val_loss", [None, None], 2),
        ("train_accuracy", [-1.0, math.inf], 1),
        (ACCURACY, [0.5, 0.7, 0.7, 0.6], 3),
    ):
        with subtests.test(msg=f"{monitor} {values}"):
            history: Any = [{"epoch": n, "step": n, monitor: v} for n, v in enumerate(values, 1)]
            assert best_row(history, monitor)["epoch"] == best
            assert best_row(history[::-1], monitor)["epoch"] == best
    assert best_row(epochs_of([0.5, 0.4]), "val_later")["epoch"] == 2  # rows without this metric


def test_monitors_that_the_history_does_not_have_are_refused(subtests):
    for fields, metrics, message in (
        ({"monitor": "val_acuracy"}, (), "watch.monitor must be one of train_loss, train_acc"),
        ({"monitor": "val_acuracy"}, (), "got 'val_acuracy' (did you mean val_accuracy?)"),
        ({"plateau_monitor": "val_top5"}, (), "watch.plateau_monitor must be"),
        ({"monitor": "top5"}, ["top5"], "got 'top5' (did you mean val_top5?)"),
        ({"monitor": "seconds"}, (), "got 'seconds'"),  # times differ between runs
        ({"monitor": "step"}, (), "got 'step'"),
        ({"monitor": "val_top5", "plateau_monitor": "train_top5"}, ["top5"], None),
        ({"monitor": "generalization_gap", "plateau_monitor": "val_accuracy"}, (), None),
    ):
        with subtests.test(msg=f"{fields} {message}"):
            refused = message and pytest.raises(ValueError, match=re.escape(message))
            with refused or contextlib.nullcontext():
                check_monitors(config_from_dict({"watch": fields}).watch, metrics)


def test_training_with_an_unknown_monitor_is_refused_before_anything_is_written(tmp_path):
    config = dataclasses.replace(LESSON, watch=WatchConfig(monitor="val_f1"))
    for run in (train, functools.partial(population, seeds=2)):
        with pytest.raises(ValueError, match=r"watch\.monitor must be one of"):
            run(config, tmp_path / "new")
        assert not (tmp_path / "new").exists()


def test_early_stopping_ends_with_the_best_network_and_the_run_is_complete(tmp_path, capsys):
    """At this rate the small network soon peaks."""
    changes = {"epochs": 30, "optimizer.learning_rate": 0.03, "watch.patience": 1}
    config = replace_fields(TINY, changes)
    run = train(config, tmp_path)
    best = best_row(run.history, ACCURACY)
    assert len(run.history) == best["epoch"] + 1 < config.epochs
    assert run.result["best_step"] == best["step"] == run.state.step
    assert run.result["val_accuracy"] == max(row[ACCURACY] for row in run.history)
    tested = evaluate(tmp_path)
    assert (tested["step"], tested["accuracy"]) == (best["step"], run.result["test_accuracy"])
    before = times(tmp_path)
    again = train(config, tmp_path, listeners=[console()])
    assert "is already trained: test accuracy" in capsys.readouterr().out
    assert times(tmp_path) == before
    assert (again.history, again.result) == (run.history, run.result)
    assert tree_sha256(again.state) == tree_sha256(run.state)


def test_the_monitor_decides_when_to_stop_and_which_checkpoint_is_the_best(tmp_path):
    """By accuracy the run would stop after three epochs, with the first as the best."""
    watch = WatchConfig(monitor="val_loss", patience=2)
    with scripted(accuracies=[0.9, 0.5, 0.4], losses=[3.0, 2.0, 1.0, 4.0, 5.0]):
        run = train(dataclasses.replace(LESSON, epochs=9, watch=watch), tmp_path, listeners=())
    assert (len(run.history), run.result["best_step"], run.result["val_accuracy"]) == (5, 24, 0.4)
    assert np.asarray(run.state.params["layer"]["kernel"]) == 24
    assert check_checkpoints(tmp_path / "checkpoints") == ([24, 32, 40], {})


def test_the_plateau_monitor_decides_when_the_rate_of_each_member_falls(tmp_path):
    watch = WatchConfig(plateau_monitor="val_accuracy", plateau_patience=1, plateau_factor=0.5)
    with scripted(accuracies=[[0.5, 0.5], [0.6, 0.5], [0.7, 0.6]], losses=[1.0]) as script:
        population(dataclasses.replace(LESSON, watch=watch), tmp_path, seeds=2, listeners=())
    assert script.rates[::3] == [[1.0, 1.0], [1.0, 1.0], [1.0, 0.5]]
