"""Checkpoints and results that are not as they were written."""

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
from mnist_jax.console import console
from mnist_jax.train import Run
from mnist_jax.workdir.checkpoint import check_checkpoints
from mnist_jax.workdir.history import without_times
from mnist_jax.workdir.run import read_result

# Its third epoch of four is the best one. A checkpoint in the middle of each epoch, and at its end.
CONFIG = dataclasses.replace(subprocesses.CONFIG, checkpoint=CheckpointConfig(every_steps=2))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A run of 16 steps, 4 an epoch, with the checkpoints of the steps 12, 14 and 16."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    run = train(CONFIG, workdir)
    assert check_checkpoints(workdir / "checkpoints") == ([12, 14, 16], {})
    assert run.result["best_step"] == 12
    return workdir, run


def assert_done_again(workdir: Path, run: Run) -> None:
    assert without_times(strict_json(workdir / "result.json")) == results(run)[0]
    assert rows(workdir) == results(run)[1:]
    steps = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    assert steps == ["12", "14", "16"]


@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("variables", "flipped"),
        pytest.param("optimizer", "truncated", marks=pytest.mark.slow),
        pytest.param("progress", "removed", marks=pytest.mark.slow),
        ("SHA256SUMS", "emptied"),
    ],
)
def test_the_checkpoint_before_a_damaged_one_is_used(finished, tmp_path, capsys, what, how):
    """`test_checkpoint.py` has every file."""
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / "result.json").unlink()
    newest = workdir / "checkpoints" / "16"
    files = [path for path in [newest / what, *(newest / what).rglob("*")] if path.is_file()]
    choice = random.Random(how + what)
    file = choice.choice([path for path in files if path.stat().st_size])
    content = bytearray(file.read_bytes())
    if how == "removed":
        file.unlink()
    elif how == "flipped":
        content[choice.randrange(len(content))] ^= 1 << choice.randrange(8)
        file.write_bytes(content)
    else:
        file.write_bytes(content[: len(content) // 2 if how == "truncated" else 0])

    with pytest.warns(UserWarning, match="/16 is damaged and left out: its .*SHA256SUMS"):
        train(CONFIG, workdir, listeners=[console()])
    assert capsys.readouterr().out.startswith("continuing after step 14 of 16\n")
    assert_done_again(workdir, finished[1])


@pytest.mark.slow
def test_a_run_without_a_sound_checkpoint_begins_again(finished, tmp_path, capsys):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    for step in ("12", "14", "16"):
        (workdir / "checkpoints" / step / "SHA256SUMS").unlink()
    with pytest.warns(UserWarning, match="is damaged"):
        train(CONFIG, workdir, listeners=[console()])
    assert "continuing" not in capsys.readouterr().out
    assert_done_again(workdir, finished[1])


def test_a_finished_run_whose_last_checkpoint_is_damaged_is_completed_again(finished, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / "checkpoints" / "16" / "progress" / "metadata").unlink()
    with pytest.warns(UserWarning, match="is damaged"):
        train(CONFIG, workdir)
    assert_done_again(workdir, finished[1])


def test_a_damaged_result_is_made_again(finished, tmp_path, subtests):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
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
    with pytest.warns(UserWarning, match=r"result.json is not .*; it is made anew"):
        train(CONFIG, workdir)
    assert_done_again(workdir, finished[1])


def test_reading_leaves_out_what_is_damaged_and_changes_nothing(finished, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / "checkpoints" / "16" / "variables" / "_METADATA").write_text("{}", encoding="utf-8")
    before = times(workdir)
    for step, expected in (("latest", 14), ("best", 12)):
        with pytest.warns(UserWarning, match="checkpoints/16 is damaged and left out"):
            assert evaluate(workdir, step=step)["step"] == expected
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(ValueError, match="holds no step 16, but the steps 12, 14"),
    ):
        evaluate(workdir, step=16)
    assert times(workdir) == before


@pytest.mark.slow
@pytest.mark.parametrize("complete", [True, False])
def test_a_damaged_best_checkpoint_is_made_again(finished, tmp_path, complete):
    """Otherwise `best_step` would name what is not there."""
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / "checkpoints" / "12" / "variables" / "_METADATA").write_text("{}", encoding="utf-8")
    if not complete:
        (workdir / "result.json").unlink()
    with pytest.warns(UserWarning, match="/12 is damaged"):
        again = train(CONFIG, workdir)
    assert without_times(again.result) == without_times(finished[1].result)
    assert check_checkpoints(workdir / "checkpoints") == ([12, 14, 16], {})
    assert evaluate(workdir, step="best")["step"] == 12
