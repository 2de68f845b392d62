"""A loss or a parameter that is not finite: one line, exit code 3, and only sound checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import subprocesses

from mnist_jax import start
from mnist_jax.cli.main import main
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.workdir.checkpoint import check_checkpoints, restore_variables

EVERY_2 = ["--checkpoint.every-steps=2"]
LOSS = "the loss is nan; nothing of it is saved. Try a smaller optimizer.learning_rate\n"


def poison_update(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Makes one update of the parameters not finite, like a gradient that is not finite."""
    create_optimizer = start.create_optimizer

    def create_poisoned(**fields):
        factor = optax.scale_by_schedule(lambda count: jnp.where(count == number - 1, jnp.nan, 1.0))
        return optax.chain(create_optimizer(**fields), factor)

    monkeypatch.setattr(start, "create_optimizer", create_poisoned)


@pytest.mark.parametrize(
    ("update", "options", "message", "kept", "first_lines"),
    [
        # The loss of a step is from before its update.
        (1, ["--chunk-steps=4"], f"epoch 1, step 2: {LOSS}", [], ["", ""]),
        (6, [], f"epoch 2, step 7: {LOSS}", [4], ["epoch 1/4 ", "resuming after step 4 of 16"]),
        # The loss of a chunk's last step is still finite, but not its parameters.
        (10, EVERY_2, "epoch 3, step 10: params/", [4, 6, 8], ["epoch 1/4 ", "resuming after st"]),
    ],
    ids=["at once", "the loss", "a parameter"],
)
def test_a_diverging_run_keeps_finite_checkpoints_and_fails_again_alike(
    tmp_path, monkeypatch, capsys, update, options, message, kept, first_lines
):
    poison_update(monkeypatch, update)
    for first_line in first_lines:
        assert main(["train", f"--workdir={tmp_path}", *subprocesses.OPTIONS, *options]) == 3
        output = capsys.readouterr()
        assert f"\n{first_line}" in output.out
        assert output.err.startswith(f"error: training diverged in {message}")
        assert output.err.count("\n") == 1
        assert not (tmp_path / "result.json").exists()
        assert check_checkpoints(tmp_path / "checkpoints")[0] == kept
        for step in kept:
            variables = restore_variables(tmp_path / "checkpoints", step, replicated(create_mesh()))
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
