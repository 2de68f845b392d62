"""A loss or a parameter that is not finite: one line, exit code 3, and only sound checkpoints."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import subprocesses

from mnist_jax import Config, console, start, train
from mnist_jax.cli.main import main
from mnist_jax.exporting.model_card import create_card, format_card
from mnist_jax.metrics import cross_entropy
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.workdir.checkpoint import check_checkpoints, restore_variables
from mnist_jax.workdir.trained import load_trained

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


def test_a_loss_that_is_infinite_in_the_test_only_loses_no_result(tmp_path, capsys):
    images = np.random.default_rng(0).random((40, 28, 28, 1), np.float32)
    splits = {"train": (images, np.arange(40) % 2), "test": (images[:8], np.arange(8) % 3)}

    def loss_fn(logits, labels):
        return jnp.where(labels == 2, jnp.inf, cross_entropy(logits, labels))

    result: Any = None
    for _ in range(2):  # when it is trained, and when it is complete
        own: Any = {"splits": splits, "loss_fn": loss_fn, "listeners": [console()]}
        result = train(Config(epochs=1, batch_size=8), tmp_path, **own).result
        assert result["test_loss"] is None
        assert result["test_accuracy"] is not None
        assert "Infinity" not in (tmp_path / "result.json").read_text("utf-8")
    assert "test loss not finite  accuracy " in capsys.readouterr().out
    card = create_card(b"", "file", "onnx", load_trained(tmp_path, splits=splits), result)
    assert "- Test loss: not finite" in format_card(card)
