"""Runs that are not resumed: a second writer's, another config, different data, another model."""

import contextlib
import copy
import errno
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import subprocesses
from helpers import contents, python, results

from mnist_jax import start, train
from mnist_jax.config import replace_fields
from mnist_jax.datasets import load_splits
from mnist_jax.events import Epoch
from mnist_jax.training import Run
from mnist_jax.workdir.checkpoint import check_checkpoints, read_progress
from mnist_jax.workdir.lock import lock_workdir
from mnist_jax.workdir.origin import check_same_run, cpu_count

CONFIG = replace_fields(subprocesses.CONFIG, {"epochs": 2, "checkpoint.every_steps": 2})


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A run without its result, as if stopped at its last step, and that run."""
    workdir = tmp_path_factory.mktemp("unfinished") / "run"
    run = train(CONFIG, workdir)
    (workdir / "result.json").unlink()
    return workdir, run


@contextlib.contextmanager
def refused(workdir: Path, match: str) -> Iterator[None]:
    before = contents(workdir)
    with pytest.raises(ValueError, match=match):
        yield
    assert contents(workdir) == before


def test_a_second_writer_is_refused_and_does_not_disturb_the_first(unfinished, tmp_path, command):
    def write(event):
        if isinstance(event, Epoch) and event.row["epoch"] == 1:
            options = subprocesses.options(CONFIG)
            second = command("train", f"--workdir={tmp_path}", *options, "--overwrite")
            advice = "wait for it, or choose another --workdir"
            said = f"error: {tmp_path} is in use by another process; {advice}\n"
            assert (second.returncode, second.stdout, second.stderr) == (2, "", said)

    assert results(train(CONFIG, tmp_path, listeners=[write])) == results(unfinished[1])
    assert check_checkpoints(tmp_path / "checkpoints") == ([6, 8], {})
    assert not (tmp_path / ".lock").exists()


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    warned = pytest.warns(UserWarning, match="cannot be locked .No locks available.; make sure")
    with warned, lock_workdir(tmp_path / "run"):
        (tmp_path / "run" / "result").write_text("", encoding="utf-8")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result"]


def other_data(splits, names):
    splits["train"].images[7, 14, 14, 0] ^= 1
    return splits, names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_data, r"\(data_sha256 is '\w{64}', not '\w{64}'\)"),
        (lambda splits, names: (splits, ("zero", *names[1:])), "with different class names"),
    ],
    ids=["pixels", "names"],
)
def test_other_data_are_refused(unfinished, monkeypatch, change, message):
    monkeypatch.setattr(start, "load_splits", lambda **fields: change(*load_splits(**fields)))
    with refused(unfinished[0], message):
        train(CONFIG, unfinished[0])


def test_a_run_of_an_older_version_is_resumed_with_the_defaults_of_new_fields(unfinished):
    origin = read_progress(unfinished[0] / "checkpoints", 8).origin
    older = copy.deepcopy(origin)
    del older.config["precision"], older.config["augment"]["elastic"]
    del older.environment["process_count"]
    check_same_run(older, origin, Path())  # without a warning
    newer = origin._replace(config=origin.config | {"precision": "bfloat16"})
    with pytest.raises(ValueError, match=r"\(precision is 'float32', not 'bfloat16'\)"):
        check_same_run(older, newer, Path())
    of_population = origin._replace(config=origin.config | {"population": {"seeds": [0]}})
    with pytest.raises(ValueError, match=r"\(population.seeds is None, not \[0\]\)"):
        check_same_run(older, of_population, Path())


def test_a_run_of_other_versions_is_resumed_with_a_warning(unfinished, tmp_path, monkeypatch):
    workdir = shutil.copytree(unfinished[0], tmp_path / "run")
    environment = start.environment({})
    newer = environment | {"versions": environment["versions"] | {"jax": "99.0"}}
    monkeypatch.setattr(start, "environment", lambda _: newer)
    with pytest.warns(UserWarning, match=r"versions.jax is '[\d.]+', not '99.0'.*bits may differ"):
        run = train(CONFIG, workdir)
    assert run.result["params_sha256"] == unfinished[1].result["params_sha256"]


@pytest.mark.slow
def test_a_run_from_other_devices_and_cores_is_resumed_with_a_warning(unfinished, tmp_path):
    workdir = shutil.copytree(unfinished[0], tmp_path / "run")
    one_core = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code = one_core + "from mnist_jax.cli.main import run; run()"
    options = [*subprocesses.options(CONFIG), f"--workdir={workdir}"]
    two_devices = "--xla_force_host_platform_device_count=2"
    done = python("-c", code, "train", *options, XLA_FLAGS=two_devices)
    assert done.returncode == 0
    assert done.stderr.startswith("warning: the run in ")
    cores = "" if cpu_count() == 1 else f"; cpu_count is {cpu_count()}, not 1"
    assert f"(device_count is 1, not 2{cores}): its bits may differ" in done.stderr
    assert done.stderr.count("\n") == 1
