"""Checkpoints and results that are not as they were written."""

import dataclasses
import json
import random
import shutil
from pathlib import Path

import pytest
from helpers import SMALL

from mnist_jax import evaluate, train
from mnist_jax.checkpoint import check_checkpoints
from mnist_jax.config import CheckpointConfig, DataConfig, OptimizerConfig
from mnist_jax.history import without_times
from mnist_jax.train import Run

CONFIG = dataclasses.replace(SMALL, checkpoint=CheckpointConfig(every_steps=4))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A run of 16 steps, 8 an epoch, with the checkpoints of the steps 12 and 16."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    run = train(CONFIG, workdir)
    assert check_checkpoints(workdir / "checkpoints") == ([12, 16], {})
    return workdir, run


def assert_done_again(workdir: Path, run: Run) -> None:
    again = json.loads((workdir / "result.json").read_text())
    assert without_times(again) == without_times(run.result)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [without_times(row) for row in rows] == [without_times(row) for row in run.history]
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["12", "16"]


@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("variables", "flipped"),
        ("optimizer", "truncated"),
        ("progress", "removed"),
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
        train(CONFIG, workdir)
    assert capsys.readouterr().out.startswith("continuing after step 12 of 16\n")
    assert_done_again(workdir, finished[1])


def test_without_a_sound_checkpoint_it_begins_anew(finished, tmp_path, capsys):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    for step in ("12", "16"):
        (workdir / "checkpoints" / step / "SHA256SUMS").unlink()
    with pytest.warns(UserWarning, match="is damaged"):
        train(CONFIG, workdir)
    assert "continuing" not in capsys.readouterr().out
    assert_done_again(workdir, finished[1])


def test_a_finished_run_whose_end_is_damaged_does_it_again(finished, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / "checkpoints" / "16" / "progress" / "metadata").unlink()
    with pytest.warns(UserWarning, match="is damaged"):
        train(CONFIG, workdir)
    assert_done_again(workdir, finished[1])


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b'{"steps": 16}', bytes(range(256)), b"[" * 10**5],
    ids=["empty", "open", "null", "list", "parts", "binary", "deep"],
)
def test_a_damaged_result_is_made_anew(finished, tmp_path, content):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / "result.json").write_bytes(content)
    with pytest.warns(UserWarning, match=r"result.json is not .*; it is made anew"):
        train(CONFIG, workdir)
    assert_done_again(workdir, finished[1])


@pytest.mark.parametrize("seconds", [None, "long", {"total": "long"}])
def test_a_result_without_its_times_is_made_anew(finished, tmp_path, seconds):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    result = json.loads((workdir / "result.json").read_text()) | {"seconds": seconds}
    (workdir / "result.json").write_text(json.dumps(result))
    with pytest.warns(UserWarning, match=r"result.json is not .*; it is made anew"):
        train(CONFIG, workdir)
    assert_done_again(workdir, finished[1])


def test_reading_leaves_out_what_is_damaged_and_changes_nothing(finished, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / "checkpoints" / "16" / "variables" / "_METADATA").write_text("{}")
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    for step in ("latest", "best"):
        with pytest.warns(UserWarning, match="checkpoints/16 is damaged and left out"):
            assert evaluate(workdir, step=step)["step"] == 12
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(ValueError, match="holds no step 16, but the steps 12"),
    ):
        evaluate(workdir, step=16)
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}


@pytest.mark.parametrize("complete", [True, False])
def test_a_damaged_best_checkpoint_is_made_again(tmp_path, complete):
    """Otherwise `best_step` would name what is not there."""
    # With this seed and step size the third of four epochs is the best one.
    config = dataclasses.replace(
        SMALL,
        seed=2,
        epochs=4,
        data=DataConfig(train_split="train[:640]", test_split="test[:200]"),
        optimizer=OptimizerConfig(learning_rate=0.03),
        checkpoint=CheckpointConfig(every_steps=2),
        chunk_steps=2,
    )
    workdir = tmp_path / "run"
    run = train(config, workdir)
    steps, _ = check_checkpoints(workdir / "checkpoints")
    best = run.result["best_step"]
    assert best == steps[0] < steps[-2]
    (workdir / "checkpoints" / str(best) / "variables" / "_METADATA").write_text("{}")
    if not complete:
        (workdir / "result.json").unlink()
    with pytest.warns(UserWarning, match=f"/{best} is damaged"):
        again = train(config, workdir)
    assert without_times(again.result) == without_times(run.result)
    assert check_checkpoints(workdir / "checkpoints") == (steps, {})
    assert evaluate(workdir, step="best")["step"] == best
