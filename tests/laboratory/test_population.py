"""The promises about populations: the members' bits and directories, and resuming."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import TINY, bits, rows, stop_after, strict_json, times
from scripted import LESSON, scripted

from mnist_jax import evaluate, population, train
from mnist_jax.cli.main import main
from mnist_jax.config import CheckpointConfig, OptimizerConfig, WatchConfig, config_from_dict
from mnist_jax.laboratory import member_program
from mnist_jax.laboratory.members import member_rows
from mnist_jax.laboratory.verify import verify
from mnist_jax.progress import console
from mnist_jax.sharding import Target
from mnist_jax.training import Run
from mnist_jax.workdir.checkpoint import open_saver
from mnist_jax.workdir.history import without_times

# 11 steps per epoch, the last of 12 examples; the learning rate is too large on purpose.
RAGGED = dataclasses.replace(
    TINY,
    epochs=4,  # the validation loss of a member rises in the third
    batch_size=50,
    ema_decay=0.5,
    model=dataclasses.replace(TINY.model, batch_norm=True),
    optimizer=OptimizerConfig(learning_rate=0.3),
    watch=WatchConfig(plateau_patience=1),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Trains three members on 512 images; tests only read them."""
    workdir = tmp_path_factory.mktemp("population") / "run"
    return workdir, population(TINY, workdir, seeds=3)


def assert_members_are_solo_runs(workdir: Path, solos: list[Run]) -> None:
    """Asserts equal bits; `solos` are the runs of all seeds."""
    written = strict_json(workdir / "population.json")
    assert len(written["seeds"]) == len(solos)
    for number, solo in enumerate(solos):
        for name in ("params_sha256", "test_accuracy", "test_loss", "val_accuracy"):
            assert written[name][number] == solo.result[name]
        history = [without_times(row) for row in solo.history]
        assert member_rows(rows(workdir), number) == history
        assert rows(workdir / "members" / written["members"][number]) == history


def test_a_member_has_the_bits_of_its_seed_alone(run, tmp_path):
    assert run[1]["seeds"] == [0, 1, 2]
    seeds = (dataclasses.replace(TINY, seed=seed) for seed in range(3))
    solos = [train(config, tmp_path / str(config.seed)) for config in seeds]
    assert_members_are_solo_runs(run[0], solos)


@pytest.mark.slow
def test_batch_norm_running_means_and_plateaus_of_a_member_equal_its_seed_alone(tmp_path, capsys):
    population(RAGGED, tmp_path / "run", seeds=2, listeners=[console()])
    assert "plateau of seed-" in capsys.readouterr().out
    seeds = (dataclasses.replace(RAGGED, seed=seed) for seed in range(2))
    solos = [train(config, tmp_path / str(config.seed), listeners=[console()]) for config in seeds]
    assert_members_are_solo_runs(tmp_path / "run", solos)


@pytest.mark.slow
def test_transfer_gives_every_member_the_same_parameters_and_freezes_them(run, tmp_path, capsys):
    source = run[0] / "members" / "seed-2"
    config = dataclasses.replace(TINY, epochs=1, init_from=str(source), freeze="conv*")
    population(config, tmp_path / "run", seeds=2, listeners=[console()])
    out = capsys.readouterr().out
    assert out.count("loaded, of ") == 1
    assert "frozen: conv1/bias, conv1/kernel\n" in out
    seeds = (dataclasses.replace(config, seed=seed) for seed in range(2))
    solos = [train(config, tmp_path / str(config.seed), listeners=[console()]) for config in seeds]
    assert_members_are_solo_runs(tmp_path / "run", solos)


def test_a_member_is_an_ordinary_work_directory(run, tmp_path, capsys):
    workdir, result = run
    assert not (workdir / "checkpoints").exists()
    member = shutil.copytree(workdir / "members" / "seed-1", tmp_path / "member")
    assert evaluate(member)["accuracy"] == result["test_accuracy"][1]
    assert verify(member) == []
    config = config_from_dict(strict_json(member / "config.json"))
    expected = dataclasses.replace(TINY, seed=1, checkpoint=CheckpointConfig(TINY.epochs))
    assert config == expected
    assert train(config, member, listeners=[console()]).result == strict_json(
        member / "result.json"
    )
    assert "is already trained" in capsys.readouterr().out


