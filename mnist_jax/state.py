"""The training state: everything a step changes."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training import train_state

from mnist_jax.forward import Forward

Variables = dict[str, Any]


class TrainState(train_state.TrainState):
    """Flax's state (`step`, `params`, `opt_state`) with two more fields that a step changes.

    Attributes:
        collections: the model's other variables by collection, such as `batch_stats`.
        average: running mean of `variables`, of the same structure, or empty.
    """

    collections: dict[str, Any]
    average: Any

    @property
    def variables(self) -> Variables:
        """The model's variables: the parameters and its other collections."""
        return {"params": self.params, **self.collections}

    @property
    def eval_variables(self) -> Variables:
        """The variables for evaluation and prediction: the running mean, if any."""
        return self.average or self.variables


def count_params(params: Any, *, members: bool = False) -> int:
    """Counts the parameters of a network; with `members`, of one member."""
    return sum(leaf.size // (len(leaf) if members else 1) for leaf in jax.tree.leaves(params))


def create_train_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    rng: jax.Array,
    image_shape: tuple[int, ...],
    *,
    averaged: bool = False,
) -> TrainState:
    """Initialises the parameters and the optimizer: the state before the first step.

    Args:
        model: module from images to logits, see `forward.Forward`.
        tx: optimizer.
        rng: key of the role `init`.
        image_shape: (H, W, C).
        averaged: True to keep a running mean of the parameters.
    """
    apply_fn = Forward(model)

    @jax.jit
    def init(rng):
        variables = apply_fn.init(rng, jnp.zeros((1, *image_shape)))
        return variables, tx.init(variables["params"]), variables if averaged else {}

    variables, opt_state, average = init(rng)
    # `step` is int32, as after a restore: for TrainState.create's weakly typed 0, JAX would compile
    # twice.
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        apply_fn=apply_fn,
        params=variables.pop("params"),
        tx=tx,
        opt_state=opt_state,
        collections=variables,
        average=average,
    )
