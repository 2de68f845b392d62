import dataclasses
import shutil

import pytest
from helpers import SMALL

from mnist_jax import Config, evaluate, train
from mnist_jax.config import CheckpointConfig, OptimizerConfig, WatchConfig
from mnist_jax.workdir.hashing import tree_sha256
from mnist_jax.workdir.history import without_times

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


@pytest.mark.slow
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


def test_a_run_that_stopped_early_is_complete(stopped, capsys):
    workdir, run = stopped
    again = train(OVERFITTING, workdir)
    assert "is complete" in capsys.readouterr().out
    assert (again.history, again.result) == (run.history, run.result)
    assert tree_sha256(again.state) == tree_sha256(run.state)


@pytest.mark.slow
def test_a_run_killed_before_its_result_stops_at_the_same_epoch(stopped, tmp_path):
    run, workdir = stopped[1], shutil.copytree(stopped[0], tmp_path / "run")
    (workdir / "result.json").unlink()
    again = train(OVERFITTING, workdir)
    assert again.history == run.history
    assert without_times(again.result) == without_times(run.result)


def test_the_gap_is_training_less_validation_accuracy(small_run):
    for row in small_run[1].history:
        assert row["generalization_gap"] == row["train_accuracy"] - row["val_accuracy"]


def test_early_stopping_needs_every_epoch_saved():
    with pytest.raises(ValueError, match=r"checkpoint.every_epochs must be 1 with"):
        Config(watch=WatchConfig(patience=1), checkpoint=CheckpointConfig(every_epochs=2))
