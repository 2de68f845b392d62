"""Damaged checkpoints and results."""

import dataclasses
import json
import random
import shutil
from pathlib import Path

import pytest
import subprocesses
from helpers import results, rows, strict_json, times

from mnist_jax import evaluate, train
from mnist_jax.config import CheckpointConfig
from mnist_jax.progress import console
from mnist_jax.training import Run
from mnist_jax.workdir.checkpoint import check_checkpoints
from mnist_jax.workdir.history import without_times
from mnist_jax.workdir.run import read_result

# Its third epoch of four is the best one. A checkpoint in the middle of each epoch, and at its end.
CONFIG = dataclasses.replace(subprocesses.CONFIG, checkpoint=CheckpointConfig(every_steps=2))
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A run of 16 steps, 4 per epoch, with checkpoints of the steps 12, 14 and 16."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    run = train(CONFIG, workdir)
    assert run.result["best_step"] == 12
    return workdir, run


@pytest.fixture
def workdir(finished: tuple[Path, Run], tmp_path: Path) -> Path:
    return shutil.copytree(finished[0], tmp_path / "run")


def damage(directory: Path, how: str) -> None:
    choice = random.Random(how + directory.name)
    paths = [path for path in [directory, *directory.rglob("*")] if path.is_file()]
    file = choice.choice([path for path in paths if path.stat().st_size])
    content = bytearray(file.read_bytes())
    if how == "removed":
        file.unlink()
        return
    content[choice.randrange(len(content))] ^= 1 << choice.randrange(8)
    kept = {"flipped": len(content), "truncated": len(content) // 2, "emptied": 0}[how]
    file.write_bytes(content[:kept])


@pytest.mark.parametrize(
    ("names", "how", "complete", "said"),
    [
        ("16/variables", "flipped", False, "resuming after step 14 of 16"),
        ("16/SHA256SUMS", "emptied", False, "resuming after step 14 of 16"),
        ("16/progress", "removed", True, "resuming after step 14 of 16"),
        pytest.param("16/optimizer", "truncated", False, "after step 14 of 16", marks=slow),
        # Otherwise `best_step` would name what is not there.
        pytest.param("12/variables", "truncated", True, "", marks=slow),
        pytest.param("12 14 16", "removed", False, "epoch 1/4", marks=slow),
    ],
)
def test_a_run_resumes_from_the_last_sound_checkpoint_to_the_same_bits(
    finished, workdir, capsys, names, how, complete, said
):
    for name in names.split():
        damage(workdir / "checkpoints" / name, how)
    if not complete:
        (workdir / "result.json").unlink()
    match = r"/1\d is damaged and left out: its .*SHA256SUMS"
    with pytest.warns(UserWarning, match=match):
        train(CONFIG, workdir, listeners=[console()])
    assert said in capsys.readouterr().out
    assert_done_again(workdir, finished[1])
    assert evaluate(workdir, step="best")["step"] == 12


def assert_done_again(workdir: Path, run: Run) -> None:
    assert without_times(strict_json(workdir / "result.json")) == results(run)[0]
    assert rows(workdir) == results(run)[1:]
    assert check_checkpoints(workdir / "checkpoints") == ([12, 14, 16], {})


def test_a_damaged_result_is_written_again(finished, workdir, subtests):
    result = strict_json(workdir / "result.json")
    damaged = {
        "empty": b"",
        "open": b"{",
        "null": b"null",
        "list": b"[]",
        "parts": b'{"steps": 16}',
        "binary": bytes(range(256)),
        "deep": b"[" * 10**5,
        "no times": json.dumps(result | {"seconds": None}).encode(),
        "a text for times": json.dumps(result | {"seconds": "long"}).encode(),
        "a text for a time": json.dumps(result | {"seconds": {"total": "long"}}).encode(),
    }
    for name, content in damaged.items():
        with subtests.test(msg=name):
            (workdir / "result.json").write_bytes(content)
            with pytest.raises(ValueError, match=r"result.json is not "):
                read_result(workdir)
    with pytest.warns(UserWarning, match=r"result.json is not .*; it is written again"):
        train(CONFIG, workdir)
    assert_done_again(workdir, finished[1])


@pytest.mark.filterwarnings("ignore:.*checkpoints/16 is damaged and left out")
def test_reading_skips_damaged_checkpoints_and_changes_nothing(workdir):
    (workdir / "checkpoints" / "16" / "variables" / "_METADATA").write_text("{}", encoding="utf-8")
    before = times(workdir)
    assert [evaluate(workdir, step=step)["step"] for step in ("latest", "best")] == [14, 12]
    message = "holds no step 16; expected latest, best or one of 12, 14"
    with pytest.raises(ValueError, match=message):
        evaluate(workdir, step=16)
    assert times(workdir) == before
