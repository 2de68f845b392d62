"""All that a resumed run remembers: as if nothing had stopped it after each of its chunks."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import bits, stop_after
from scripted import LESSON, Script, scripted

from mnist_jax import Config, population, start, train
from mnist_jax.config import WatchConfig
from mnist_jax.console import console
from mnist_jax.train import Run
from mnist_jax.workdir.files import read_json
from mnist_jax.workdir.hashing import tree_sha256
from mnist_jax.workdir.history import read_history

slow = pytest.mark.slow
VARIED = {"ema_decay": [0.0, 0.5]}


def undisturbed(run: Callable[..., Any], *args: Any, script: dict[str, Any], **options: Any):
    with scripted(**script) as played:
        return run(*args, listeners=[console()], **options), played


def stopped(
    chunks: int, run: Callable[..., Any], *args: Any, script: dict[str, Any], **options: Any
) -> tuple[Any, list[Any], Script]:
    """Stops the run after each of some chunks, then lets it end.

    Returns:
        What it returns, the rates of all chunks, and the script of the last process.
    """
    rates = []
    for _ in range(chunks):
        with scripted(**script) as played:
            stop_after(1, run, *args, **options)
        rates += played.rates
        assert len(played.rates) == 1
    with scripted(**script) as played:
        result = run(*args, listeners=[console()], **options)
    return result, rates + played.rates, played


def assert_same(one: Path, other: Path) -> None:
    assert bits(one) == bits(other)
    # The clock is known: the rows are the same with their times.
    assert read_history(one) == read_history(other)


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, dict[str, Any], Path, Any]:
    """A run whose validation loss gets worse, with a running mean of its parameters."""
    config = dataclasses.replace(LESSON, watch=WatchConfig(plateau_patience=1, plateau_factor=0.5))
    script = {"losses": [1.0, 2.0, 3.0], "accuracies": [0.5, 0.7, 0.6], "averaged": True}
    workdir = tmp_path_factory.mktemp("plateau")
    run, played = undisturbed(train, config, workdir, script=script)
    assert played.rates == [1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.5]
    return config, script, workdir, run


def test_a_run_stopped_after_every_chunk_is_the_same(plateau, tmp_path, capsys):
    """Rows, sums, seconds, plateaus, the running mean, checkpoints."""
    config, script, workdir, whole = plateau
    run, rates, _ = stopped(8, train, config, tmp_path, script=script)
    assert rates == [1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.5]
    assert_same(tmp_path, workdir)
    assert tree_sha256(run.state) == tree_sha256(whole.state)
    assert [float(tree["layer"]["kernel"]) for tree in (run.state.params, average(run))] == [24, 12]
    assert [row["seconds"] for row in run.history] == [3, 3, 3]
    assert (run.result["val_accuracy"], run.result["best_step"]) == (0.6, 16)
    assert (run.result["test_loss"], run.history[-1]["val_loss"]) == (4.0, 3.0)
    assert [row["examples_per_second"] for row in run.history] == [16 / 3] * 3
    out = capsys.readouterr().out
    told = re.findall("continuing after step (.*)", out)
    assert told == [f"{step} of 24" for step in (3, 6, 8, 11, 14, 16, 19, 22)]
    assert "a plateau" not in out  # the processes that would have told it were stopped there


def average(run: Run) -> Any:
    return run.state.average["params"]


@pytest.mark.parametrize("chunks", [pytest.param(5, marks=slow), pytest.param(11, marks=slow), 12])
def test_early_stopping_counts_the_epochs_before_a_stop(tmp_path, chunks, capsys):
    """Two epochs after the best, the second; a stop may come with the last chunk of all."""
    config = dataclasses.replace(LESSON, epochs=9, watch=WatchConfig(patience=2))
    script = {"accuracies": [0.5, 0.6, 0.4, 0.4, 0.9]}
    run, rates, played = stopped(chunks, train, config, tmp_path / "run", script=script)
    assert len(rates) == 12
    assert len(played.rates) == 12 - chunks
    whole, _ = undisturbed(train, config, tmp_path / "whole", script=script)
    assert_same(tmp_path / "run", tmp_path / "whole")
    assert (run.result["steps"], run.result["best_step"], run.result["val_accuracy"]) == (
        32,
        16,
        0.6,
    )
    assert int(run.state.step) == int(whole.state.step) == 16
    assert capsys.readouterr().out.count("stopped after epoch 4; the best was epoch 2\n") == 2


@pytest.mark.parametrize(("chunks", "resumed_at"), [(7, 8), (13, 0)])
def test_a_run_whose_best_checkpoint_is_damaged_goes_on_before_it(tmp_path, chunks, resumed_at):
    """The second epoch is the best; the first checkpoint is kept until that of the fourth."""
    config = dataclasses.replace(LESSON, epochs=5)
    script: dict[str, Any] = {"accuracies": [0.5, 0.9, 0.6]}
    with scripted(**script):
        stop_after(chunks, train, config, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "16" / "SHA256SUMS").unlink()
    with (
        scripted(**script) as played,
        pytest.warns(UserWarning, match="checkpoints/16 is damaged and left out"),
    ):
        train(config, tmp_path / "run")
    assert len(played.rates) == 15 - 3 * resumed_at // 8
    undisturbed(train, config, tmp_path / "whole", script=script)
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(("run", "options"), [(train, {}), (population, {"seeds": 2})])
def test_a_resumed_training_keeps_the_network_that_it_began_from(
    tmp_path, monkeypatch, run, options
):
    """It is loaded once, by the first process."""
    variables = {"params": {"layer": {"kernel": jnp.float32(7)}}}
    loaded = iter([(None, variables, 0, None)])
    monkeypatch.setattr(start, "load_variables", lambda *_: next(loaded))
    config = dataclasses.replace(LESSON, epochs=1, init_from="elsewhere")
    stopped(2, run, config, tmp_path, script={}, **options)
    results = [*tmp_path.rglob("result.json")]
    assert len(results) == options.get("seeds", 1)
    for path in results:
        assert read_json(path)["init_sha256"] == tree_sha256(variables)
        assert read_json(path)["params_sha256"] == tree_sha256(
            {"layer": {"kernel": np.float32(7 + 8)}}
        )


LOSSES = [[1.0, 1.0], [2.0, 0.5], [3.0, 0.5]]
RATES = [[1, 1]] * 6 + [[0.5, 1]] * 3


def test_a_population_stopped_after_every_chunk_is_the_same(tmp_path, capsys):
    """Rows, sums, seconds, and of each member the plateaus and the running mean."""
    config = dataclasses.replace(LESSON, watch=WatchConfig(plateau_patience=1, plateau_factor=0.5))
    script = {"losses": LOSSES, "accuracies": [[0.5, 0.1], [0.7, 0.2]], "averaged": True}
    how: dict[str, Any] = {"seeds": 1, "vary": VARIED, "script": script}
    whole, played = undisturbed(population, config, tmp_path / "whole", **how)
    assert played.rates == RATES
    out = capsys.readouterr().out
    assert "a plateau of ema_decay=0.0_seed-0: the learning rate times 0.5\n" in out
    assert "a plateau of ema_decay=0.5" not in out  # no epoch follows it
    result, rates, _ = stopped(8, population, config, tmp_path / "run", **how)
    assert rates == RATES
    assert_same(tmp_path / "run", tmp_path / "whole")
    assert [row["seconds"] for row in read_history(tmp_path / "run")] == [3, 3, 3]
    assert [row["examples_per_second"] for row in read_history(tmp_path / "run")] == [32 / 3] * 3
    told = re.findall("continuing after step (.*)", capsys.readouterr().out)
    assert told == [f"{step} of 24" for step in (3, 6, 8, 11, 14, 16, 19, 22)]
    # The member without a running mean has the parameters, the other one their mean.
    assert result["params_sha256"] == whole["params_sha256"]
    assert result["test_loss"] == [4.0, 1.5]
    assert result["params_sha256"] == [
        tree_sha256({"layer": {"kernel": np.float32(value)}}) for value in (24, 12)
    ]
    for member, number in (("ema_decay=0.0_seed-0", 0), ("ema_decay=0.5_seed-0", 1)):
        directory = tmp_path / "run" / "members" / member
        assert read_json(directory / "result.json")["val_accuracy"] == [0.7, 0.2][number]
        assert [row["val_loss"] for row in read_history(directory)] == [
            losses[number] for losses in LOSSES
        ]


def test_a_resumed_population_remembers_who_has_diverged(tmp_path, capsys):
    script = {"losses": [[1.0, 1.0], [1.0, np.nan]], "diverges": {1: 12}}
    how: dict[str, Any] = {"seeds": 2, "script": script}
    undisturbed(population, LESSON, tmp_path / "whole", **how)
    line = "seed-1 diverged in epoch 2, step 13; the others go on\n"
    assert capsys.readouterr().out.count(line) == 1
    result, _, _ = stopped(8, population, LESSON, tmp_path / "run", **how)
    assert capsys.readouterr().out.count(line) == 1
    assert result["diverged"] == [None, {"epoch": 2, "step": 13}]
    assert_same(tmp_path / "run", tmp_path / "whole")
    rows = read_history(tmp_path / "run")
    assert [row["train_loss"][1] is None for row in rows] == [False, True, True]
    assert [row["val_loss"][1] for row in rows] == [1.0, None, None]
    assert [path.name for path in (tmp_path / "run" / "members").iterdir()] == ["seed-0"]
