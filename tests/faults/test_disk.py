"""A full or unwritable disk ends a run in one line, and nothing saved is lost."""

import errno
import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import harness
import pytest
from helpers import some_slow

pytestmark = pytest.mark.skipif(bool(harness.MISSING), reason=harness.MISSING)


class Fault(NamedTuple):
    """From the `number`th call on that matches `at`, calls fail with `error`.

    checkpoints/OLD is the first checkpoint that is deleted: when the third one has been saved.
    """

    error: str
    at: str
    number: int
    epochs_kept: int  # at least; they are not trained again


QUICK = "full at the data of a checkpoint"
FAULTS = {
    QUICK: Fault("ENOSPC", "writev *checkpoints/8[.]*", 5, 1),
    "full at the result": Fault("ENOSPC", "* *result.json*", 1, harness.EPOCHS),
    "read-only from the start": Fault("EROFS", "*", 1, 0),
    "read-only while it deletes": Fault("EROFS", "unlink *checkpoints/OLD/*", 3, 1),
    "broken while it saves": Fault("EIO", "* *checkpoints/8[.]*", 40, 1),
}


def assert_one_line(outcome: harness.Outcome, error: str) -> None:
    said = str(outcome._replace(calls=[]))
    assert outcome.code == 2, said
    assert re.fullmatch(r"error: .*\n", outcome.stderr), said
    assert os.strerror(getattr(errno, error)) in outcome.stderr, said
    assert "Traceback" not in outcome.stdout, said


def assert_resumed(root: Path, outcome: harness.Outcome, epochs_kept: int) -> None:
    harness.assert_finished(root, outcome)
    trained = [*map(int, re.findall(r"^epoch +(\d+)/", outcome.stdout, re.MULTILINE))]
    assert trained == list(range(harness.EPOCHS + 1 - len(trained), harness.EPOCHS + 1))
    assert len(trained) <= harness.EPOCHS - epochs_kept, outcome.stdout


@pytest.mark.parametrize("name", some_slow([QUICK], FAULTS))
def test_a_disk_that_fails_is_one_line_and_the_same_command_resumes(name, tmp_path):
    fault = FAULTS[name]
    at = fault.at.replace("checkpoints/OLD", harness.deleted_directories()[0])
    variables = {"FAULT_ERRNO": fault.error, "FAULT_AT": at, "FAULT_FROM": str(fault.number)}
    assert_one_line(harness.run(tmp_path / "root", variables), fault.error)
    assert_resumed(tmp_path / "root", harness.run(tmp_path / "root", {}), fault.epochs_kept)


@pytest.mark.slow
def test_a_disk_that_is_really_full_is_one_line_and_costs_no_epoch(small_disk):
    """The third checkpoint does not fit."""
    harness.undisturbed()
    checkpoints = harness.scratch() / "undisturbed" / "run" / "checkpoints"
    newest = checkpoints / str(harness.EPOCHS * harness.STEPS_PER_EPOCH)
    pages = sum(-(-path.stat().st_size // 4096) for path in newest.rglob("*") if path.is_file())
    resize(small_disk, f"{pages * 5 // 2 * 4}k")
    full = harness.run(small_disk, {})
    resize(small_disk, "64m")
    assert_one_line(full, "ENOSPC")
    assert_resumed(small_disk, harness.run(small_disk, {}), 1)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
