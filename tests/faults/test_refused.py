"""What must not go on: a second writer, another config, other data, another model."""

import copy
import dataclasses
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import SMALL

from mnist_jax import task, train
from mnist_jax.checkpoint import check_checkpoints, read_progress
from mnist_jax.config import CheckpointConfig, OptimizerConfig
from mnist_jax.datasets import load_splits
from mnist_jax.environment import cpu_count
from mnist_jax.workdir import check_same_run, lock_workdir

HALF = dataclasses.replace(SMALL, checkpoint=CheckpointConfig(every_steps=4))


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As if a run had been stopped at its last step, before its test."""
    workdir = tmp_path_factory.mktemp("unfinished") / "run"
    train(HALF, workdir)
    (workdir / "result.json").unlink()
    return workdir


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_a_second_writer_is_refused_at_once_and_the_first_one_is_not_disturbed(tmp_path, command):
    options = [f"--workdir={tmp_path}", "--epochs=1000", "--data.train-split=train[:20000]"]
    first = subprocess.Popen(
        [sys.executable, "-m", "mnist_jax", "train", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with first:
        while not (tmp_path / "metrics.jsonl").exists():
            assert first.poll() is None
            time.sleep(0.01)
        second = command("train", *options, "--overwrite")
        assert (second.returncode, second.stdout) == (2, "")
        assert second.stderr == (
            f"error: {tmp_path} is in use by another process; wait for it, or choose another "
            "--workdir\n"
        )
        assert first.poll() is None
        first.send_signal(signal.SIGTERM)
    assert first.returncode == 143
    assert check_checkpoints(tmp_path / "checkpoints")[0]
    assert not (tmp_path / ".lock").exists()


def test_the_lock_of_a_killed_process_blocks_no_one(tmp_path, command):
    options = [f"--workdir={tmp_path}", "--epochs=1", "--data.train-split=train[:10000]"]
    command_line = [sys.executable, "-m", "mnist_jax", "train", *options]
    with subprocess.Popen(command_line, stdout=subprocess.DEVNULL) as first:
        while not (tmp_path / ".lock").exists():
            assert first.poll() is None
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    assert (tmp_path / ".lock").exists()
    done = command("train", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / ".lock").exists()


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with (
        pytest.warns(UserWarning, match="cannot be locked .No locks available.: see to it"),
        lock_workdir(tmp_path / "run"),
    ):
        (tmp_path / "run" / "result").write_text("")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result"]


def test_another_config_is_refused_by_its_fields(unfinished):
    before = contents(unfinished)
    other = dataclasses.replace(HALF, seed=7, optimizer=OptimizerConfig(learning_rate=0.01))
    with pytest.raises(ValueError, match=r"seed is 0, not 7; optimizer.learning_rate is 0.001"):
        train(other, unfinished)
    assert contents(unfinished) == before


def test_other_data_is_refused_by_its_sum(unfinished, monkeypatch):
    def changed(**fields):
        splits, label_names = load_splits(**fields)
        splits["train"].images[7, 14, 14, 0] ^= 1
        return splits, label_names

    before = contents(unfinished)
    monkeypatch.setattr(task, "load_splits", changed)
    with pytest.raises(ValueError, match=r"\(data_sha256 is '\w{64}', not '\w{64}'\)"):
        train(HALF, unfinished)
    assert contents(unfinished) == before


def test_other_names_of_the_classes_are_refused(unfinished, monkeypatch):
    before = contents(unfinished)
    names = ("zero", *"123456789")
    monkeypatch.setattr(task, "load_splits", lambda **fields: (load_splits(**fields)[0], names))
    with pytest.raises(ValueError, match="a run whose classes have other names"):
        train(HALF, unfinished)
    assert contents(unfinished) == before


def test_checkpoints_of_another_model_are_refused_by_its_fields(unfinished, tmp_path):
    model = dataclasses.replace(SMALL.model, features=8)
    other = dataclasses.replace(HALF, model=model)
    train(other, tmp_path / "other")
    workdir = shutil.copytree(unfinished, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", workdir / "checkpoints")
    before = contents(workdir)
    with pytest.raises(ValueError, match=r"\(model.features is 8, not 32\)"):
        train(HALF, workdir)
    assert contents(workdir) == before


def test_a_run_of_an_older_version_goes_on_with_the_defaults_of_new_fields(unfinished):
    origin = read_progress(unfinished / "checkpoints", 16)["origin"]
    older = copy.deepcopy(origin)
    del older["config"]["precision"], older["config"]["augment"]["elastic"]
    del older["environment"]["process_count"]
    check_same_run(older, origin, unfinished)  # without a warning
    newer = origin | {"config": origin["config"] | {"precision": "bfloat16"}}
    with pytest.raises(ValueError, match=r"\(precision is 'float32', not 'bfloat16'\)"):
        check_same_run(older, newer, unfinished)
    of_population = origin | {"config": origin["config"] | {"population": {"seeds": [0]}}}
    with pytest.raises(ValueError, match=r"\(population.seeds is None, not \[0\]\)"):
        check_same_run(older, of_population, unfinished)


def test_other_versions_are_warned_of_and_it_goes_on(unfinished, small_run, tmp_path, monkeypatch):
    workdir = shutil.copytree(unfinished, tmp_path / "run")
    environment = task.environment()
    newer = environment | {"versions": environment["versions"] | {"jax": "99.0"}}
    monkeypatch.setattr(task, "environment", lambda: newer)
    with pytest.warns(UserWarning, match=r"versions.jax is '[\d.]+', not '99.0'.*bits may differ"):
        run = train(HALF, workdir)
    assert run.result["params_sha256"] == small_run[1].result["params_sha256"]


# Runs `mnist-jax ARGS` on one core.
ONE_CORE = (
    "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
    "from mnist_jax.cli import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.mark.parametrize(
    ("program", "flags", "difference"),
    [
        (
            ["-m", "mnist_jax"],
            "--xla_force_host_platform_device_count=2",
            "device_count is 1, not 2",
        ),
        pytest.param(
            ["-c", ONE_CORE],
            "",
            f"cpu_count is {cpu_count()}, not 1",
            marks=pytest.mark.skipif(cpu_count() == 1, reason="there is one core only"),
        ),
    ],
)
def test_other_devices_and_cores_are_warned_of_and_it_goes_on(
    unfinished, tmp_path, program, flags, difference
):
    workdir = shutil.copytree(unfinished, tmp_path / "run")
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(HALF)))
    options = ["train", f"--config={tmp_path / 'config.json'}", f"--workdir={workdir}"]
    done = subprocess.run(
        [sys.executable, *program, *options],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr.startswith("warning: the run in ")
    assert f"({difference}): its bits may differ" in done.stderr
    assert done.stderr.count("\n") == 1
