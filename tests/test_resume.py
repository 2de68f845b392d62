"""Everything that a resumed run remembers, after a stop at each of its chunks."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import bits, stop_after
from scripted import LESSON, scripted

from mnist_jax import Config, population, start, train
from mnist_jax.config import WatchConfig
from mnist_jax.progress import console
from mnist_jax.workdir.files import read_json
from mnist_jax.workdir.hashing import tree_sha256
from mnist_jax.workdir.history import read_history

VARIED = {"ema_decay": [0.0, 0.5]}


def stopped(
    chunks: int, run: Callable[..., Any], *args: Any, script: dict[str, Any], **options: Any
) -> tuple[Any, list[Any]]:
    rates = []
    for _ in range(chunks):
        with scripted(**script) as played:
            stop_after(1, run, *args, **options)
        rates += played.rates
        assert len(played.rates) == 1
    with scripted(**script) as played:
        result = run(*args, listeners=[console()], **options)
    return result, rates + played.rates


def assert_same(one: Path, other: Path) -> None:
    assert bits(one) == bits(other)
    # The clock is scripted, so even the times are equal.
    assert read_history(one) == read_history(other)


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, dict[str, Any], Path, Any]:
    """Trains a run with a worsening validation loss and a running mean."""
    config = dataclasses.replace(LESSON, watch=WatchConfig(plateau_patience=1, plateau_factor=0.5))
    script = {"losses": [1.0, 2.0, 3.0], "accuracies": [0.5, 0.7, 0.6], "averaged": True}
    workdir = tmp_path_factory.mktemp("plateau")
    run, rates = stopped(0, train, config, workdir, script=script)
    assert rates == [1] * 6 + [0.5] * 3
    return config, script, workdir, run


def test_a_run_stopped_after_every_chunk_is_the_same(plateau, tmp_path, capsys):
    config, script, workdir, whole = plateau
    run, rates = stopped(8, train, config, tmp_path, script=script)
    assert rates == [1] * 6 + [0.5] * 3
    assert_same(tmp_path, workdir)
    assert tree_sha256(run.state) == tree_sha256(whole.state)
    trees = (run.state.params, run.state.average["params"])
    assert [float(tree["layer"]["kernel"]) for tree in trees] == [24, 12]
    assert (run.result["val_accuracy"], run.result["best_step"]) == (0.6, 16)
    assert (run.result["test_loss"], run.history[-1]["val_loss"]) == (4.0, 3.0)
    out = capsys.readouterr().out
    told = re.findall("resuming after step (.*)", out)
    assert told == [f"{step} of 24" for step in (3, 6, 8, 11, 14, 16, 19, 22)]
    assert "plateau" not in out  # the processes that would have told it were stopped there


def test_early_stopping_counts_the_epochs_before_a_stop(tmp_path, capsys):
    """The second epoch is the best; the last stop comes with the last chunk of all."""
    config = dataclasses.replace(LESSON, epochs=9, watch=WatchConfig(patience=2))
    script = {"accuracies": [0.5, 0.6, 0.4, 0.4, 0.9]}
    run, rates = stopped(12, train, config, tmp_path / "run", script=script)
    assert len(rates) == 12
    whole, _ = stopped(0, train, config, tmp_path / "whole", script=script)
    assert_same(tmp_path / "run", tmp_path / "whole")
    found = [run.result[name] for name in ("steps", "best_step", "val_accuracy")]
    assert found == [32, 16, 0.6]
    assert int(run.state.step) == int(whole.state.step) == 16
    assert capsys.readouterr().out.count("stopped early after epoch 4; the best was epoch 2\n") == 2


@pytest.mark.parametrize(("chunks", "resumed_at"), [(7, 8), (13, 0)])
def test_a_run_with_a_damaged_best_checkpoint_resumes_before_it(tmp_path, chunks, resumed_at):
    """The second epoch is the best; the first checkpoint stays until the fourth."""
    config = dataclasses.replace(LESSON, epochs=5)
    script: dict[str, Any] = {"accuracies": [0.5, 0.9, 0.6]}
    with scripted(**script):
        stop_after(chunks, train, config, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "16" / "SHA256SUMS").unlink()
    with pytest.warns(UserWarning, match="checkpoints/16 is damaged and left out"):
        _, rates = stopped(0, train, config, tmp_path / "run", script=script)
    assert len(rates) == 15 - 3 * resumed_at // 8
    stopped(0, train, config, tmp_path / "whole", script=script)
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(("run", "options"), [(train, {}), (population, {"seeds": 2})])
def test_a_resumed_training_keeps_its_initial_network(tmp_path, monkeypatch, run, options):
    """Only the first process loads it."""
    variables = {"params": {"layer": {"kernel": jnp.float32(7)}}}
    loaded = iter([(None, variables, 0, None)])
    monkeypatch.setattr(start, "load_variables", lambda *_: next(loaded))
    config = dataclasses.replace(LESSON, epochs=1, init_from="elsewhere")
    stopped(2, run, config, tmp_path, script={}, **options)
    results = [read_json(path) for path in tmp_path.rglob("result.json")]
    assert len(results) == options.get("seeds", 1)
    sums = tree_sha256(variables), tree_sha256({"layer": {"kernel": np.float32(7 + 8)}})
    assert {(result["init_sha256"], result["params_sha256"]) for result in results} == {sums}


LOSSES = [[1.0, 1.0], [2.0, 0.5], [3.0, 0.5]]
RATES = [[1, 1]] * 6 + [[0.5, 1]] * 3


def test_a_population_stopped_after_every_chunk_is_the_same(tmp_path, capsys):
    config = dataclasses.replace(LESSON, watch=WatchConfig(plateau_patience=1, plateau_factor=0.5))
    script = {"losses": LOSSES, "accuracies": [[0.5, 0.1], [0.7, 0.2]], "averaged": True}
    how: dict[str, Any] = {"seeds": 1, "vary": VARIED, "script": script}
    whole, rates = stopped(0, population, config, tmp_path / "whole", **how)
    assert rates == RATES
    out = capsys.readouterr().out
    assert "plateau of ema_decay=0.0_seed-0: learning rate times 0.5\n" in out
    assert "plateau of ema_decay=0.5" not in out  # no epoch follows it
    result, rates = stopped(8, population, config, tmp_path / "run", **how)
    assert rates == RATES
    assert_same(tmp_path / "run", tmp_path / "whole")
    told = re.findall("resuming after step (.*)", capsys.readouterr().out)
    assert told == [f"{step} of 24" for step in (3, 6, 8, 11, 14, 16, 19, 22)]
    # The member without a running mean has the parameters, the other one their mean.
    assert result["params_sha256"] == whole["params_sha256"]
    assert result["test_loss"] == [4.0, 1.5]
    kernels = [{"layer": {"kernel": np.float32(value)}} for value in (24, 12)]
    assert result["params_sha256"] == [*map(tree_sha256, kernels)]
    for member, number in (("ema_decay=0.0_seed-0", 0), ("ema_decay=0.5_seed-0", 1)):
        directory = tmp_path / "run" / "members" / member
        assert read_json(directory / "result.json")["val_accuracy"] == [0.7, 0.2][number]
        losses = [row["val_loss"] for row in read_history(directory)]
        assert losses == [both[number] for both in LOSSES]


def test_a_resumed_population_remembers_diverged_members(tmp_path, capsys):
    script = {"losses": [[1.0, 1.0], [1.0, np.nan]], "diverges": {1: 12}}
    how: dict[str, Any] = {"seeds": 2, "script": script}
    stopped(0, population, LESSON, tmp_path / "whole", **how)
    line = "seed-1 diverged in epoch 2, step 13; the others continue\n"
    assert capsys.readouterr().out.count(line) == 1
    result, _ = stopped(8, population, LESSON, tmp_path / "run", **how)
    assert capsys.readouterr().out.count(line) == 1
    assert result["diverged"] == [None, {"epoch": 2, "step": 13}]
    assert_same(tmp_path / "run", tmp_path / "whole")
    rows = read_history(tmp_path / "run")
    assert [row["train_loss"][1] is None for row in rows] == [False, True, True]
    assert [row["val_loss"][1] for row in rows] == [1.0, None, None]
    assert [path.name for path in (tmp_path / "run" / "members").iterdir()] == ["seed-0"]