def test_population_json_has_the_results_in_the_order_of_the_members(run):
    workdir, result = run
    assert strict_json(workdir / "population.json") == result
    for number, name in enumerate(result["members"]):
        member = strict_json(workdir / "members" / name / "result.json")
        for field in ("test_accuracy", "val_accuracy", "test_loss", "params_sha256"):
            assert result[field][number] == member[field]
    assert result["diverged"] == [None] * 3
    assert {"seconds", "platform", "versions", "data_sha256", "steps"} < set(result)
    assert result["mean"] == pytest.approx(np.mean(result["test_accuracy"]))


def test_a_complete_population_is_left_alone_and_compared_with_another(run, tmp_path, capsys):
    workdir, result = run
    before = times(workdir)
    assert population(TINY, workdir, seeds=3, listeners=[console()]) == result
    other = result | {"test_accuracy": [x - 0.1 for x in result["test_accuracy"]]}
    (tmp_path / "population.json").write_text(json.dumps(other), encoding="utf-8")
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(dataclasses.asdict(TINY)), encoding="utf-8")
    options = [f"--config={recipe}", f"--workdir={workdir}", f"--against={tmp_path}"]
    assert main(["population", "--seeds=3", *options]) == 0
    out = capsys.readouterr().out
    assert out.count("is already trained") == 2
    assert out.endswith(
        f"A is {tmp_path}, B is {workdir}\nno detectable difference: B - A is +0.00 ± 0.00 points "
        "on the validation set (95 %, 3 pairs)\n"
        "B is better by 10.00 ± 0.00 points on the test set (95 %, 3 pairs)\n"
    )
    assert before == times(workdir)


def test_an_unfinished_population_is_resumed_with_its_own_members_only(tmp_path, capsys):
    stop_after(1, population, TINY, tmp_path, seeds=1)
    with pytest.raises(ValueError, match=r"population.seeds is \[0\], not \[0, 1\]"):
        population(TINY, tmp_path, seeds=2, listeners=[console()])
    with pytest.raises(FileNotFoundError, match="a population that is not complete"):
        evaluate(tmp_path)
    result = population(TINY, tmp_path, seeds=1, listeners=[console()])
    assert (result["std"], result["ci95"]) == (None, None)
    assert "one seed: no spread, no interval" in capsys.readouterr().out
    assert result["mean"] == result["test_accuracy"][0]


