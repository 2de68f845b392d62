"""The promises about populations: the members' bits, their places, their statistics."""

import contextlib
import dataclasses
import itertools
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import SMALL
from scipy import stats

from mnist_jax import Config, compare, evaluate, population, train
from mnist_jax.config import (
    CheckpointConfig,
    ModelConfig,
    OptimizerConfig,
    WatchConfig,
    config_from_dict,
)
from mnist_jax.history import read_history, without_times
from mnist_jax.population_program import PopulationProgram, compile_population
from mnist_jax.signals import Stopped
from mnist_jax.statistics import comparison_line, mean_and_spread
from mnist_jax.verify import verify

# 11 steps an epoch, the last one of 24 examples; the learning rate is too large on purpose.
RAGGED = dataclasses.replace(
    SMALL,
    epochs=3,
    batch_size=100,
    ema_decay=0.5,
    optimizer=OptimizerConfig(learning_rate=0.1),
    watch=WatchConfig(plateau_patience=1),
)


def strict_json(path: Path) -> Any:
    """Reads JSON that may hold no NaN."""
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{path}: {name}"))


def bits(workdir: Path) -> dict[str, Any]:
    """All that a finished population has left, but for times."""
    found: dict[str, Any] = {"population": without_times(strict_json(workdir / "population.json"))}
    found["history"] = [without_times(row) for row in read_history(workdir)]
    for member in sorted((workdir / "members").iterdir()):
        found[member.name] = [
            strict_json(member / "config.json"),
            without_times(strict_json(member / "result.json")),
            *(without_times(row) for row in read_history(member)),
            sorted(path.name for path in (member / "checkpoints").iterdir()),
        ]
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Three members on 1,024 images. Tests read it and leave it as it is."""
    workdir = tmp_path_factory.mktemp("population") / "run"
    return workdir, population(SMALL, workdir, seeds=3)


def assert_members_are_solo_runs(workdir: Path, config: Config, tmp_path: Path) -> None:
    found = strict_json(workdir / "population.json")
    for number, seed in enumerate(found["seeds"]):
        solo = train(dataclasses.replace(config, seed=seed), tmp_path / f"solo-{seed}")
        for name in ("params_sha256", "test_accuracy", "test_loss", "val_accuracy"):
            assert found[name][number] == solo.result[name]
        history = [without_times(row) for row in solo.history]
        assert [
            {name: row[name][number] if isinstance(row[name], list) else row[name] for name in row}
            for row in map(without_times, read_history(workdir))
        ] == history
        member = workdir / "members" / f"seed-{seed}"
        assert [without_times(row) for row in read_history(member)] == history


def test_a_member_has_the_bits_of_its_seed_alone(run, tmp_path):
    assert run[1]["seeds"] == [0, 1, 2]
    assert_members_are_solo_runs(run[0], SMALL, tmp_path)


def test_so_it_has_with_a_running_mean_and_a_plateau(tmp_path, capsys):
    population(RAGGED, tmp_path / "run", seeds=2)
    assert "a plateau of seed-" in capsys.readouterr().out
    assert_members_are_solo_runs(tmp_path / "run", RAGGED, tmp_path)


def test_so_it_has_with_batch_normalisation(tmp_path):
    fields: dict[str, Any] = {"name": "deep_cnn", "features": 4, "batch_norm": True}
    config = dataclasses.replace(RAGGED, epochs=1, model=ModelConfig(**fields))
    population(config, tmp_path / "run", seeds=2)
    assert_members_are_solo_runs(tmp_path / "run", config, tmp_path)


def test_transfer_gives_every_member_the_same_parameters_and_freezes_them(
    small_run, tmp_path, capsys
):
    config = dataclasses.replace(SMALL, epochs=1, init_from=str(small_run[0]), freeze="conv*")
    population(config, tmp_path / "run", seeds=2)
    out = capsys.readouterr().out
    assert out.count("loaded, of ") == 1
    assert "frozen: conv1/bias, conv1/kernel\n" in out
    assert_members_are_solo_runs(tmp_path / "run", config, tmp_path)


def test_a_member_is_an_ordinary_work_directory(run, tmp_path, capsys):
    workdir, result = run
    assert not (workdir / "checkpoints").exists()
    member = shutil.copytree(workdir / "members" / "seed-1", tmp_path / "member")
    assert evaluate(member)["accuracy"] == result["test_accuracy"][1]
    assert verify(member) == []
    config = config_from_dict(strict_json(member / "config.json"))
    expected = dataclasses.replace(SMALL, seed=1, checkpoint=CheckpointConfig(SMALL.epochs))
    assert config == expected
    assert train(config, member).result == strict_json(member / "result.json")
    assert "is complete" in capsys.readouterr().out


def test_the_results_are_in_the_order_of_the_members(run):
    workdir, result = run
    assert strict_json(workdir / "population.json") == result
    for number, name in enumerate(result["members"]):
        member = strict_json(workdir / "members" / name / "result.json")
        for field in ("test_accuracy", "val_accuracy", "test_loss", "params_sha256"):
            assert result[field][number] == member[field]
    assert result["diverged"] == [None] * 3
    assert {"seconds", "platform", "versions", "data_sha256", "steps"} < set(result)
    assert result["mean"] == pytest.approx(np.mean(result["test_accuracy"]))


def test_a_complete_population_is_said_to_be_complete_and_left_alone(run, capsys):
    workdir, result = run
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    assert population(SMALL, workdir, seeds=3) == result
    assert "is complete" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}


def test_one_seed_has_no_interval(tmp_path, capsys):
    result = population(dataclasses.replace(SMALL, epochs=1), tmp_path, seeds=1)
    assert (result["std"], result["ci95"]) == (None, None)
    assert "one seed: no spread, no interval" in capsys.readouterr().out
    assert result["mean"] == result["test_accuracy"][0]


def test_all_members_are_one_program_compiled_once(tmp_path, caplog):
    jax.clear_caches()
    with jax.log_compiles():
        config = dataclasses.replace(SMALL, epochs=3)
        population(config, tmp_path, seeds=2, vary={"optimizer.learning_rate": [0.001, 0.002]})
    compiled = re.findall(r"Finished XLA compilation of (?:jit\()?(\w+)", caplog.text)
    assert compiled.count("run_members") == 1
    assert compiled.count("create_train_state") == 1
    assert "run_steps" not in compiled


def test_vectorised_members_agree(run, tmp_path, monkeypatch):
    """As on an accelerator."""
    monkeypatch.setattr("mnist_jax.population_program.jax.default_backend", lambda: "gpu")
    many = population(SMALL, tmp_path, seeds=3)
    np.testing.assert_allclose(many["test_accuracy"], run[1]["test_accuracy"], atol=0.02)
    np.testing.assert_allclose(many["test_loss"], run[1]["test_loss"], rtol=1e-2)


@pytest.mark.parametrize("chunks", [1, 2, 5])
def test_a_population_may_be_stopped_after_any_chunk(run, tmp_path, chunks):
    """Within an epoch of chunks of 3, 3 and 2 steps, and at its end."""
    requests: list[int] = []
    computed = itertools.count(1)
    config = dataclasses.replace(SMALL, chunk_steps=3)

    def compile_counted(*args: Any, **fields: Any) -> PopulationProgram:
        program = compile_population(*args, **fields)

        def run_chunk(state, chunk, scales):
            if next(computed) == chunks:
                requests.append(signal.SIGTERM)
            return program.run_chunk(state, chunk, scales)

        return program._replace(run_chunk=run_chunk)

    with pytest.MonkeyPatch.context() as patch:
        names = population.__globals__
        patch.setitem(names, "compile_population", compile_counted)
        patch.setitem(names, "stop_requests", lambda: contextlib.nullcontext(requests))
        with pytest.raises(Stopped, match="stopped by SIGTERM after step"):
            population(config, tmp_path, seeds=3)
    result = population(config, tmp_path, seeds=3)
    assert result["params_sha256"] == run[1]["params_sha256"]
    assert [without_times(row) for row in read_history(tmp_path)] == [
        without_times(row) for row in read_history(run[0])
    ]


def test_killed_and_stopped_at_any_time_it_goes_on_to_the_same_bits(tmp_path):
    """SIGKILL at random moments, also while it writes the members, and SIGTERM once."""
    config = dataclasses.replace(
        SMALL, epochs=3, chunk_steps=2, checkpoint=CheckpointConfig(every_steps=2)
    )
    (tmp_path / "recipe.json").write_text(json.dumps(dataclasses.asdict(config)))
    population(config, tmp_path / "undisturbed", seeds=2)
    killed = tmp_path / "killed"
    options = ["--config", tmp_path / "recipe.json", "--workdir", killed, "--seeds", "2"]
    command = [sys.executable, "-m", "mnist_jax", "population", *map(str, options)]
    rng, codes, stderr = random.Random(0), [], ""
    kills = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL, None]
    for signum in kills:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            before = {path.name for path in (killed / "checkpoints").glob("*")}
            while signum and process.poll() is None:
                now = {path.name for path in (killed / "checkpoints").glob("*")}
                if now - before or any((killed / "members").glob("*")):
                    time.sleep(rng.uniform(0, 0.6))
                    process.send_signal(signum)
                    break
                time.sleep(0.005)
            _, stderr = process.communicate(timeout=60)
            codes.append(process.returncode)
        if codes[-1] == 0:
            break
        assert codes[-1] == (143 if signum == signal.SIGTERM else -signal.SIGKILL), stderr
    assert codes[-1] == 0, stderr
    assert len(codes) > 1
    assert bits(killed) == bits(tmp_path / "undisturbed")
    assert not (killed / "checkpoints").exists()


def test_killed_between_two_members_it_writes_them_again(run, tmp_path, monkeypatch):
    write_member = population.__globals__["write_member"]

    def write_one(directory, *args):
        if directory.name == "seed-1":
            raise KeyboardInterrupt
        write_member(directory, *args)

    with monkeypatch.context() as patch:
        patch.setitem(population.__globals__, "write_member", write_one)
        with pytest.raises(KeyboardInterrupt):
            population(SMALL, tmp_path, seeds=3)
    assert (tmp_path / "members" / "seed-0" / "result.json").exists()
    assert not (tmp_path / "population.json").exists()
    population(SMALL, tmp_path, seeds=3)
    assert bits(tmp_path) == bits(run[0])


def assert_close_to_solo_runs(workdir: Path, result: dict[str, Any], tmp_path: Path) -> None:
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


def test_every_combination_of_varied_values_gets_all_seeds(tmp_path):
    config = dataclasses.replace(SMALL, epochs=1)
    vary = {"optimizer.learning_rate": [0.001, 0.003], "label_smoothing": [0.0, 0.2]}
    result = population(config, tmp_path / "run", seeds=2, vary=vary)
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
    assert_close_to_solo_runs(tmp_path / "run", result, tmp_path)


def test_weight_decay_and_the_running_mean_vary(tmp_path):
    """A member without a running mean leaves a work directory without one."""
    config = dataclasses.replace(
        SMALL, epochs=1, optimizer=OptimizerConfig("adamw", schedule="cosine")
    )
    vary = {"optimizer.weight_decay": [0.0, 5.0], "ema_decay": [0.0, 0.9]}
    result = population(config, tmp_path / "run", seeds=1, vary=vary)
    assert len({*result["params_sha256"]}) == 4
    assert len({*result["test_loss"]}) == 4
    assert_close_to_solo_runs(tmp_path / "run", result, tmp_path)


@pytest.mark.parametrize(
    "field", ["model.dropout_rate", "augment.rotation", "augment.elastic", "augment.mixup_alpha"]
)
def test_dropout_and_augmentations_vary(tmp_path, field):
    config = dataclasses.replace(SMALL, epochs=1)
    result = population(config, tmp_path / "run", seeds=1, vary={field: [0.0, 0.5]})
    assert result["test_loss"][0] != result["test_loss"][1]
    assert_close_to_solo_runs(tmp_path / "run", result, tmp_path)


def test_a_member_that_diverges_does_not_end_the_others(tmp_path, capsys):
    config = dataclasses.replace(SMALL, optimizer=OptimizerConfig("sgd", momentum=0.9))
    vary = {"optimizer.learning_rate": [0.01, 1e30]}
    result = population(config, tmp_path / "run", seeds=1, vary=vary)
    name = "optimizer.learning_rate=1e+30_seed-0"
    where = result["diverged"][1]
    assert result["diverged"][0] is None
    assert where["epoch"] == 1
    assert 1 < where["step"] < 8
    line = f"{name} diverged in epoch 1, step {where['step']}; the others go on\n"
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

    names = population.__globals__
    # Stopped in an epoch, where sums are saved.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(names, "stop_requests", lambda: contextlib.nullcontext([signal.SIGTERM]))
        with pytest.raises(Stopped, match="after step 4 of 16"):
            population(config, tmp_path / "again", seeds=1, vary=vary)
    population(config, tmp_path / "again", seeds=1, vary=vary)
    assert bits(tmp_path / "again") == bits(tmp_path / "run")


def test_the_statistics_are_those_of_scipy():
    values = [0.98, 0.99, 0.985, 0.97]
    found = mean_and_spread(values)
    assert found["mean"] == pytest.approx(0.98125)
    assert found["std"] == pytest.approx(np.sqrt(sum((x - 0.98125) ** 2 for x in values) / 3))
    assert found["ci95"] == pytest.approx(
        stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    )
    assert mean_and_spread([0.5, 0.5]) == {"mean": 0.5, "std": 0.0, "ci95": [0.5, 0.5]}
    assert mean_and_spread([0.5]) == {"mean": 0.5, "std": None, "ci95": None}


def made_up(test: list[float], val: list[float], seeds: list[int] | None = None) -> dict[str, Any]:
    seeds = seeds or list(range(len(test)))
    return {"seeds": seeds, "values": {}, "test_accuracy": test, "val_accuracy": val}


def test_a_comparison_is_a_paired_t_test():
    a = made_up([0.98, 0.97, 0.96, 0.99], [0.9, 0.8, 0.7, 0.6])
    b = made_up([0.983, 0.972, 0.9625, 0.9925], [0.9, 0.81, 0.69, 0.6])
    found = compare(a, b)
    interval = stats.ttest_rel(b["test_accuracy"], a["test_accuracy"]).confidence_interval(0.95)
    test = found["test_accuracy"]
    assert (test["difference"] - test["half_width"], test["difference"] + test["half_width"]) == (
        pytest.approx(interval)
    )
    assert comparison_line(found, "test") == (
        "B is better by 0.25 ± 0.06 points on the test set (95 %, 4 pairs)"
    )
    assert comparison_line(compare(b, a), "test").startswith("B is worse by 0.25 ± 0.06 points")
    assert comparison_line(found, "validation") == (
        "no difference to be seen: B - A is +0.00 ± 1.30 points on the validation set "
        "(95 %, 4 pairs)"
    )
    one = compare(made_up([0.5], [0.5]), made_up([0.6], [0.5]))
    assert one["test_accuracy"]["half_width"] is None
    assert comparison_line(one, "test").endswith(
        "+10.00 points on the test set; one pair: no interval"
    )
    same = compare(a, a)
    assert comparison_line(same, "test").startswith(
        "no difference to be seen: B - A is +0.00 ± 0.00"
    )


def test_other_seeds_are_no_pairs():
    with pytest.raises(ValueError, match=r"the seeds must be the same, got \[0, 1\] and \[1, 2\]"):
        compare(made_up([0.5, 0.6], [0.5, 0.6]), made_up([0.5, 0.6], [0.5, 0.6], [1, 2]))


def test_two_real_populations_are_compared(run, tmp_path, capsys):
    config = dataclasses.replace(SMALL, optimizer=OptimizerConfig(learning_rate=1e-5))
    result = population(config, tmp_path, seeds=3, against=run[0])
    out = capsys.readouterr().out
    assert re.search(
        r"^B is worse by [\d.]+ ± [\d.]+ points on the test set \(95 %, 3 pairs", out, re.M
    )
    assert compare(run[1], result)["test_accuracy"]["difference"] < -0.2


def test_other_members_are_refused_and_overwrite_starts_anew(run, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    with pytest.raises(ValueError, match=r"other members \(seeds is \[0, 1, 2\], not \[0, 1\]\)"):
        population(SMALL, workdir, seeds=2)
    with pytest.raises(ValueError, match=r"holds a population: choose another --workdir"):
        train(SMALL, workdir, overwrite=True)
    (workdir / "notes.txt").write_text("mine")
    result = population(SMALL, workdir, seeds=2, overwrite=True)
    assert result["params_sha256"] == run[1]["params_sha256"][:2]
    assert sorted(path.name for path in (workdir / "members").iterdir()) == ["seed-0", "seed-1"]
    assert (workdir / "notes.txt").exists()


def test_an_unfinished_population_of_other_members_is_refused(tmp_path, monkeypatch):
    requests = contextlib.nullcontext([signal.SIGTERM])
    with monkeypatch.context() as patch:
        patch.setitem(population.__globals__, "stop_requests", lambda: requests)
        with pytest.raises(Stopped):
            population(SMALL, tmp_path, seeds=1)
    with pytest.raises(ValueError, match=r"population.seeds is \[0\], not \[0, 1\]"):
        population(SMALL, tmp_path, seeds=2)
    with pytest.raises(FileNotFoundError, match="a population that is not finished"):
        evaluate(tmp_path)
