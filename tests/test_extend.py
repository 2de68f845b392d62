"""An extended run has the bits of one that had as many epochs from the beginning."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import subprocesses
from helpers import TESTS, TINY, bits, contents, make_files, python, stop_after, write_recipe
from scripted import LESSON, scripted

from mnist_jax import Config, population, train
from mnist_jax.cli.main import main
from mnist_jax.config import replace_fields
from mnist_jax.events import Done
from mnist_jax.progress import console
from mnist_jax.workdir.hashing import tree_sha256

slow = pytest.mark.slow


def longer(config: Config, epochs: int = 5) -> Config:
    return dataclasses.replace(config, epochs=epochs)


@pytest.mark.parametrize(
    "changes",
    [
        {"augment.shift": 2.0, "ema_decay": 0.9, "watch.plateau_patience": 1},
        pytest.param(
            {"batch_size": 50, "data.loader": "stream", "optimizer.name": "muon"}
            | {"model.batch_norm": True, "augment.mixup_alpha": 0.2, "watch.patience": 2},
            marks=slow,
        ),
    ],
)
def test_an_extended_run_has_the_bits_of_one_run_of_all_epochs(tmp_path, changes, capsys):
    config = replace_fields(TINY, {"epochs": 1, **changes})
    train(config, tmp_path / "run")
    make_files(tmp_path / "run", {"report.html": "old", "tensorboard/events": "old"})
    run = train(longer(config, 3), tmp_path / "run", extend=True, listeners=[console()])
    assert "resuming after step" in capsys.readouterr().out
    whole = train(longer(config, 3), tmp_path / "whole")
    assert tree_sha256(run.state) == tree_sha256(whole.state)
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


FIVE, EIGHT = [0.5, 0.7, 0.6, 0.9, 0.8], [0.1, 0.8, 0.1, 0.2, 0.1, 0.3, 0.9, 0.5]


@pytest.mark.parametrize(
    ("changes", "accuracies", "stop", "chunks"),
    [
        ({}, FIVE, 0, 6),
        ({}, FIVE, 4, 11),  # stopped in the second epoch of three
        ({"checkpoint.every_epochs": 2}, FIVE, 0, 6),
        ({"checkpoint.every_epochs": 3, "checkpoint.every_steps": 5}, FIVE, 0, 6),
        ({"watch.patience": 1}, FIVE, 0, 0),  # both runs stop after three epochs
        ({"epochs": 7, "checkpoint.every_epochs": 2}, EIGHT, 0, 24),
    ],
    ids=[
        *("each epoch is saved", "stopped", "every second epoch", "within epochs"),
        *("stopped early", "only the longer run keeps the best"),
    ],
)
def test_a_run_is_extended_whatever_was_saved_and_wherever_it_stopped(
    tmp_path, changes, accuracies, stop, chunks
):
    config = replace_fields(LESSON, changes)
    more = longer(config, len(accuracies))
    with scripted(accuracies=accuracies):
        if stop:
            stop_after(stop, train, config, tmp_path / "run")
        else:
            train(config, tmp_path / "run")
    with scripted(accuracies=accuracies) as played:
        train(more, tmp_path / "run", extend=True)
    assert len(played.rates) == chunks
    with scripted(accuracies=accuracies):
        train(more, tmp_path / "whole")
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


KILL = """
import os, sys
import subprocesses
from pathlib import Path
from mnist_jax import train as _
from mnist_jax.workdir import files

target, before = sys.argv.pop(1), sys.argv.pop(1) == "before"
replace, unlink = Path.replace, Path.unlink

def killing(call):
    def do(path, *args, **options):
        named = Path(args[0] if args else path).name == target
        if named and before:
            subprocesses.kill()
        done = call(path, *args, **options)
        if named:
            subprocesses.kill()
        return done
    return do

Path.replace, Path.unlink = killing(replace), killing(unlink)
if target == "chunk":
    subprocesses.at_chunk(3, subprocesses.kill)
