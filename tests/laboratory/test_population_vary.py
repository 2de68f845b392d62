"""Populations of several recipes: varied values, solo runs, and a member that diverges."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import TINY, bits, compilations, stop_after, strict_json

from mnist_jax import population, train
from mnist_jax.config import OptimizerConfig, config_from_dict
from mnist_jax.progress import console
from mnist_jax.workdir.history import read_history

ONE_EPOCH = dataclasses.replace(TINY, epochs=1)


def assert_close_to_solo_runs(workdir: Path, result: Any, tmp_path: Path) -> None:
    for number in (0, len(result["members"]) - 1):
        name = result["members"][number]
        config = config_from_dict(strict_json(workdir / "members" / name / "config.json"))
        for field, values in result["values"].items():
            section, _, last = field.rpartition(".")
            part = getattr(config, section) if section else config
            assert getattr(part, last) == values[number]
        solo = train(config, tmp_path / name)
        assert result["test_loss"][number] == pytest.approx(solo.result["test_loss"], rel=0.02)
        assert result["test_accuracy"][number] == pytest.approx(
            solo.result["test_accuracy"], abs=0.02
        )


def test_every_combination_of_varied_values_gets_all_seeds_in_one_program(tmp_path, caplog):
    vary = {"optimizer.learning_rate": [0.001, 0.003], "label_smoothing": [0.0, 0.2]}
    with compilations(caplog) as compiled:
        result: Any = population(TINY, tmp_path / "run", seeds=2, vary=vary)
    assert (compiled["run_members"], compiled["create_arrays"], compiled["train_steps"]) == (
        1,
        1,
        0,
    )
    assert result["seeds"] == [0, 1] * 4
    assert result["values"] == {
        "optimizer.learning_rate": [0.001] * 4 + [0.003] * 4,
        "label_smoothing": [0.0, 0.0, 0.2, 0.2] * 2,
    }
    assert (result["mean"], result["std"], result["ci95"]) == (None, None, None)
    assert len(result["combinations"]) == 4
    for number, combination in enumerate(result["combinations"]):
        own = result["test_accuracy"][2 * number : 2 * number + 2]
        assert combination["values"] == {
            name: values[2 * number] for name, values in result["values"].items()
        }
        assert (combination["mean"], combination["std"]) == (np.mean(own), np.std(own, ddof=1))
        own = result["val_accuracy"][2 * number : 2 * number + 2]
        assert combination["validation"]["mean"] == np.mean(own)
    assert_close_to_solo_runs(tmp_path / "run", result, tmp_path)


@pytest.mark.slow
def test_weight_decay_and_the_running_mean_vary(tmp_path):
    """A member without a running mean leaves a work directory without one."""
    config = dataclasses.replace(ONE_EPOCH, optimizer=OptimizerConfig("adamw", schedule="cosine"))
    vary = {"optimizer.weight_decay": [0.0, 5.0], "ema_decay": [0.0, 0.9]}
    result: Any = population(config, tmp_path / "run", seeds=1, vary=vary, listeners=[console()])
    assert len({*result["params_sha256"]}) == 4
    assert len({*result["test_loss"]}) == 4
    assert_close_to_solo_runs(tmp_path / "run", result, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [("model.dropout_rate", "augment.rotation"), ("augment.elastic", "augment.mixup_alpha")],
    ids=" and ".join,
)
def test_dropout_and_augmentations_vary(tmp_path, fields):
    vary = {field: [0.0, 0.5] for field in fields}
    result: Any = population(ONE_EPOCH, tmp_path / "run", seeds=1, vary=vary)
    assert len({*result["test_loss"]}) == 4
    assert_close_to_solo_runs(tmp_path / "run", result, tmp_path)


@pytest.mark.slow
def test_a_member_that_diverges_does_not_end_the_others(tmp_path, capsys):
    config = dataclasses.replace(TINY, optimizer=OptimizerConfig("sgd", momentum=0.9))
    vary = {"optimizer.learning_rate": [0.01, 1e30]}
    result: Any = population(config, tmp_path / "run", seeds=1, vary=vary, listeners=[console()])
    name = "optimizer.learning_rate=1e+30_seed-0"
    where = result["diverged"][1]
    assert result["diverged"][0] is None
    assert where["epoch"] == 1
    assert 1 < where["step"] < 8
    line = f"{name} diverged in epoch 1, step {where['step']}; the others continue\n"
    assert line in capsys.readouterr().out
    assert strict_json(tmp_path / "run" / "population.json") == result
    assert result["test_loss"][1] is None
    assert 0 <= result["test_accuracy"][1] <= 0.3
    assert read_history(tmp_path / "run")[0]["train_loss"][1] is None
    assert not (tmp_path / "run" / "members" / name).exists()
    rate = dataclasses.replace(config.optimizer, learning_rate=1e30)
    alone = dataclasses.replace(config, optimizer=rate)
    with pytest.raises(FloatingPointError, match=f"epoch 1, step {where['step']}:"):
        train(alone, tmp_path / "solo")

    # Stopped in an epoch, where sums are saved.
    stop_after(1, population, config, tmp_path / "again", seeds=1, vary=vary)
    population(config, tmp_path / "again", seeds=1, vary=vary)
    assert bits(tmp_path / "again") == bits(tmp_path / "run")
