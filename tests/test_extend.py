"""A run that is extended has the bits of one that had as many epochs from the beginning."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import subprocesses
from helpers import (
    TESTS,
    TINY,
    bits,
    contents,
    make_files,
    python,
    results,
    stop_after,
    write_recipe,
)
from scripted import LESSON, scripted

from mnist_jax import Config, population, train
from mnist_jax.cli.main import main
from mnist_jax.config import replace_fields
from mnist_jax.console import console
from mnist_jax.events import Done
from mnist_jax.workdir.files import read_json
from mnist_jax.workdir.hashing import tree_sha256

slow = pytest.mark.slow


def longer(config: Config, epochs: int = 5) -> Config:
    return dataclasses.replace(config, epochs=epochs)


def assert_same(ours: Path, whole: Path) -> None:
    """Every file, array and row is the same; a kept checkpoint may be from before."""
    assert bits(ours) == bits(whole)


@pytest.mark.parametrize(
    "changes",
    [
        {"augment.shift": 2.0, "ema_decay": 0.9, "watch.plateau_patience": 1},
        pytest.param({"batch_size": 50, "data.loader": "stream"}, marks=slow),
        pytest.param({"optimizer.name": "muon", "augment.mixup_alpha": 0.2}, marks=slow),
        pytest.param({"model.batch_norm": True, "watch.patience": 2}, marks=slow),
    ],
)
def test_an_extended_run_is_to_the_bit_the_one_of_as_many_epochs(tmp_path, changes, capsys):
    config = replace_fields(TINY, {"epochs": 1, **changes})
    train(config, tmp_path / "run", listeners=[console()])
    make_files(
        tmp_path / "run", dict.fromkeys(["report.html", "tensorboard/events"], "of one epoch")
    )
    run = train(longer(config, 3), tmp_path / "run", extend=True, listeners=[console()])
    assert "continuing after step" in capsys.readouterr().out
    whole = train(longer(config, 3), tmp_path / "whole", listeners=[console()])
    assert results(run) == results(whole)
    assert tree_sha256(run.state) == tree_sha256(whole.state)
    assert_same(tmp_path / "run", tmp_path / "whole")


SCRIPT: dict[str, Any] = {"accuracies": [0.5, 0.7, 0.6, 0.9, 0.8]}


@pytest.mark.parametrize(
    ("changes", "chunks_before"),
    [
        ({}, 9),
        ({}, 4),  # stopped in the second epoch of three
        ({"checkpoint.every_epochs": 2}, 9),
        ({"checkpoint.every_epochs": 3, "checkpoint.every_steps": 5}, 9),
        ({"watch.patience": 1}, 9),  # it stops after the third epoch, and so does the longer one
        ({"watch.patience": 3}, 9),
    ],
)
def test_a_run_is_extended_whatever_was_saved_and_wherever_it_stopped(
    tmp_path, changes, chunks_before
):
    config = replace_fields(LESSON, changes)
    with scripted(**SCRIPT):
        if chunks_before < 9:
            stop_after(chunks_before, train, config, tmp_path / "run")
        else:
            train(config, tmp_path / "run")
    with scripted(**SCRIPT) as played:
        train(longer(config), tmp_path / "run", extend=True)
    if changes == {"watch.patience": 1}:
        assert played.rates == []
    with scripted(**SCRIPT):
        train(longer(config), tmp_path / "whole")
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_best_checkpoint_that_only_the_longer_run_keeps_is_made_again(tmp_path):
    """Of three epochs the first is the best that the schedule of nine saves; the last one was."""
    config = replace_fields(LESSON, {"epochs": 7, "checkpoint.every_epochs": 2})
    script = {"accuracies": [0.1, 0.8, 0.1, 0.2, 0.1, 0.3, 0.9, 0.5]}
    for workdir, lengths in (("run", [7, 8]), ("whole", [8])):
        for epochs in lengths:
            with scripted(**script):
                extend = epochs == 8 and workdir == "run"
                train(longer(config, epochs), tmp_path / workdir, extend=extend)
    assert read_json(tmp_path / "run" / "result.json")["best_step"] == 16
    assert_same(tmp_path / "run", tmp_path / "whole")


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
    """Runs of 2 and of 4 epochs."""
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
        pytest.param("config.json", "before", marks=slow),
        ("config.json", "after"),
        pytest.param("metrics.jsonl", "after", marks=slow),
        ("chunk", "before"),
    ],
)
def test_an_extension_that_is_killed_is_resumed_by_the_same_command(lengths, tmp_path, place, side):
    config, root = lengths
    workdir = shutil.copytree(root / "finished", tmp_path / "run")
    recipe = write_recipe(tmp_path / "recipe.json", config)
    command = ["train", f"--config={recipe}", "--epochs=4", "--extend", f"--workdir={workdir}"]
    killed = python("-c", KILL, place, side, *command, cwd=TESTS)
    assert killed.returncode == -9, killed.stderr
    # There is no result of a run that is no longer there.
    assert (workdir / "result.json").exists() == ((place, side) == ("result.json", "before"))
    assert main(command) == 0
    assert_same(workdir, root / "whole")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three epochs, the names of whose directories say how they were trained."""
    root = tmp_path_factory.mktemp("finished")
    for name, changes in RUNS.items():
        with scripted():
            train(replace_fields(LESSON, changes), root / name)
    with scripted():
        population(LESSON, root / "many", seeds=1)
    return root


