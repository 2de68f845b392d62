"""The training state: everything that a step changes."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training.train_state import TrainState


def create_train_state(
    model: nn.Module, tx: optax.GradientTransformation, rng: jax.Array, image_shape: tuple[int, ...]
) -> TrainState:
    """Initialises the parameters and the optimizer.

    Args:
        model: images -> logits.
        tx: the optimizer.
        rng: the key of the role `init`.
        image_shape: (H, W, C).

    Returns:
        A state with `step` (updates made, int32 0), `params` and `opt_state`.
    """

    @jax.jit
    def init(rng):
        params = model.init(rng, jnp.zeros((1, *image_shape)))["params"]
        return params, tx.init(params)

    params, opt_state = init(rng)
    # An int32 array, not TrainState.create's weakly typed 0: with that, the step would be compiled
    # a second time after a restore, whose step is an int32 array.
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        apply_fn=model.apply,
        params=params,
        tx=tx,
        opt_state=opt_state,
    )
