"""The steps: pure functions of state and batch, and the loops that compile many of them at once."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mnist_jax.augment import augment, is_off, mixup
from mnist_jax.metrics import Sums, metric_sums
from mnist_jax.optimizer import is_frozen
from mnist_jax.state import TrainState, Variables

Batch = dict[str, jax.Array]
Rngs = dict[str, jax.Array]
Params = Any


def to_float(images: jax.Array) -> jax.Array:
    """uint8 pixels 0 to 255 -> float32 in [0, 1], what the model is given."""
    return images.astype(jnp.float32) / 255.0


def loss_fn(
    params: Params,
    state: TrainState,
    batch: Batch,
    keys: Rngs,
    *,
    precision: str = "float32",
    label_smoothing: float | jax.Array = 0.0,
    mixup_alpha: float | jax.Array = 0.0,
    **strengths: float | jax.Array,
) -> tuple[jax.Array, tuple[Sums, Any]]:
    """Computes the loss of a batch.

    Args:
        params: the parameters to differentiate by.
        state: gives the model and its batch statistics.
        batch: as in `train_step`.
        keys: the step's own, by role.
        precision: what the network multiplies in: `float32`, `tensorfloat32` or `bfloat16`. JAX
            has these names for what it makes of products of float32, see
            https://docs.jax.dev/en/latest/jax.lax.html#jax.lax.Precision; with `bfloat16`, what is
            multiplied has that type, too.
        label_smoothing: the part of each label that is spread over all classes.
        mixup_alpha: see `augment.mixup`; 0: none.
        strengths: of the other augmentations, by name, see `augment.augment`.

    Returns:
        The mean cross-entropy of the real examples; and their metric sums with the batch statistics
        after this batch.
    """
    mask = batch["mask"]
    images = augment(to_float(batch["image"]), keys["augment"], **strengths)
    mix = functools.partial(mixup, mask=mask, key=keys["augment"], alpha=mixup_alpha)
    # Rounded in here, the parameters still get gradients of their own type, float32.
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    params, inputs = jax.tree.map(lambda x: x.astype(dtype), (params, mix(images)))
    with jax.default_matmul_precision(precision):
        logits, updates = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            inputs,
            train=True,
            mask=mask,
            rngs={"dropout": keys["dropout"]},
            mutable=["batch_stats"],
        )
    logits = logits.astype(jnp.float32)
    targets = None
    if not (is_off(mixup_alpha) and is_off(label_smoothing)):
        targets = mix(jax.nn.one_hot(batch["label"], logits.shape[-1]))
        targets = (1 - label_smoothing) * targets + label_smoothing / logits.shape[-1]
    sums = metric_sums(logits, batch["label"], mask, targets)
    loss = sums["loss_sum"] / sums["count"].astype(jnp.float32)
    return loss, (sums, updates.get("batch_stats", {}))


def train_step(
    state: TrainState,
    batch: Batch,
    rngs: Rngs,
    rate_factor: float | jax.Array = 1.0,
    *,
    ema_decay: float | jax.Array = 0.0,
    freeze: str = "",
    **options: Any,
) -> tuple[TrainState, Sums]:
    """Makes one update of the parameters.

    Args:
        state: its `step` is the number of updates made so far.
        batch: `image` uint8 [B, H, W, C], `label` int32 [B], `mask` bool [B].
        rngs: the run's streams "dropout" and "augment"; the step's own keys are derived here.
        rate_factor: what the learning rate is multiplied with.
        ema_decay: of the running mean of the parameters, where the state keeps one. It is smaller
            in the first steps, so that the initial parameters are soon forgotten:
            https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage
        freeze: patterns of batch statistics that stay, see `optimizer.is_frozen`; `state.tx` keeps
            the parameters. A batch is normalised by its own statistics all the same.
        options: of `loss_fn`.

    Returns:
        The state after the update, and the batch's metric sums from before it.
    """
    keys = {role: jax.random.fold_in(rng, state.step) for role, rng in rngs.items()}
    grad_fn = jax.grad(loss_fn, has_aux=True)
    grads, (sums, batch_stats) = grad_fn(state.params, state, batch, keys, **options)
    batch_stats = jax.tree_util.tree_map_with_path(
        lambda path, old, new: old if is_frozen(path, freeze) else new,
        state.batch_stats,
        batch_stats,
    )
    updates, opt_state = state.tx.update(grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda update: rate_factor * update, updates)
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        batch_stats=batch_stats,
    )
    if state.average:
        step = jnp.float32(state.step)
        decay = jnp.minimum(ema_decay, (1 + step) / (10 + step))
        average = optax.incremental_update(state.variables, state.average, 1 - decay)
        state = state.replace(average=average)
    return state, sums


def eval_logits(
    variables: Variables, apply_fn: Callable[..., jax.Array], images: jax.Array
) -> jax.Array:
    """Returns the logits float32 [B, num_classes] of images float32 [B, H, W, C] in [0, 1].

    Whatever a network was trained in, it is measured and predicts in float32, also on GPUs and
    TPUs, where JAX's own default is less.
    """
    with jax.default_matmul_precision("float32"):
        return apply_fn(variables, images)


def eval_step(variables: Variables, apply_fn: Callable[..., jax.Array], batch: Batch) -> Sums:
    """Returns the metric sums of a batch, without dropout and augmentation."""
    logits = eval_logits(variables, apply_fn, to_float(batch["image"]))
    return metric_sums(logits, batch["label"], batch["mask"])


def run_steps(
    state: TrainState,
    chunk: Batch,
    rngs: Rngs,
    rate_factor: float | jax.Array = 1.0,
    **options: Any,
) -> tuple[TrainState, Sums]:
    """Runs `train_step` over a chunk of batches [k, B, ...]; to be compiled, see `program`.

    Returns:
        The state after k updates, and the metric sums of each step: [k].
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        # `precision` is the network's alone: augmentation and optimizer multiply in float32.
        with jax.default_matmul_precision("float32"):
            return train_step(state, batch, rngs, rate_factor, **options)

    return jax.lax.scan(step, state, chunk)


