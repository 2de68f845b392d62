"""A run that is stopped on n devices and continued on m, by the same call in another process.

Run as a program, this file trains on the devices there are: each argument is ACTION:KIND:WORKDIR.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import SMALL

from mnist_jax import population, train
from mnist_jax.config import replace_fields
from mnist_jax.history import read_history
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.signals import Stopped
from mnist_jax.workdir import MEMBERS, load_trained

# Batches that 8 devices do not divide; and keys for dropout and for augmentation.
CONFIG = replace_fields(SMALL, {"epochs": 3, "batch_size": 100, "augment.shift": 1.0})
SEEDS, STOPPED_AFTER = 3, 2
MOVES = {(1, 4), (4, 2), (8, 1)}
# What a process on so many devices begins and stops, finishes, and does from beginning to end.
PLAN = {
    8: ["stop:train:8-1"],
    1: [
        *("all:train:1-1", "finish:train:8-1", "stop:train:1-4"),
        *("all:population:many-1-1", "stop:population:many-1-4"),
    ],
    4: ["finish:train:1-4", "stop:train:4-2", "finish:population:many-1-4"],
    2: ["finish:train:4-2"],
}


def stop(row: dict[str, Any]) -> None:
    if row["epoch"] == STOPPED_AFTER:
        raise InterruptedError


def act(action: str, kind: str, workdir: str) -> None:
    stops = action == "stop"
    if kind == "train":
        with contextlib.suppress(InterruptedError):
            train(CONFIG, workdir, on_epoch=stop if stops else None)
        return
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Stopped):
        if stops:  # after the first chunk
            requests = contextlib.nullcontext([signal.SIGTERM])
            patch.setitem(population.__globals__, "stop_requests", lambda: requests)
        population(CONFIG, workdir, seeds=SEEDS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    """Where all that is in the plan lies, and what was warned of on each number of devices."""
    root, warned = tmp_path_factory.mktemp("elastic"), {}
    for devices, actions in PLAN.items():
        done = subprocess.run(
            [sys.executable, __file__, *actions],
            env=os.environ
            | {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            },
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        for action in actions:
            what, kind, name = action.split(":")
            result = root / name / ("result.json" if kind == "train" else "population.json")
            assert result.exists() == (what != "stop")
        warned[devices] = done.stderr
    return root, warned


@pytest.mark.parametrize(("before", "after"), sorted(MOVES))
def test_a_run_goes_on_with_other_devices_and_the_same_data_and_keys(runs, before, after):
    """To rounding: another order, or other keys, would make other losses in the first epoch."""
    root, warned = runs
    moved, still = root / f"{before}-{after}", root / "1-1"
    assert f"the run in {moved}/checkpoints goes on in another environment" in warned[after]
    assert f"(device_count is {before}, not {after})" in warned[after]
    ours, theirs = (json.loads((path / "result.json").read_text()) for path in (moved, still))
    assert (ours["device_count"], theirs["device_count"]) == (after, 1)
    assert ours["steps"] == theirs["steps"]
    assert ours["test_accuracy"] == pytest.approx(theirs["test_accuracy"], abs=0.01)
    rows = [*zip(read_history(moved), read_history(still), strict=True)]
    assert len(rows) == CONFIG.epochs
    for row, expected in rows:
        assert row["step"] == expected["step"]
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-3)
        assert row["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-3)
    sharding = replicated(create_mesh())
    networks = (load_trained(path, "latest", sharding).variables for path in (moved, still))
    for leaf, expected in zip(*map(jax.tree.leaves, networks), strict=True):
        np.testing.assert_allclose(leaf, expected, atol=1e-3)


def test_a_population_goes_on_with_other_devices(runs):
    root, warned = runs
    assert "many-1-4/checkpoints goes on in another environment" in warned[4]
    ours, theirs = (
        json.loads((root / name / "population.json").read_text())
        for name in ("many-1-4", "many-1-1")
    )
    assert ours["device_count"] == 4
    np.testing.assert_allclose(ours["test_accuracy"], theirs["test_accuracy"], atol=0.01)
    rows = zip(read_history(root / "many-1-4"), read_history(root / "many-1-1"), strict=True)
    for row, expected in rows:
        np.testing.assert_allclose(row["train_loss"], expected["train_loss"], rtol=1e-3)
    assert len([*(root / "many-1-4" / MEMBERS).iterdir()]) == SEEDS


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        act(*argument.split(":"))
