import dataclasses

import numpy as np
import pytest
from helpers import SMALL

from mnist_jax import Config, evaluate, train
from mnist_jax.config import CheckpointConfig, OptimizerConfig, WatchConfig
from mnist_jax.hashing import tree_sha256
from mnist_jax.history import without_times
from mnist_jax.overfitting import rate_scale, stops_early


def rows(name: str, *values: float) -> list[dict[str, float]]:
    return [{"epoch": n, "step": 8 * n, name: value} for n, value in enumerate(values, start=1)]


@pytest.mark.parametrize(
    ("accuracies", "patience", "stops"),
    [
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.6], 1, False),
        ([0.5, 0.4], 1, True),
        ([0.5, 0.5], 1, False),  # of equal ones the newest is the best
        ([0.5, 0.4], 2, False),
        ([0.5, 0.4, 0.45], 2, True),
        ([0.5, 0.4, 0.6, 0.5], 2, False),
        ([0.9, 0.1, 0.1, 0.1], 0, False),
    ],
)
def test_patience_counts_the_epochs_since_the_best(accuracies, patience, stops):
    assert stops_early(rows("val_accuracy", *accuracies), patience) == stops


@pytest.mark.parametrize(
    ("losses", "patience", "scale"),
    [
        ([], 1, 1),
        ([3, 2, 1], 1, 1),
        ([1, 2], 1, 0.5),
        ([1, 2], 2, 1),
        ([1, 2, 2], 2, 0.5),
        ([1, 2, 2, 0.5, 1, 1], 2, 0.25),
        ([1, 2, 2, 2], 2, 0.5),  # the count begins anew
        ([1, 2, 2, 2, 2], 2, 0.25),
        ([1, 2, 2, 2, 2], 0, 1),
    ],
)
def test_the_rate_falls_on_a_plateau(losses, patience, scale):
    assert rate_scale(rows("val_loss", *losses), patience, 0.5) == scale


# With such a rate the small network is soon at its best.
OVERFITTING = dataclasses.replace(
    SMALL,
    epochs=30,
    optimizer=OptimizerConfig(learning_rate=0.02),
    watch=WatchConfig(patience=2),
)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("early") / "run"
    return workdir, train(OVERFITTING, workdir)


def test_early_stopping_ends_the_run_with_its_best_network(stopped):
    workdir, run = stopped
    accuracies = [row["val_accuracy"] for row in run.history]
    assert len(accuracies) < OVERFITTING.epochs
    best = max(n for n, accuracy in enumerate(accuracies) if accuracy == max(accuracies))
    assert len(accuracies) - 1 - best == 2
    assert run.result["steps"] == run.history[-1]["step"]
    assert run.result["best_step"] == run.history[best]["step"] == run.state.step
    assert run.result["val_accuracy"] == max(accuracies)
    assert run.result["params_sha256"] == tree_sha256(run.state.params)
    for step in ("latest", "best"):
        found = evaluate(workdir, step=step)
        assert (found["step"], found["accuracy"]) == (
            run.result["best_step"],
            run.result["test_accuracy"],
        )
    found = evaluate(workdir, "validation")
    assert found["accuracy"] == run.result["val_accuracy"]


def test_what_stopped_early_is_complete(stopped, capsys):
    workdir, run = stopped
    again = train(OVERFITTING, workdir)
    assert "is complete" in capsys.readouterr().out
    assert (again.history, again.result) == (run.history, run.result)
    assert tree_sha256(again.state) == tree_sha256(run.state)


def test_a_run_killed_before_its_result_stops_at_the_same_epoch(stopped):
    workdir, run = stopped
    (workdir / "result.json").unlink()
    again = train(OVERFITTING, workdir)
    assert again.history == run.history
    assert without_times(again.result) == without_times(run.result)


def test_the_gap_is_training_less_validation_accuracy(small_run):
    for row in small_run[1].history:
        assert row["generalization_gap"] == row["train_accuracy"] - row["val_accuracy"]


def test_a_plateau_slows_the_run_down_and_survives_a_stop(tmp_path, capsys):
    config = dataclasses.replace(
        OVERFITTING,
        epochs=8,
        optimizer=OptimizerConfig(learning_rate=0.2),
        watch=WatchConfig(plateau_patience=1, plateau_factor=1e-6),
    )
    undisturbed = train(config, tmp_path / "undisturbed")
    assert "a plateau: from here on the learning rate times 1e-06" in capsys.readouterr().out
    losses = [row["val_loss"] for row in undisturbed.history]
    plateau = int(np.argmax(np.diff(losses) >= 0)) + 1  # the first epoch that is no better
    # With almost no rate the next epoch changes almost nothing.
    assert losses[plateau + 1] == pytest.approx(losses[plateau], rel=1e-3)

    def interrupt(row):
        if row["epoch"] == plateau + 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(config, tmp_path / "stopped", on_epoch=interrupt)
    again = train(config, tmp_path / "stopped")
    assert without_times(again.result) == without_times(undisturbed.result)


def test_early_stopping_needs_every_epoch_saved():
    with pytest.raises(ValueError, match=r"checkpoint.every_epochs must be 1 with"):
        Config(watch=WatchConfig(patience=1), checkpoint=CheckpointConfig(every_epochs=2))