def test_a_finished_population_of_other_members_is_overwritten_only_if_asked(run, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    with pytest.raises(ValueError, match=r"different members \(seeds is \[0, 1, 2\], not \[0\]\)"):
        population(TINY, workdir, seeds=1)
    with pytest.raises(ValueError, match=r"holds a population: choose another --workdir"):
        train(TINY, workdir, overwrite=True)
    (workdir / "notes.txt").write_text("mine", encoding="utf-8")
    result = population(TINY, workdir, seeds=1, overwrite=True)
    assert result["params_sha256"] == run[1]["params_sha256"][:1]
    assert [path.name for path in (workdir / "members").iterdir()] == ["seed-0"]
    assert (workdir / "notes.txt").exists()


@pytest.mark.slow
def test_vectorised_members_agree_with_mapped_ones(run, tmp_path, monkeypatch):
    """Accelerators vectorise members."""
    monkeypatch.setattr(member_program, "target", lambda: Target("gpu", 1))
    many = population(TINY, tmp_path, seeds=3)
    np.testing.assert_allclose(many["test_accuracy"], run[1]["test_accuracy"], atol=0.02)
    np.testing.assert_allclose(many["test_loss"], run[1]["test_loss"], rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(("chunk_steps", "stops"), [(4, [1, 1]), (3, [1, 1, 3])])
def test_a_population_stopped_after_any_chunk_resumes_with_the_same_bits(
    run, tmp_path, chunk_steps, stops
):
    """Within epochs of 2 or 3 chunks, and at their end."""
    config = dataclasses.replace(TINY, chunk_steps=chunk_steps)
    for chunks in stops:
        stop_after(chunks, population, config, tmp_path, seeds=3)
    result = population(config, tmp_path, seeds=3)
    assert result["params_sha256"] == run[1]["params_sha256"]
    assert rows(tmp_path) == rows(run[0])


@pytest.mark.slow
def test_a_population_killed_between_two_members_writes_them_again(run, tmp_path, monkeypatch):
    def open_one(directory, *args):
        if "seed-1" in directory.parts:
            raise KeyboardInterrupt
        return open_saver(directory, *args)

    with monkeypatch.context() as patch:
        patch.setattr("mnist_jax.laboratory.members.open_saver", open_one)
        with pytest.raises(KeyboardInterrupt):
            population(TINY, tmp_path, seeds=3)
    assert (tmp_path / "members" / "seed-0" / "result.json").exists()
    assert not (tmp_path / "population.json").exists()
    population(TINY, tmp_path, seeds=3)
    assert bits(tmp_path) == bits(run[0])


# `SIGNAL MODULE FUNCTION N ARGS...`: the command ARGS; a signal comes in the Nth such call.
DISTURBED = """
import importlib, itertools, os, sys
from mnist_jax.cli.main import main

signum, module, name, number, *args = sys.argv[1:]
module = importlib.import_module(module)
function, calls = getattr(module, name), itertools.count(1)

def disturbed(*args, **options):
    if next(calls) == int(number):
        os.kill(os.getpid(), int(signum))
    return function(*args, **options)

setattr(module, name, disturbed)
sys.exit(main(args))
"""


@pytest.mark.slow
def test_a_population_killed_and_stopped_in_turn_resumes_with_the_same_bits(tmp_path):
    """During training, checkpoints, and the writing of members."""
    config = dataclasses.replace(
        TINY, epochs=3, chunk_steps=2, checkpoint=CheckpointConfig(every_steps=2)
    )
    (tmp_path / "recipe.json").write_text(json.dumps(dataclasses.asdict(config)), encoding="utf-8")
    population(config, tmp_path / "undisturbed", seeds=2)
    killed = tmp_path / "killed"
    options = ["population", f"--config={tmp_path / 'recipe.json'}", f"--workdir={killed}"]
    for signum, module, function, number in [
        (signal.SIGKILL, "mnist_jax.training", "prune", 3),
        (signal.SIGTERM, "mnist_jax.rules", "mean_metrics", 1),
        (signal.SIGKILL, "mnist_jax.training", "write_history", 2),
        (signal.SIGKILL, "mnist_jax.laboratory.members", "open_saver", 2),
        (signal.SIGKILL, "mnist_jax.laboratory.population", "write_json", 1),
    ]:
        disturbance = [str(int(signum)), module, function, str(number)]
        done = subprocess.run(
            [sys.executable, "-c", DISTURBED, *disturbance, *options, "--seeds=2"],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )
        expected = 128 + signum if signum == signal.SIGTERM else -signum
        assert done.returncode == expected, (disturbance, done.stderr)
    assert (killed / "members" / "seed-1" / "result.json").exists()
    population(config, killed, seeds=2)
    assert bits(killed) == bits(tmp_path / "undisturbed")
    assert not (killed / "checkpoints").exists()


def test_a_population_of_several_processes_is_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"trains in one process, .* got 2 processes"):
        population(LESSON, tmp_path / "many", seeds=2)
    assert not (tmp_path / "many").exists()


@pytest.mark.parametrize("lost", ["members/seed-1", "members/seed-1/result.json", "members"])
def test_a_population_with_a_missing_member_is_trained_again(tmp_path, lost):
    """A diverged member has no directory, so nothing is missing."""
    workdir, script = tmp_path / "many", {"diverges": {2: 12}}
    with scripted(**script):
        result = population(LESSON, workdir, seeds=3)
    before = bits(workdir)
    with scripted(**script) as played:
        assert population(LESSON, workdir, seeds=3) == result
    assert played.rates == []
    if lost.endswith("json"):
        (workdir / lost).unlink()
    else:
        shutil.rmtree(workdir / lost)
    if lost == "members":
        (workdir / lost).mkdir()
    with (
        scripted(**script),
        pytest.warns(UserWarning, match="seed-. is incomplete; the pop"),
    ):
        population(LESSON, workdir, seeds=3)
    assert bits(workdir) == before
