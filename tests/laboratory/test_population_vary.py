"""Populations of several recipes: varied values, solo runs, and a member that diverges."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers import TINY, compilations, strict_json

from mnist_jax import population, train
from mnist_jax.config import config_from_dict, replace_fields
from mnist_jax.progress import console
from mnist_jax.workdir.history import read_history


def assert_close_to_solo_runs(workdir: Path, result: Any, tmp_path: Path) -> None:
    for number in (0, len(result["members"]) - 1):
        name = result["members"][number]
        config = config_from_dict(strict_json(workdir / "members" / name / "config.json"))
        fields = flatten_dict(dataclasses.asdict(config), sep=".")
        assert {f: fields[f] for f in result["values"]} == {
            field: values[number] for field, values in result["values"].items()
        }
        solo = train(config, tmp_path / name).result
        assert result["test_loss"][number] == pytest.approx(solo["test_loss"], rel=0.02)
        assert result["test_accuracy"][number] == pytest.approx(solo["test_accuracy"], abs=0.02)


def test_every_combination_of_varied_values_gets_all_seeds_in_one_program(tmp_path, caplog):
    vary = {"optimizer.learning_rate": [0.001, 0.003], "label_smoothing": [0.0, 0.2]}
    with compilations(caplog) as compiled:
        result: Any = population(TINY, tmp_path / "run", seeds=2, vary=vary)
    found = [compiled[name] for name in ("run_members", "create_arrays", "train_steps")]
    assert found == [1, 1, 0]
    assert result["seeds"] == [0, 1] * 4
    assert result["values"] == {
        "optimizer.learning_rate": [0.001] * 4 + [0.003] * 4,
        "label_smoothing": [0.0, 0.0, 0.2, 0.2] * 2,
    }
    assert (result["mean"], result["std"], result["ci95"]) == (None, None, None)
    assert len(result["combinations"]) == 4
    for number, combination in enumerate(result["combinations"]):
        own = slice(2 * number, 2 * number + 2)
        values = {name: values[2 * number] for name, values in result["values"].items()}
        test, val = result["test_accuracy"][own], result["val_accuracy"][own]
        assert combination["values"] == values
        assert (combination["mean"], combination["std"]) == (np.mean(test), np.std(test, ddof=1))
        assert combination["validation"]["mean"] == np.mean(val)
    assert_close_to_solo_runs(tmp_path / "run", result, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "vary"),
    [
        # A member without a running mean leaves a work directory without one.
        ("adamw", {"optimizer.weight_decay": [0.0, 5.0], "ema_decay": [0.0, 0.9]}),
        ("adam", {"model.dropout_rate": [0.0, 0.5], "augment.rotation": [0.0, 0.5]}),
        ("adam", {"augment.elastic": [0.0, 0.5], "augment.mixup_alpha": [0.0, 0.5]}),
    ],
    ids=lambda x: x if isinstance(x, str) else " and ".join(x),
)
def test_decay_running_mean_dropout_and_augmentations_vary(tmp_path, optimizer, vary):
    fields = {"epochs": 1, "optimizer.name": optimizer, "optimizer.schedule": "cosine"}
    config = replace_fields(TINY, fields)
    result: Any = population(config, tmp_path / "run", seeds=1, vary=vary)
    assert len({*result["test_loss"]}) == len({*result["params_sha256"]}) == 4
    assert_close_to_solo_runs(tmp_path / "run", result, tmp_path)


@pytest.mark.slow
def test_a_member_that_diverges_does_not_end_the_others(tmp_path, capsys):
    """Scripted runs in test_resume.py are stopped, too."""
    config = replace_fields(TINY, {"optimizer.name": "sgd"})
    vary = {"optimizer.learning_rate": [0.01, 1e30]}
    result: Any = population(config, tmp_path / "run", seeds=1, vary=vary, listeners=[console()])
    name, (first, where) = "optimizer.learning_rate=1e+30_seed-0", result["diverged"]
    assert (first, where["epoch"]) == (None, 1)
    assert 1 < where["step"] < 8
    line = f"{name} diverged in epoch 1, step {where['step']}; the others continue\n"
    assert line in capsys.readouterr().out
    assert strict_json(tmp_path / "run" / "population.json") == result
    assert result["test_loss"][1] is None
    assert 0 <= result["test_accuracy"][1] <= 0.3
    assert read_history(tmp_path / "run")[0]["train_loss"][1] is None
    assert not (tmp_path / "run" / "members" / name).exists()
    alone = replace_fields(config, {"optimizer.learning_rate": 1e30})
    with pytest.raises(FloatingPointError, match=f"epoch 1, step {where['step']}:"):
        train(alone, tmp_path / "solo")
