"""Divergence, found before anything of it is written."""

from typing import Any

import jax
import numpy as np

from mnist_jax.metrics import Sums


def check_losses(sums: Sums, last_step: int, steps_per_epoch: int) -> None:
    """Raises FloatingPointError, naming epoch and step, where a loss is not finite.

    Args:
        sums: of the steps that end with `last_step`, one after another; the loss is from before
            the step's update.
        last_step: counted from 1.
        steps_per_epoch: to tell the epoch.
    """
    losses = np.ravel(sums["loss_sum"])
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        step = last_step - losses.size + int(bad[0]) + 1
        raise _diverged(step, steps_per_epoch, f"the loss is {losses[bad[0]]}")


def check_finite(tree: Any, step: int, steps_per_epoch: int) -> None:
    """Raises FloatingPointError, naming the leaf, where a value is not finite after `step`.

    A gradient that is not finite leaves its trace in the parameters and the optimizer's moments.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not np.isfinite(np.asarray(leaf)).all():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise _diverged(step, steps_per_epoch, f"{name} is not finite")


def _diverged(step: int, steps_per_epoch: int, reason: str) -> FloatingPointError:
    return FloatingPointError(
        f"training diverged in epoch {(step - 1) // steps_per_epoch + 1}, step {step}: {reason}; "
        "nothing of it is saved. Try a smaller optimizer.learning_rate"
    )
