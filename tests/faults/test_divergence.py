"""A loss or a parameter that is not finite."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import subprocesses

from mnist_jax import start, train
from mnist_jax.cli.main import main
from mnist_jax.config import CheckpointConfig, Config, OptimizerConfig
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.workdir.checkpoint import check_checkpoints, restore_variables


def diverging(chunk_steps: int) -> Config:
    """The first update is far too large, so the second loss is not finite."""
    return dataclasses.replace(
        subprocesses.CONFIG,
        chunk_steps=chunk_steps,
        optimizer=OptimizerConfig(learning_rate=1e30),
        checkpoint=CheckpointConfig(every_steps=1),
    )


def poison_update(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Makes one update of the parameters not finite, as a gradient that is not finite does."""

    create_optimizer = start.create_optimizer

    def create_poisoned(**fields):
        factor = optax.scale_by_schedule(lambda count: jnp.where(count == number - 1, jnp.nan, 1.0))
        return optax.chain(create_optimizer(**fields), factor)

    monkeypatch.setattr(start, "create_optimizer", create_poisoned)


def assert_all_finite(checkpoints: Path, expected_steps: list[int]) -> None:
    steps, _ = check_checkpoints(checkpoints)
    assert steps == expected_steps
    for step in steps:
        for leaf in jax.tree.leaves(
            restore_variables(checkpoints, step, replicated(create_mesh()))
        ):
            assert np.isfinite(leaf).all()


@pytest.mark.parametrize(("chunk_steps", "kept"), [(1, [1]), (4, [])])
def test_a_loss_that_is_not_finite_is_named_by_epoch_and_step(tmp_path, chunk_steps, kept):
    with pytest.raises(FloatingPointError, match=r"diverged in epoch 1, step 2: the loss is"):
        train(diverging(chunk_steps), tmp_path)
    assert not (tmp_path / "result.json").exists()
    assert_all_finite(tmp_path / "checkpoints", kept)


def test_a_gradient_that_is_not_finite_is_named_before_it_is_saved(tmp_path, monkeypatch):
    """The losses are from before each update: that of the last step of a chunk is still finite."""
    poison_update(monkeypatch, 10)
    config = dataclasses.replace(subprocesses.CONFIG, checkpoint=CheckpointConfig(every_steps=2))
    with pytest.raises(FloatingPointError, match=r"epoch 3, step 10: params/\w+/\w+ is not"):
        train(config, tmp_path)
    assert_all_finite(tmp_path / "checkpoints", [4, 6, 8])


def test_the_command_keeps_the_last_checkpoint_and_fails_the_same_way_again(
    tmp_path, monkeypatch, capsys
):
    poison_update(monkeypatch, 6)
    for first_line in ("epoch 1/4 ", "continuing after step 4 of 16"):
        assert main(["train", f"--workdir={tmp_path}", *subprocesses.OPTIONS]) == 3
        output = capsys.readouterr()
        assert output.out.startswith(first_line)
        assert output.out.count("\n") == 1
        assert output.err == (
            "error: training diverged in epoch 2, step 7: the loss is nan; nothing of it "
            "is saved. Try a smaller optimizer.learning_rate\n"
        )
        assert_all_finite(tmp_path / "checkpoints", [4])
