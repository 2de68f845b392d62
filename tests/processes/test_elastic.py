"""A run that is stopped on n devices and resumed on m, by the same call in another process.

As a program this file trains on the available devices: each argument is ACTION:KIND:WORKDIR.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import TINY, python, stop_after, strict_json

from mnist_jax import population, train
from mnist_jax.cli.compilation_cache import use_compilation_cache
from mnist_jax.config import replace_fields
from mnist_jax.workdir.history import read_history
from mnist_jax.workdir.run import MEMBERS
from mnist_jax.workdir.trained import load_trained

# Batches that 8 devices do not divide, 6 an epoch; and keys for dropout and for augmentation.
TESTS = str(Path(__file__).parents[1])
CONFIG = replace_fields(TINY, {"epochs": 3, "batch_size": 100, "augment.shift": 1.0})
MANY = {"seeds": 3}
MOVES = [(8, 1), (1, 4), (8, 4)]
# Actions of a process, by its number of devices.
PLAN = {
    8: ["stop:train:8-1", "stop:train:8-4"],
    1: [
        *("all:train:1-1", "finish:train:8-1", "stop:train:1-4"),
        *("all:population:many-1-1", "stop:population:many-1-4"),
    ],
    4: ["finish:train:1-4", "finish:train:8-4", "finish:population:many-1-4"],
}


def act(action: str, kind: str, workdir: str) -> None:
    function: Any = train if kind == "train" else population
    options, chunks = ({}, 4) if kind == "train" else (MANY, 1)
    if action == "stop":
        stop_after(chunks, function, CONFIG, workdir, **options)
    else:
        function(CONFIG, workdir, **options)


def follow_plan(root: Path) -> dict[int, str]:
    """Runs the processes of the plan; returns their warnings by number of devices."""
    warned = {}
    for devices, actions in PLAN.items():
        flags = f"--xla_force_host_platform_device_count={devices}"
        env = {"PYTHONPATH": TESTS, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        done = python(__file__, *actions, cwd=root, **env)
        assert done.returncode == 0, done.stderr
        for action in actions:
            what, kind, name = action.split(":")
            result = root / name / ("result.json" if kind == "train" else "population.json")
            assert result.exists() == (what != "stop")
        warned[devices] = done.stderr
    return warned


def assert_losses_agree(moved: Path, still: Path, name: str) -> None:
    """Compares losses to rounding; another order or other keys would change the first epoch."""
    losses, expected = ([row[name] for row in read_history(path)] for path in (moved, still))
    assert len(losses) == len(expected) == CONFIG.epochs
    np.testing.assert_allclose(np.array(losses), np.array(expected), rtol=1e-3)


@pytest.mark.slow
def test_a_run_resumes_on_other_numbers_of_devices_with_the_same_data_and_keys(tmp_path, subtests):
    warned = follow_plan(tmp_path)
    still = tmp_path / "1-1"
    for before, after in MOVES:
        with subtests.test(msg=f"a run on {before} devices, then {after}"):
            moved = tmp_path / f"{before}-{after}"
            assert f"the run in {moved}/checkpoints resumes in a different environ" in warned[after]
            assert f"(device_count is {before}, not {after})" in warned[after]
            ours, theirs = (strict_json(path / "result.json") for path in (moved, still))
            assert (ours["device_count"], theirs["device_count"]) == (after, 1)
            assert ours["steps"] == theirs["steps"]
            assert ours["test_accuracy"] == pytest.approx(theirs["test_accuracy"], abs=0.01)
            steps: Any = ([row["step"] for row in read_history(path)] for path in (moved, still))
            assert next(steps) == next(steps)
            for name in ("train_loss", "val_loss"):
                assert_losses_agree(moved, still, name)
            networks = [load_trained(path).variables for path in (moved, still)]
            for leaf, expected in zip(*map(jax.tree.leaves, networks), strict=True):
                np.testing.assert_allclose(leaf, expected, atol=1e-3)
    with subtests.test(msg="a population on 1 device, then 4"):
        moved, still = tmp_path / "many-1-4", tmp_path / "many-1-1"
        assert "many-1-4/checkpoints resumes in a different environment" in warned[4]
        ours, theirs = (strict_json(path / "population.json") for path in (moved, still))
        assert ours["device_count"] == 4
        np.testing.assert_allclose(ours["test_accuracy"], theirs["test_accuracy"], atol=0.01)
        assert_losses_agree(moved, still, "train_loss")
        assert len([*(moved / MEMBERS).iterdir()]) == 3


if __name__ == "__main__":
    use_compilation_cache()
    for argument in sys.argv[1:]:
        act(*argument.split(":"))