@functools.partial(jax.jit, static_argnums=1)
def run_eval_steps(variables: Variables, apply_fn: Callable[..., jax.Array], chunk: Batch) -> Sums:
    """Runs `eval_step` over a chunk of batches [k, B, ...]; returns the metric sums, each [k]."""
    return jax.lax.map(lambda batch: eval_step(variables, apply_fn, batch), chunk)


@functools.partial(jax.jit, static_argnums=1)
def run_ensemble_steps(
    variables: tuple[Variables, ...], apply_fns: tuple[Callable[..., jax.Array], ...], chunk: Batch
) -> Sums:
    """Does as `run_eval_steps` for the mean of the probabilities of several networks."""

    def ensemble_step(batch: Batch) -> Sums:
        images = to_float(batch["image"])
        pairs = zip(apply_fns, variables, strict=True)
        logs = [jax.nn.log_softmax(eval_logits(network, fn, images)) for fn, network in pairs]
        mean = jax.nn.logsumexp(jnp.stack(logs), axis=0) - jnp.log(len(logs))
        return metric_sums(mean, batch["label"], batch["mask"])

    return jax.lax.map(ensemble_step, chunk)


def predict_step(
    variables: Variables, apply_fn: Callable[..., jax.Array], images: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Classifies a batch of images: uint8 [B, H, W, C], or float32, scaled to [0, 1] already.

    Returns:
        The class probabilities float32 [B, num_classes], and the classes int32 [B]. The class is
        taken from the logits, as in `eval_step`: rounding can make two probabilities equal.
    """
    images = to_float(images) if images.dtype == jnp.uint8 else images
    logits = eval_logits(variables, apply_fn, images)
    return jax.nn.softmax(logits), jnp.argmax(logits, axis=-1)