RUNS = {
    "plain": {},
    "cosine": {"optimizer.schedule": "cosine"},
    "warmup": {"optimizer.warmup": 0.1},
    "decay": {"optimizer.schedule": "exponential"},
}
REFUSED = [
    # directory, changes, options, what is said
    ("plain", {"epochs": 5}, {}, r"\(epochs is 3, not 5\): add --extend to train on to 5 epochs,"),
    (
        "plain",
        {"epochs": 2},
        {},
        r"epochs is 3, not 2\): choose another --workdir, or retrain with",
    ),
    ("plain", {"epochs": 2}, {"extend": True}, "epochs must be more than 3, got 2; choose another"),
    (
        "plain",
        {"seed": 1, "epochs": 5},
        {"extend": True},
        "may change, but seed is 0, not 1; choose",
    ),
    (
        "plain",
        {"batch_size": 4},
        {"extend": True},
        "only epochs may change, but batch_size is 2, not",
    ),
    ("plain", {"seed": 1}, {}, "retrain with --overwrite; there --init-from .*plain would begin"),
    ("plain", {"model.features": 9}, {}, r"not 9\): choose another .* retrain with --overwrite$"),
    ("plain", {"epochs": 5}, {"extend": True, "overwrite": True}, "give only one"),
    ("nothing", {"epochs": 5}, {"extend": True}, "no run in .*nothing to extend: leave out --ext"),
    ("cosine", {"epochs": 5}, {}, "cannot be extended, as optimizer.schedule is 'cosine', so that"),
    ("cosine", {"epochs": 5}, {"extend": True}, "optimizer.schedule is 'cosine', so that every st"),
    ("warmup", {"epochs": 5}, {"extend": True}, "extended: optimizer.warmup is 0.1, so that every"),
    ("decay", {"epochs": 5}, {}, "--init-from .*decay would begin with its parameters"),
    ("many", {"epochs": 5}, {"extend": True}, "many holds a population: choose another"),
    ("many/members/seed-0", {"epochs": 5}, {"extend": True}, "it is a member of a population, wh"),
]


@pytest.mark.parametrize(("name", "changes", "options", "said"), REFUSED)
def test_a_run_that_cannot_be_extended_is_refused_with_the_reason(
    finished, name, changes, options, said
):
    before = contents(finished)
    config = replace_fields(LESSON, RUNS.get(name, {}))
    if "members" in name:
        config = replace_fields(config, {"checkpoint.every_epochs": 3})
    with pytest.raises(ValueError, match=said) as refused:
        train(replace_fields(config, changes), finished / name, **options)
    assert len(str(refused.value).splitlines()) == 1
    assert contents(finished) == before


def test_a_population_of_more_epochs_is_not_said_to_be_extendable(finished):
    with pytest.raises(ValueError, match=r"not 5\): choose another --workdir, or retrain with --o"):
        population(longer(LESSON), finished / "many", seeds=1)


def test_a_complete_run_says_how_it_is_extended_where_it_can_be(finished, capsys):
    for name, extend in (("plain", "more --epochs with --extend to train on, "), ("cosine", "")):
        console()(Done(finished / name, {"test_accuracy": 0.5}, [], trained=False))
        assert capsys.readouterr().out == (
            f"{finished / name} is complete: test accuracy 50.00%. Use {extend}--overwrite to "
            "retrain, or another --workdir to keep it.\n"
        )
