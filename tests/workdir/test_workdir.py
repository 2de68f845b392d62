"""Deletions at the start of a run: leftovers of a kill, and overwritten runs."""

import dataclasses
import errno
from pathlib import Path
from typing import Any

import pytest
from helpers import listing, make_files, stop_after
from scripted import LESSON, scripted

from mnist_jax import population, train
from mnist_jax.cli.main import _explain
from mnist_jax.config import CheckpointConfig
from mnist_jax.workdir.checkpoint import SAVING, Saver, open_saver
from mnist_jax.workdir.run import delete_leftovers, delete_run

NAMES = ("config.json", "metrics.jsonl", "result.json", "population.json")
MINE = ("notes.txt", ".config.json.tmp", ".other.json.12.tmp", "config.json.12.tmp")
KEPT: dict[str, Any] = dict.fromkeys((*NAMES, *MINE, "members/.config.json.12.tmp"), "{}")


def test_leftovers_of_every_file_are_deleted_and_nothing_else(tmp_path):
    make_files(tmp_path, KEPT)
    before = listing(tmp_path)
    make_files(tmp_path, {f".{name}.{pid}.tmp": "{" for name in NAMES for pid in (7, 4194304)})
    delete_leftovers(tmp_path)
    assert listing(tmp_path) == before


def test_deleting_a_run_leaves_its_config_and_foreign_files(tmp_path):
    own = ["report.html", "result.json", "metrics.jsonl", "tensorboard/events"]
    own += ["checkpoints/8/a", "checkpoints/0/a"]
    theirs = [f"checkpoints/{name}/a" for name in ("007", "12345678901", "-1", "1.5", "x")]
    make_files(tmp_path, KEPT | dict.fromkeys(theirs, ""))
    before = listing(tmp_path)
    make_files(tmp_path, dict.fromkeys(own, ""))
    others = [f"checkpoints/{name}/a" for name in ("16.aside", "7.deleted", f"9{SAVING}-1")]
    make_files(tmp_path, dict.fromkeys(others, ""))
    delete_run(tmp_path)
    assert listing(tmp_path) == [name for name in before if name not in own]


def files(workdir: Path) -> set[str]:
    return {path.name for path in workdir.iterdir()}


def test_an_overwriting_run_that_is_stopped_has_no_older_result(tmp_path):
    for accuracy in (0.9, 0.5):
        with scripted():
            stop_after(1, train, LESSON, tmp_path, overwrite=True)
        assert files(tmp_path) == {"config.json", "metrics.jsonl", "checkpoints"}
        assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8") == ""
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]
        with scripted(accuracies=[accuracy]):
            run = train(LESSON, tmp_path)
        assert run.result["test_accuracy"] == accuracy


def test_an_overwriting_population_that_is_stopped_has_no_older_result(tmp_path):
    with scripted():
        population(LESSON, tmp_path, seeds=2)
        (tmp_path / ".population.json.7.tmp").write_text("{", encoding="utf-8")
        stop_after(1, population, LESSON, tmp_path, seeds=2, overwrite=True)
    assert files(tmp_path) == {"config.json", "metrics.jsonl", "checkpoints", "members"}
    assert not [*(tmp_path / "members").iterdir()]
    with scripted(accuracies=[0.9]):
        result = population(LESSON, tmp_path, seeds=2)
    assert result["test_accuracy"] == [0.9, 0.9]


train_or_population = pytest.mark.parametrize(
    ("run", "options"), [(train, {}), (population, {"seeds": 1})]
)


@train_or_population
def test_a_finished_run_leaves_these_files_even_if_killed_at_its_end(tmp_path, run, options):
    with scripted():
        run(LESSON, tmp_path, **options)
    own = {"result.json", "checkpoints"} if run is train else {"population.json", "members"}
    assert files(tmp_path) == {"config.json", "metrics.jsonl", *own}
    if run is population:
        for leftover in (".lock", "checkpoints/24/a"):
            make_files(tmp_path, {leftover: ""})
            population(LESSON, tmp_path, **options)
            assert files(tmp_path) == {"config.json", "metrics.jsonl", *own}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("saves", [0, 1])
@train_or_population
def test_an_error_of_the_disk_has_a_hint_only_where_something_is_saved(
    tmp_path, monkeypatch, run, options, saves, overwrite
):
    without = " without --overwrite" * overwrite
    notes = [f"saved steps stay; to resume, run the same command again{without}"] * saves
    left, save = iter(range(saves)), Saver.save

    def fail(*args):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*args)

    monkeypatch.setattr(Saver, "save", fail)
    config = dataclasses.replace(LESSON, checkpoint=CheckpointConfig(every_steps=3))
    with scripted(), pytest.raises(OSError, match="No space left") as failed:
        run(config, tmp_path, overwrite=overwrite, **options)
    assert getattr(failed.value, "__notes__", []) == notes
    assert _explain(failed.value) == (2, "; ".join(["No space left on device", *notes]))


def test_an_error_closes_the_saver_and_removes_partial_saves(tmp_path, monkeypatch):
    closed, close = [], Saver.close

    def fail(self: Saver) -> None:
        close(self)
        closed.append(self)
        raise OSError("a later error")

    monkeypatch.setattr(Saver, "close", fail)
    with pytest.raises(InterruptedError), open_saver(tmp_path, []) as saver:  # noqa: PT012
        make_files(tmp_path, {f"8{SAVING}-1/a": "", "16/a": "", "notes": ""})
        raise InterruptedError
    assert closed == [saver]
    assert files(tmp_path) == {"16", "notes"}


def test_every_opening_sets_aside_damaged_checkpoints(tmp_path):
    """The newer one of two damaged checkpoints of a step is kept."""
    for text in ("first", "second"):
        names = ("8/a", "16/a", f"24{SAVING}-1/a", "32.deleted/a")
        make_files(tmp_path, dict.fromkeys(names, text))
        with open_saver(tmp_path, [8]):
            pass
        assert files(tmp_path) == {"8", "16.aside"}
        assert (tmp_path / "16.aside" / "a").read_text(encoding="utf-8") == text


def test_a_population_is_overwritten_before_it_is_finished(tmp_path):
    with scripted():
        stop_after(1, population, LESSON, tmp_path, seeds=1)
        population(LESSON, tmp_path, seeds=2, overwrite=True)
    assert sorted(path.name for path in (tmp_path / "members").iterdir()) == ["seed-0", "seed-1"]
