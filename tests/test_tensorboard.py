"""Event files, read back with TensorBoard's own reader."""

import shutil
from pathlib import Path

import pytest
from conftest import SMALL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnist_jax import train
from mnist_jax.train import Run


def assert_each_step_once(workdir: Path, run: Run) -> None:
    events = EventAccumulator(str(workdir / "tensorboard")).Reload()
    names = set(run.history[0]) - {"epoch", "step"}
    assert set(events.Tags()["scalars"]) == names
    for name in names:
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(row["step"], pytest.approx(row[name])) for row in run.history]


def test_a_row_of_the_history_is_a_point_of_each_curve(tmp_path):
    run = train(SMALL, tmp_path, tensorboard=True)
    assert_each_step_once(tmp_path, run)


def test_a_run_that_goes_on_has_each_step_once(tmp_path):
    """What was written before it was stopped, and after its last checkpoint, is not doubled."""
    train(SMALL, tmp_path, tensorboard=True)
    (tmp_path / "result.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "16")
    (event_file,) = (tmp_path / "tensorboard").iterdir()
    event_file.write_bytes(event_file.read_bytes()[:-7])  # killed in the middle of a point
    run = train(SMALL, tmp_path, tensorboard=True)
    assert_each_step_once(tmp_path, run)
