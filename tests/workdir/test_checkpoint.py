"""Real Orbax on a toy state."""

import logging
import re
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scripted import LESSON, scripted

from mnist_jax import train
from mnist_jax.datasets.info import DataInfo
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.state import TrainState
from mnist_jax.workdir import checkpoint
from mnist_jax.workdir.history import Progress
from mnist_jax.workdir.origin import Origin

REPLICATED = replicated(create_mesh())


def toy_state(
    value: float, step: int, shape: tuple[int, ...] = (3,), *, averaged: bool = False
) -> TrainState:
    params: Any = {"layer": {"kernel": jnp.full(shape, value), "bias": jnp.float32(value)}}
    tx = optax.adam(0.1)
    opt_state = jax.tree.map(lambda x: x + jnp.asarray(10 * value, x.dtype), tx.init(params))
    statistics = {"batch_stats": {"norm": {"mean": jnp.full(2, value - 1)}}}
    state = TrainState(jnp.int32(step), len, params, tx, opt_state, statistics, {})
    average = jax.tree.map(lambda x: x / 2, state.variables) if averaged else {}
    return state.replace(average=average)


def progress(epochs: int, config: dict[str, Any] | None = None) -> Progress:
    """Makes the progress of a run; its losses need a float64."""
    info = DataInfo((28, 28, 1), ("0", "1"))
    rows: Any = [{"epoch": epoch, "val_loss": epoch / 3} for epoch in range(1, epochs + 1)]
    return Progress(Origin(config or {}, "sum", info, {"train": 7}, {"cpu_count": 2}), rows, [])


def save(directory: Path, *steps: int) -> None:
    with checkpoint.open_saver(directory, checkpoint.check_checkpoints(directory)[0]) as saver:
        for step in steps:
            saver.save(toy_state(step / 10, step), progress(step))


def kernel(directory: Path, step: int) -> np.ndarray:
    variables = checkpoint.restore_variables(directory, step, REPLICATED)
    return np.asarray(variables["params"]["layer"]["kernel"])


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_state_comes_back_exactly(tmp_path):
    save(tmp_path, 1, 2)
    assert checkpoint.check_checkpoints(tmp_path) == ([1, 2], {})
    assert checkpoint.read_progress(tmp_path, 2) == progress(2)
    state = checkpoint.restore_state(tmp_path, 2, toy_state(0.0, 0), REPLICATED)
    expected = toy_state(0.2, 2)
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(expected.opt_state)
    leaves = [jax.tree.leaves((s.step, s.params, s.opt_state)) for s in (state, expected)]
    for ours, theirs in zip(*leaves, strict=True):
        assert (ours.dtype, ours.weak_type) == (theirs.dtype, False)
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(kernel(tmp_path, 1), np.full(3, np.float32(0.1)))


def test_batch_statistics_and_the_running_mean_come_back_exactly(tmp_path):
    saved = toy_state(0.2, 2, averaged=True)
    with checkpoint.open_saver(tmp_path, []) as saver:
        saver.save(saved, progress(1))
    state = checkpoint.restore_state(tmp_path, 2, toy_state(0.0, 0, averaged=True), REPLICATED)
    for found in (state.average, checkpoint.restore_variables(tmp_path, 2, REPLICATED)):
        jax.tree.map(np.testing.assert_array_equal, found, saved.average)
    jax.tree.map(np.testing.assert_array_equal, state.variables, saved.variables)
    with pytest.raises(ValueError, match="is of another model"):
        checkpoint.restore_state(tmp_path, 2, toy_state(0.0, 0), REPLICATED)


def test_an_empty_directory_has_no_steps(tmp_path):
    assert checkpoint.check_checkpoints(tmp_path / "new") == ([], {})
    (tmp_path / "a-file").write_text("", encoding="utf-8")
    with pytest.raises(NotADirectoryError, match="a-file must be a directory"):
        checkpoint.check_checkpoints(tmp_path / "a-file")


def test_pruning_keeps_the_given_steps(tmp_path):
    save(tmp_path, 1, 2, 3, 4)
    checkpoint.prune(tmp_path, [2, 4, 7])
    assert checkpoint.check_checkpoints(tmp_path) == ([2, 4], {})
    save(tmp_path)
    assert names(tmp_path) == ["2", "4"]


def test_leftovers_of_a_killed_save_are_not_listed_and_are_removed(tmp_path):
    save(tmp_path, 1)
    for leftover in ("2.orbax-checkpoint-tmp", "0.deleted"):
        shutil.copytree(tmp_path / "1", tmp_path / leftover)
    assert checkpoint.check_checkpoints(tmp_path) == ([1], {})
    save(tmp_path, 2)
    assert names(tmp_path) == ["1", "2"]


