"""Imports that are repeated, stopped or killed, and several at once."""

import contextlib
import fcntl
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers import contents, wait_until
from imports import assert_holds

from mnist_jax.datasets import importing, load_dataset, prepare
from mnist_jax.datasets.importing import Imported, import_dataset
from mnist_jax.processes.signals import Stopped

pytestmark = pytest.mark.usefixtures("data_dir")


@pytest.fixture
def source(tmp_path) -> Path:
    np.savez(tmp_path / "x.npz", x=np.full((2, 1, 1), 200, np.uint8), y=[0, 1])
    return tmp_path / "x.npz"


def import_small(source: Path, **options: Any) -> Imported:
    return import_dataset("mine", [source], test_fraction=0.5, **options)


def test_overwrite_writes_the_next_version_then_deletes_the_others(source, data_dir, monkeypatch):
    assert import_small(source).path == data_dir / "mine/1.0.0"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop)  # at the first deletion
        with pytest.raises(Stopped):
            import_small(source, overwrite=True)
    assert sorted(path.name for path in data_dir.glob("mine/*.*.*")) == ["1.0.0", "1.0.1"]
    assert import_small(source, overwrite=True).path == data_dir / "mine/1.0.2"
    assert [path.name for path in data_dir.glob("mine/[!.]*")] == ["1.0.2"]
    assert len(load_dataset("mine", "train").labels) == 1


def stop(*_: object) -> None:
    raise Stopped(signal.SIGTERM)


@pytest.mark.parametrize(
    ("place", "name"), [(importing, "surveyed"), (tfds.core.DatasetInfo, "write_to_directory")]
)
def test_a_signal_during_an_import_leaves_nothing(place, name, source, data_dir, monkeypatch):
    data_dir.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(place, name, stop)
        with pytest.raises(Stopped):
            import_small(source)
    assert not list(data_dir.iterdir())
    import_small(source)


def test_a_signal_during_an_overwrite_keeps_the_old_dataset(source, data_dir, monkeypatch, capfd):
    import_small(source)
    assert capfd.readouterr() == ("", "")  # no bar where there is no terminal
    before = contents(data_dir)
    monkeypatch.setattr(importing, "surveyed", stop)
    with pytest.raises(Stopped):
        import_small(source, overwrite=True)
    assert contents(data_dir) == before
    assert len(load_dataset("mine", "train").labels) == 1


# An import that never gets beyond its first images.
STUCK = """
import signal, sys
from mnist_jax.datasets import importing
importing.surveyed = lambda *_: signal.pause()
importing.import_dataset("mine", sys.argv[1:])
"""


@pytest.mark.slow
def test_the_next_import_cleans_up_what_a_kill_leaves(small, tmp_path, data_dir):
    np.savez(tmp_path / "x.npz", **small)
    victim = subprocess.Popen([sys.executable, "-c", STUCK, str(tmp_path / "x.npz")])
    try:
        wait_until(lambda: list(data_dir.glob("mine/incomplete*_1.0.0")), [victim])
    finally:
        victim.kill()
        victim.wait()
    assert list(data_dir.glob("mine/incomplete*"))
    assert_holds(import_dataset("mine", [tmp_path / "x.npz"]), small)
    assert sorted(path.name for path in (data_dir / "mine").iterdir()) == [".lock", "1.0.0"]


def test_the_second_of_two_concurrent_imports_waits_and_then_refuses(source, data_dir, monkeypatch):
    """The other one began when the name was still free."""
    survey = importing.survey_parts

    def other_first(*args: Any) -> Any:
        monkeypatch.setattr(importing, "survey_parts", survey)
        import_small(source)
        return survey(*args)

    monkeypatch.setattr(importing, "survey_parts", other_first)
    with pytest.raises(ValueError, match=r"exists already, in "):
        import_small(source)
    assert prepare.prepared_dir("mine", data_dir) == data_dir / "mine/1.0.0"


def test_an_import_that_waited_for_one_that_failed_has_a_lock_others_see(data_dir, monkeypatch):
    locked_by = []

    def wait() -> None:
        with prepare.locked(data_dir, "mine"), (data_dir / "mine/.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                locked_by.append("the one that waited")

    def flock_and_tell(*args: Any) -> None:
        if threading.current_thread() is waiting:
            asked.set()
        flock(*args)

    asked, flock, waiting = threading.Event(), fcntl.flock, threading.Thread(target=wait)
    monkeypatch.setattr(fcntl, "flock", flock_and_tell)
    with contextlib.suppress(Stopped), prepare.locked(data_dir, "mine"):
        waiting.start()
        assert asked.wait(timeout=120)
        stop()
    waiting.join(timeout=120)
    assert locked_by == ["the one that waited"]


def test_an_import_to_a_full_disk_is_an_error_of_one_line(source, monkeypatch):
    enough = "tensorflow_datasets.core.utils.has_sufficient_disk_space"
    monkeypatch.setattr(enough, lambda *_, **__: False)
    message = r"No space left on device: .*; set TFDS_DATA_DIR to a wri"
    with pytest.raises(ValueError, match=message):
        import_small(source)
