"""A disk that is full or cannot be written ends a run in one line, and nothing saved is lost."""

import errno
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import harness
import pytest

pytestmark = pytest.mark.skipif(bool(harness.MISSING), reason=harness.MISSING)


class Fault(NamedTuple):
    """From the `number`th call on that matches `at`, calls fail with `error`.

    checkpoints/OLD is the first checkpoint that is deleted: when the third one has been saved.
    """

    error: str
    at: str
    number: int
    epochs_kept: int  # at least; they are not trained again


FAULTS = {
    "full at the data of a checkpoint": Fault("ENOSPC", "writev *checkpoints/8[.]*", 5, 1),
    "full at the result": Fault("ENOSPC", "* *result.json*", 1, harness.EPOCHS),
    "read-only from the start": Fault("EROFS", "*", 1, 0),
    "read-only while it deletes": Fault("EROFS", "unlink *checkpoints/OLD/*", 3, 1),
    "no permission while it saves": Fault("EACCES", "* *checkpoints/8[.]*", 40, 1),
    "broken while it saves": Fault("EIO", "* *checkpoints/8[.]*", 40, 1),
}


def assert_one_line(outcome: harness.Outcome, error: str) -> None:
    """Fails unless the command has ended as it should where a disk refuses to be written."""
    said = str(outcome._replace(calls=[]))
    assert outcome.code == 2, said
    assert outcome.stderr.startswith("error: "), said
    assert outcome.stderr.count("\n") == 1, said
    assert os.strerror(getattr(errno, error)) in outcome.stderr, said
    assert "Traceback" not in outcome.stdout, said


def assert_continued(root: Path, outcome: harness.Outcome, epochs_kept: int) -> None:
    """Fails unless the command has trained only epochs that were not saved, to the same bits."""
    harness.assert_finished(root, outcome)
    trained = [int(epoch) for epoch in re.findall(r"^epoch +(\d+)/", outcome.stdout, re.MULTILINE)]
    assert trained == list(range(harness.EPOCHS + 1 - len(trained), harness.EPOCHS + 1))
    assert len(trained) <= harness.EPOCHS - epochs_kept, outcome.stdout


@pytest.fixture(scope="module")
def disturbed(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[Path, harness.Outcome, harness.Outcome]]:
    """Each fault: the directory, how the command ended, and how the same command then did."""
    directory = tmp_path_factory.mktemp("disk")

    def disturb(name: str) -> tuple[Path, harness.Outcome, harness.Outcome]:
        root, fault = directory / name, FAULTS[name]
        first = harness.run(
            root,
            {
                "FAULT_ERRNO": fault.error,
                "FAULT_AT": fault.at.replace("checkpoints/OLD", old),
                "FAULT_FROM": str(fault.number),
            },
        )
        return root, first, harness.run(root, {})

    old = harness.deleted_directories()[0]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(FAULTS, pool.map(disturb, FAULTS), strict=True))


@pytest.mark.parametrize("name", FAULTS)
def test_a_disk_that_refuses_is_one_line(disturbed, name):
    assert_one_line(disturbed[name][1], FAULTS[name].error)


@pytest.mark.parametrize("name", FAULTS)
def test_the_same_command_continues_when_the_disk_is_well_again(disturbed, name):
    root, _, second = disturbed[name]
    assert_continued(root, second, FAULTS[name].epochs_kept)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory, which the test may give another size."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full_is_one_line_and_costs_no_epoch(small_disk):
    """A checkpoint has 3.5 MB, so the third one does not fit."""
    full = harness.run(small_disk, {})
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    continued = harness.run(small_disk, {})
    assert_one_line(full, "ENOSPC")
    assert_continued(small_disk, continued, 1)