def test_a_state_may_be_donated_while_it_is_saved(tmp_path):
    increase = jax.jit(lambda params: jax.tree.map(lambda x: x + 1, params), donate_argnums=0)
    state = toy_state(0.0, 1, shape=(1000, 1000))
    with checkpoint.open_saver(tmp_path, []) as saver:
        saver.save(state, progress(1))
        for _ in range(20):
            state = state.replace(params=increase(state.params))
    assert not kernel(tmp_path, 1).any()


def test_the_history_may_grow_while_it_is_saved(tmp_path):
    """Orbax writes in the background, on a busy machine after the next epoch."""
    grown = threading.Event()

    class ReadLate(dict[str, float]):
        """A value that is read in the background only when the history has grown."""

        def items(self) -> Any:
            if threading.current_thread() is not threading.main_thread():
                grown.wait()
            return super().items()

    first, history = progress(1, config=ReadLate(seed=1.0)), []
    with checkpoint.open_saver(tmp_path, []) as saver:
        saver.save(toy_state(0.0, 1), first._replace(history=history))
        history.append({"epoch": 2})
        grown.set()
    assert checkpoint.read_progress(tmp_path, 1).history == []


@pytest.mark.parametrize("other", [toy_state(0.0, 0, (4,)), toy_state(0, 0)], ids=["shape", "type"])
def test_another_model_is_refused(tmp_path, other):
    save(tmp_path, 1)
    with pytest.raises(ValueError, match=r"/1 is of another model: .*params/layer/kernel"):
        checkpoint.restore_state(tmp_path, 1, other, REPLICATED)


@pytest.mark.parametrize("damage", ["truncate", "empty", "remove", "flip"])
def test_damage_to_any_file_is_found_and_named_or_does_no_harm(tmp_path, damage, capfd):
    save(tmp_path, 1, 2)
    rng = np.random.default_rng(0)
    files = [path for path in (tmp_path / "2").rglob("*") if path.is_file()]
    harmless = set()
    for file in files:
        content = file.read_bytes()
        if damage == "remove":
            file.unlink()
        elif damage == "flip":
            place, bit = rng.integers(max(1, len(content))), rng.integers(8)
            flipped = bytes([content[place] ^ 1 << bit]) if content else b"\0"
            file.write_bytes(content[:place] + flipped + content[place + 1 :])
        else:
            file.write_bytes(content[: len(content) // 2 if damage == "truncate" else 0])
        if file.parent == tmp_path / "2" and file.name != "SHA256SUMS":
            # Orbax's own notes, with the time of the rename, are not read.
            harmless.add(file.name)
            np.testing.assert_array_equal(kernel(tmp_path, 2), np.full(3, np.float32(0.2)))
            checkpoint.restore_state(tmp_path, 2, toy_state(0.0, 0), REPLICATED)
            assert checkpoint.read_progress(tmp_path, 2) == progress(2)
        elif content or damage not in ("truncate", "empty"):
            named = "SHA256SUMS" if file.name == "SHA256SUMS" else file.relative_to(tmp_path / "2")
            sound, damaged = checkpoint.check_checkpoints(tmp_path)
            assert sound == [1]
            assert re.search(rf"/2 is damaged and left out: .*{named}", damaged[2])
        file.write_bytes(content)
    assert harmless <= {"_CHECKPOINT_METADATA", "commit_success.txt"}
    assert len(files) > 15
    assert checkpoint.check_checkpoints(tmp_path) == ([1, 2], {})
    assert capfd.readouterr().err == ""


def test_a_damaged_checkpoint_is_set_aside_until_it_is_not_needed(tmp_path):
    save(tmp_path, 1, 2)
    (tmp_path / "2" / "variables" / "manifest.ocdbt").write_bytes(b"")
    save(tmp_path, 2)
    assert names(tmp_path) == ["1", "2", "2.aside"]
    assert checkpoint.check_checkpoints(tmp_path) == ([1, 2], {})
    checkpoint.remove_set_aside(tmp_path)
    assert names(tmp_path) == ["1", "2"]


def test_saving_and_restoring_leave_the_process_of_the_caller_as_it_was(tmp_path):
    def state() -> tuple[object, ...]:
        asyncio = logging.getLogger("asyncio")
        return sys.unraisablehook, [*asyncio.filters], logging.getLogger("absl").level

    before = state()
    with scripted(), checkpoint.open_saver(tmp_path / "checkpoints", []):
        assert state() == before
        train(LESSON, tmp_path / "run")
    assert state() == before
