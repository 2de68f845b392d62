"""The promises about populations: the members' bits and directories, and resuming."""

import dataclasses
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import (
    TINY,
    bits,
    make_files,
    python,
    rows,
    stop_after,
    strict_json,
    times,
    write_recipe,
)
from scripted import LESSON, scripted

from mnist_jax import Config, evaluate, population, train
from mnist_jax.cli.main import main
from mnist_jax.config import CheckpointConfig, config_from_dict, replace_fields
from mnist_jax.laboratory import member_program
from mnist_jax.laboratory.members import member_rows
from mnist_jax.laboratory.verify import verify
from mnist_jax.progress import console
from mnist_jax.sharding import Target
from mnist_jax.workdir.history import without_times

# 11 steps per epoch, the last of 12 examples; the learning rate is too large on purpose.
# So the validation loss of a member rises in the third epoch.
CHANGES = {"epochs": 4, "optimizer.learning_rate": 0.3, "watch.plateau_patience": 1}
CHANGES |= {"batch_size": 50, "ema_decay": 0.5, "model.batch_norm": True}
RAGGED = replace_fields(TINY, CHANGES)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    workdir = tmp_path_factory.mktemp("population") / "run"
    return workdir, population(TINY, workdir, seeds=3)


def assert_members_are_solo_runs(workdir: Path, config: Config, seeds: int, solos: Path) -> None:
    """Asserts that members have the bits of their seeds alone, which are trained in `solos`."""
    written = strict_json(workdir / "population.json")
    assert written["seeds"] == [*range(seeds)]
    for seed, name in enumerate(written["members"]):
        solo = train(dataclasses.replace(config, seed=seed), solos / name, listeners=[console()])
        member = strict_json(workdir / "members" / name / "result.json")
        for field in ("params_sha256", "test_accuracy", "test_loss", "val_accuracy"):
            assert written[field][seed] == solo.result[field] == member[field]
        history = [without_times(row) for row in solo.history]
        assert member_rows(rows(workdir), seed) == rows(workdir / "members" / name) == history


def test_a_member_has_the_bits_of_its_seed_alone(run, tmp_path):
    workdir, result = run
    assert_members_are_solo_runs(workdir, TINY, 3, tmp_path)
    assert strict_json(workdir / "population.json") == result
    assert result["diverged"] == [None] * 3
    assert {"seconds", "platform", "versions", "data_sha256", "steps"} < set(result)
    assert result["mean"] == pytest.approx(np.mean(result["test_accuracy"]))


@pytest.mark.slow
def test_batch_norm_running_means_and_plateaus_of_a_member_equal_its_seed_alone(tmp_path, capsys):
    population(RAGGED, tmp_path / "run", seeds=2, listeners=[console()])
    assert "plateau of seed-" in capsys.readouterr().out
    assert_members_are_solo_runs(tmp_path / "run", RAGGED, 2, tmp_path)


@pytest.mark.slow
def test_transfer_gives_every_member_the_same_parameters_and_freezes_them(run, tmp_path, capsys):
    source = run[0] / "members" / "seed-2"
    config = dataclasses.replace(TINY, epochs=1, init_from=str(source), freeze="conv*")
    population(config, tmp_path / "run", seeds=2, listeners=[console()])
    out = capsys.readouterr().out
    assert out.count("loaded, from ") == 1
    assert "frozen: conv1/bias, conv1/kernel\n" in out
    assert_members_are_solo_runs(tmp_path / "run", config, 2, tmp_path)


def test_a_member_is_an_ordinary_work_directory(run, tmp_path, capsys):
    workdir, result = run
    assert not (workdir / "checkpoints").exists()
    member = shutil.copytree(workdir / "members" / "seed-1", tmp_path / "member")
    assert evaluate(member)["accuracy"] == result["test_accuracy"][1]
    assert verify(member) == []
    config = config_from_dict(strict_json(member / "config.json"))
    assert config == dataclasses.replace(TINY, seed=1, checkpoint=CheckpointConfig(TINY.epochs))
    again = train(config, member, listeners=[console()])
    assert again.result == strict_json(member / "result.json")
    assert "is already trained" in capsys.readouterr().out


def test_a_complete_population_is_left_alone_and_compared_with_another(run, tmp_path, capsys):
    workdir, result = run
    before = times(workdir)
    assert population(TINY, workdir, seeds=3, listeners=[console()]) == result
    other = result | {"test_accuracy": [x - 0.1 for x in result["test_accuracy"]]}
    make_files(tmp_path, {"population.json": json.dumps(other)})
    recipe = write_recipe(tmp_path / "recipe.json", TINY)
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
    changes = {"epochs": 3, "chunk_steps": 2, "checkpoint.every_steps": 2}
    config = replace_fields(TINY, changes)
    recipe = write_recipe(tmp_path / "recipe.json", config)
    population(config, tmp_path / "undisturbed", seeds=2)
    killed = tmp_path / "killed"
    command = ["population", f"--config={recipe}", f"--workdir={killed}", "--seeds=2"]
    for signum, module, function, number in [
        (signal.SIGKILL, "mnist_jax.workdir.checkpoint", "prune", 3),
        (signal.SIGTERM, "mnist_jax.rules", "mean_metrics", 1),
        (signal.SIGKILL, "mnist_jax.training", "write_history", 2),
        (signal.SIGKILL, "mnist_jax.laboratory.members", "open_saver", 2),
        (signal.SIGKILL, "mnist_jax.laboratory.population", "write_json", 1),
    ]:
        disturbance = [int(signum), module, function, number]
        done = python("-c", DISTURBED, *disturbance, *command, JAX_PLATFORMS="cpu")
        expected = 128 + signum if signum == signal.SIGTERM else -signum
        assert done.returncode == expected, (disturbance, done.stderr)
    assert (killed / "members" / "seed-1" / "result.json").exists()
    population(config, killed, seeds=2)
    assert bits(killed) == bits(tmp_path / "undisturbed")
    assert not (killed / "checkpoints").exists()


def test_a_population_of_several_processes_is_refused_before_any_write(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"trains in one process, .* got 2 processes"):
        population(LESSON, tmp_path / "many", seeds=2)
    assert not (tmp_path / "many").exists()


@pytest.mark.parametrize("lost", ["members/seed-1", "members/seed-1/result.json", "members/seed-?"])
def test_a_population_with_a_missing_member_is_trained_again(tmp_path, lost):
    """A diverged member has no directory, so nothing is missing."""
    workdir, script = tmp_path / "many", {"diverges": {2: 12}}
    with scripted(**script):
        result = population(LESSON, workdir, seeds=3)
    before = bits(workdir)
    with scripted(**script) as played:
        assert population(LESSON, workdir, seeds=3) == result
    assert played.rates == []
    for path in workdir.glob(lost):
        path.rename(tmp_path / path.name)
    warned = pytest.warns(UserWarning, match="seed-. is incomplete; retraining")
    with scripted(**script), warned:
        population(LESSON, workdir, seeds=3)
    assert bits(workdir) == before
