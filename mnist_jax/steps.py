"""The steps: pure functions of state and batch, and the loops that compile many of them at once."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.training.train_state import TrainState

from mnist_jax.metrics import Sums, metric_sums

Batch = dict[str, jax.Array]
Params = Any


def scale(images: jax.Array) -> jax.Array:
    """uint8 pixels 0 to 255 -> float32 in [0, 1], what the model is given."""
    return images.astype(jnp.float32) / 255.0


def loss_fn(
    params: Params, apply_fn: Callable[..., jax.Array], batch: Batch, dropout_key: jax.Array
) -> tuple[jax.Array, Sums]:
    """Returns the mean cross-entropy of a batch's real examples, and its metric sums."""
    logits = apply_fn(
        {"params": params}, scale(batch["image"]), train=True, rngs={"dropout": dropout_key}
    )
    sums = metric_sums(logits, batch["label"], batch["mask"])
    return sums["loss_sum"] / sums["count"].astype(jnp.float32), sums


def train_step(state: TrainState, batch: Batch, dropout_rng: jax.Array) -> tuple[TrainState, Sums]:
    """Makes one update of the parameters.

    Args:
        state: its `step` is the number of updates made so far.
        batch: `image` uint8 [B, H, W, C], `label` int32 [B], `mask` bool [B].
        dropout_rng: the run's dropout stream; the step's own key is derived from it here.

    Returns:
        The state after the update, and the batch's metric sums from before it.
    """
    dropout_key = jax.random.fold_in(dropout_rng, state.step)
    grad_fn = jax.grad(loss_fn, has_aux=True)
    grads, sums = grad_fn(state.params, state.apply_fn, batch, dropout_key)
    return state.apply_gradients(grads=grads), sums


def eval_step(params: Params, apply_fn: Callable[..., jax.Array], batch: Batch) -> Sums:
    """Returns the metric sums of a batch, without dropout."""
    logits = apply_fn({"params": params}, scale(batch["image"]))
    return metric_sums(logits, batch["label"], batch["mask"])


# The old state's buffers become the new state's: whoever passes a state in must not use it again.
@functools.partial(jax.jit, donate_argnums=0)
def run_steps(state: TrainState, chunk: Batch, dropout_rng: jax.Array) -> tuple[TrainState, Sums]:
    """Runs `train_step` over a chunk of batches [k, B, ...] as one program.

    Returns:
        The state after k updates, and the metric sums of each step: [k].
    """
    return jax.lax.scan(lambda state, batch: train_step(state, batch, dropout_rng), state, chunk)


@functools.partial(jax.jit, static_argnums=1)
def run_eval_steps(params: Params, apply_fn: Callable[..., jax.Array], chunk: Batch) -> Sums:
    """Runs `eval_step` over a chunk of batches [k, B, ...]; returns the metric sums, each [k]."""
    return jax.lax.map(lambda batch: eval_step(params, apply_fn, batch), chunk)


@functools.partial(jax.jit, static_argnums=1)
def run_predict_steps(
    params: Params, apply_fn: Callable[..., jax.Array], images: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Classifies batches of images, uint8 [k, B, H, W, C].

    Returns:
        The class probabilities float32 [k, B, num_classes], and the classes int32 [k, B]. The class
        is taken from the logits, as in `eval_step`: rounding can make two probabilities equal.
    """

    def predict_step(images):
        logits = apply_fn({"params": params}, scale(images))
        return jax.nn.softmax(logits), jnp.argmax(logits, axis=-1)

    return jax.lax.map(predict_step, images)