subprocesses.run()
"""


@pytest.fixture(scope="module")
def lengths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    root = tmp_path_factory.mktemp("lengths")
    config = dataclasses.replace(subprocesses.CONFIG, epochs=2)
    train(config, root / "finished")
    train(longer(config, 4), root / "whole")
    return config, root


@pytest.mark.parametrize(
    ("place", "side"),
    [
        pytest.param("result.json", "before", marks=slow),
        ("result.json", "after"),
        ("config.json", "after"),
        pytest.param("metrics.jsonl", "after", marks=slow),
        ("chunk", "before"),
    ],
)
def test_the_same_command_resumes_a_killed_extension(lengths, tmp_path, place, side):
    config, root = lengths
    workdir = shutil.copytree(root / "finished", tmp_path / "run")
    recipe = write_recipe(tmp_path / "recipe.json", config)
    command = ["train", f"--config={recipe}", "--epochs=4", "--extend", f"--workdir={workdir}"]
    killed = python("-c", KILL, place, side, *command, cwd=TESTS)
    assert killed.returncode == -9, killed.stderr
    # The old run's result is gone.
    assert (workdir / "result.json").exists() == ((place, side) == ("result.json", "before"))
    assert main(command) == 0
    assert bits(workdir) == bits(root / "whole")


RUNS = {
    "plain": {},
    "cosine": {"optimizer.schedule": "cosine"},
    "warmup": {"optimizer.warmup": 0.1},
    "decay": {"optimizer.schedule": "exponential"},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    for name, changes in RUNS.items():
        with scripted():
            train(replace_fields(LESSON, changes), root / name)
    with scripted():
        population(LESSON, root / "many", seeds=1)
    return root


EXTEND = {"epochs": 5, "extend": True}
REFUSED = [
    # directory, changes and options, message
    ("plain", {"epochs": 5}, r"\(epochs is 3, not 5\): add --extend to train on to 5 epochs,"),
    ("plain", {"epochs": 2}, r"epochs is 3, not 2\): choose another --workdir \(with"),
    ("plain", {"epochs": 2, "extend": True}, "epochs must be more than 3, got 2; choose another"),
    ("plain", {"seed": 1, **EXTEND}, "may change, but seed is 0, not 1; choose"),
    ("plain", {"seed": 1}, "with --init-from .*plain to begin with its parameters"),
    ("plain", {"model.features": 9}, r"not 9\): choose another .* retrain with --overwrite$"),
    ("plain", {"overwrite": True, **EXTEND}, "give only one"),
    ("nothing", EXTEND, "no run in .*nothing to extend: leave out --ext"),
    ("cosine", {"epochs": 5}, "cannot be extended, as optimizer.schedule is 'cosine', so "),
    ("cosine", EXTEND, "optimizer.schedule is 'cosine', so every step"),
    ("warmup", EXTEND, "extended: optimizer.warmup is 0.1, so every"),
    ("decay", {"epochs": 5}, "with --init-from .*decay to begin with its parameters"),
    ("many", EXTEND, "many holds a population: choose another"),
    ("many/members/seed-0", EXTEND, "it is a member of a population"),
]


@pytest.mark.parametrize(("name", "changes", "said"), REFUSED)
def test_a_run_that_cannot_be_extended_is_refused_with_the_reason(finished, name, changes, said):
    before = contents(finished)
    if "members" in name:
        changes = {"checkpoint.every_epochs": 3, **changes}
    options = {key: changes[key] for key in ("extend", "overwrite") if key in changes}
    fields = {key: value for key, value in changes.items() if key not in options}
    with pytest.raises(ValueError, match=said) as refused:
        train(replace_fields(LESSON, RUNS.get(name, {}) | fields), finished / name, **options)
    assert len(str(refused.value).splitlines()) == 1
    assert contents(finished) == before
    if name == "many":
        with pytest.raises(ValueError, match=r"not 5\): choose another --workdir, or retrain with"):
            population(longer(LESSON), finished / "many", seeds=1)


def test_a_complete_run_says_how_it_is_extended_where_it_can_be(finished, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    for name, extend in (("plain", "; to train on: more --epochs, and --extend"), ("cosine", "")):
        console()(Done(finished / name, {"test_accuracy": 0.5}, [], trained=False))
        assert capsys.readouterr().out == (
            f"{finished / name} is already trained: test accuracy 50.00%\n"
            f"to retrain: --overwrite; to keep it: another --workdir{extend}\n"
        )
