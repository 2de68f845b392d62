"""Traces of JAX's profiler."""

import signal
from pathlib import Path

import pytest
from helpers import TINY, at_chunk
from scripted import LESSON, scripted
from subprocesses import options

from mnist_jax import train
from mnist_jax.cli.main import main
from mnist_jax.processes.signals import Stopped
from mnist_jax.reporting.profile import profile


def traces(workdir: Path) -> list[bytes]:
    return [path.read_bytes() for path in workdir.glob("profile/**/*.xplane.pb")]


def test_the_train_command_records_chunks_and_says_where_there_are_none(tmp_path, capsys):
    command = ["train", *options(TINY), f"--workdir={tmp_path}"]
    none = "warning: no profile: chunks trained: "
    for more, count, said in (
        ([], 1, ""),
        ([], 1, f"{none}0"),
        (["--overwrite", "--chunk-steps=99", "--epochs=1"], 0, f"{none}1"),
    ):
        assert main([*command, "--profile", *more]) == 0
        assert capsys.readouterr().err.partition(",")[0] == said
        assert len(found := traces(tmp_path)) == count
        assert all(b"train_steps" in trace for trace in found)


@pytest.mark.parametrize("at", [2, 4])
def test_a_run_that_is_stopped_while_it_is_recorded_leaves_the_profiler_free(tmp_path, at):
    stop = at_chunk(at, lambda: signal.raise_signal(signal.SIGTERM))
    with scripted(), pytest.raises(Stopped):
        train(LESSON, tmp_path, listeners=[profile(tmp_path, chunks=9), stop])
    with scripted():
        train(LESSON, tmp_path, listeners=[profile(tmp_path)])
    assert len(traces(tmp_path)) in (1, 2)  # within a second they have one name


def test_a_profile_has_at_least_one_chunk(tmp_path):
    with pytest.raises(ValueError, match="chunks must be at least 1, got 0"):
        profile(tmp_path, chunks=0)
