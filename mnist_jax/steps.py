"""The steps: pure functions of state and batch, and loops of many in one program."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
import optax
from flax.core import FrozenDict
from jax.core import Tracer

from mnist_jax import rng
from mnist_jax.augment import augment, is_off, mixup
from mnist_jax.metrics import (
    Metric,
    Sums,
    check_functions,
    cross_entropy,
    each_example,
    metric_sums,
)
from mnist_jax.optimizer import is_frozen
from mnist_jax.sharding import target
from mnist_jax.state import TrainState, Variables

Batch = dict[str, jax.Array]
Rngs = dict[str, jax.Array]
Params = Any
Number = float | jax.Array
# (logits float [B, C], labels int [B]) -> the loss of each example, [B]; an argument named `params`
# receives the parameters.
LossFn = Callable[..., jax.Array]


class LossOptions(TypedDict, total=False):
    """The options of a batch's loss; numbers may be traced.

    Attributes:
        loss_fn: loss of each example; by default the cross-entropy.
        metrics: further functions of logits and labels to sum, by name.
        precision: precision of the network's products, `float32`, `tensorfloat32` or `bfloat16`
            (factors too), see https://docs.jax.dev/en/latest/jax.lax.html#jax.lax.Precision.
        label_smoothing: fraction of each label spread over all classes.
        mixup_alpha: alpha of `augment.mixup`.
        shift, rotation, scale, shear, elastic, cutout: strengths of `augment.augment`.
    """

    loss_fn: LossFn
    metrics: Mapping[str, Metric]
    precision: str
    label_smoothing: Number
    mixup_alpha: Number
    shift: Number
    rotation: Number
    scale: Number
    shear: Number
    elastic: Number
    cutout: Number


class StepOptions(LossOptions, total=False):
    """The options of a training step.

    Attributes:
        ema_decay: decay of the parameters' running mean, if the state keeps one. It is smaller in
            the first steps, to forget the initial parameters soon:
            https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage
        freeze: patterns of running batch statistics to keep, see `optimizer.is_frozen`; `state.tx`
            freezes the parameters. A batch is still normalised by its own statistics.
    """

    ema_decay: Number
    freeze: str


PRECISIONS = ("float32", "tensorfloat32", "bfloat16")


def check_options(function: str, options: Mapping[str, Any]) -> None:
    """Raises TypeError for an option that `StepOptions` lacks, ValueError for an invalid one."""
    for name in options:
        if name not in StepOptions.__annotations__:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
    if options.get("precision", "float32") not in PRECISIONS:
        raise ValueError(
            f"precision must be one of {', '.join(PRECISIONS)}, got {options['precision']!r}"
        )
    check_functions(options.get("loss_fn"), options.get("metrics"))
    if options.get("loss_fn", cross_entropy) is not cross_entropy:
        for name in ("label_smoothing", "mixup_alpha"):
            if not is_off(options.get(name, 0.0)):
                raise ValueError(
                    f"{name} must be 0 with an own loss_fn, which takes integer labels"
                )


def to_float(images: Any) -> jax.Array:
    """Scales uint8 images to float32 in [0, 1]; keeps floats, which must be in [0, 1].

    Raises ValueError for other types, and for floats out of range unless they are traced.
    """
    if images.dtype == jnp.uint8:
        return jnp.asarray(images).astype(jnp.float32) / 255.0
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be uint8, or float in [0, 1], got {images.dtype}")
    if not isinstance(images, Tracer) and not ((images >= 0) & (images <= 1)).all():
        raise ValueError(
            f"images of {images.dtype} must be in [0, 1], got {images.min()} to {images.max()}"
        )
    return jnp.asarray(images).astype(jnp.float32)


def batch_loss(
    params: Params, state: TrainState, batch: Batch, keys: Rngs, **options: Unpack[LossOptions]
) -> tuple[jax.Array, tuple[Sums, Any]]:
    """Computes a batch's loss as a function of `params`, given the step's keys by role.

    Returns the mean loss of the real examples, then their metric sums and the new collections.
    """
    strengths: dict[str, Any] = {**options}
    loss_fn = strengths.pop("loss_fn", cross_entropy)
    metrics = strengths.pop("metrics", None)
    precision = strengths.pop("precision", "float32")
    label_smoothing = strengths.pop("label_smoothing", 0.0)
    mixup_alpha = strengths.pop("mixup_alpha", 0.0)
    labels, mask = batch["label"], batch["mask"]
    step_key = keys["dropout"]
    if target().platform == "tpu":
        model = type(getattr(state.apply_fn, "model", None))
        # An own module may store its key, or combine it with one of JAX's type.
        ours = model.__module__.startswith("mnist_jax.models.")
        roles = ("augment", "dropout") if ours else ("augment",)
        keys = keys | {role: rng.vectorised(keys[role]) for role in roles}
    images = augment(to_float(batch["image"]), keys["augment"], **strengths)
    mix = functools.partial(mixup, mask=mask, key=keys["augment"], alpha=mixup_alpha)
    rounded, inputs = params, mix(images)
    if precision == "bfloat16":
        # Rounding inside the loss leaves the gradients in float32.
        rounded, inputs = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (rounded, inputs))
    # Flax draws other streams from `params`, JAX's own key, because a module may keep it.
    rngs = {"dropout": keys["dropout"], "params": jax.random.fold_in(step_key, 1)}
    with jax.default_matmul_precision(precision):
        logits, collections = state.apply_fn(
            {"params": rounded, **state.collections},
            inputs,
            train=True,
            mask=mask,
            rngs=rngs,
            mutable=list(state.collections),
        )
    logits = logits.astype(jnp.float32)
    if is_off(mixup_alpha) and is_off(label_smoothing):
        losses = example_losses(loss_fn, logits, labels, mask, params)
    else:
        targets = mix(jax.nn.one_hot(labels, logits.shape[-1]))
        targets = (1 - label_smoothing) * targets + label_smoothing / logits.shape[-1]
        losses = optax.softmax_cross_entropy(logits, targets)
    sums = metric_sums(logits, labels, mask, losses, metrics=metrics)
    loss = sums["loss_sum"] / sums["count"].astype(jnp.float32)
    return loss, (sums, dict(collections))


def example_losses(
    loss_fn: LossFn, logits: jax.Array, labels: jax.Array, mask: jax.Array, params: Params
) -> jax.Array:
    """Computes the losses of a `LossFn`, float32 [B]; ValueError if it returns others."""
    extra = {"params": params} if "params" in inspect.signature(loss_fn).parameters else {}
    return each_example("loss_fn", loss_fn(logits, labels, **extra), mask)


def train_step(
    state: TrainState,
    batch: Batch,
    rngs: Rngs,
    rate_factor: Number = 1.0,
    **options: Unpack[StepOptions],
) -> tuple[TrainState, Sums]:
    """Makes one update of the parameters.

    Args:
        state: state, whose `step` counts the updates so far.
        batch: `image` uint8 (or float in [0, 1]) [B, H, W, C], `label` int32 [B], `mask` bool [B].
        rngs: streams "dropout" and "augment" of the run, into which the step is folded.
        rate_factor: factor of the learning rate.
        **options: options of `StepOptions`.

    Returns:
        The state after the update; the batch's metric sums and gradient norm before it.
    """
    check_options("train_step", options)
    keys = {role: jax.random.fold_in(stream, state.step) for role, stream in rngs.items()}
    return update(state, batch, keys, rate_factor, **options)


def update(
    state: TrainState,
    batch: Batch,
    keys: Rngs,
    rate_factor: Number = 1.0,
    **options: Unpack[StepOptions],
) -> tuple[TrainState, Sums]:
    """Makes one update like `train_step`, given the step's keys by role."""
    loss_options: Any = {**options}
    ema_decay, freeze = loss_options.pop("ema_decay", 0.0), loss_options.pop("freeze", "")
    loss_fn = functools.partial(batch_loss, state=state, batch=batch, keys=keys, **loss_options)
    (loss, (sums, collections)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    collections = jax.tree_util.tree_map_with_path(
        lambda path, old, new: old if is_frozen(path[1:], freeze) else new,
        state.collections,
        collections,
    )
    # Optimizers that search along a line take the last three; others ignore them.
    updates, opt_state = optax.with_extra_args_support(state.tx).update(
        grads,
        state.opt_state,
        state.params,
        value=loss,
        grad=grads,
        value_fn=lambda params: loss_fn(params)[0],
    )
    updates = jax.tree.map(lambda update: rate_factor * update, updates)
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        collections=collections,
    )
    if state.average:
        step = jnp.float32(state.step)
        decay = jnp.minimum(ema_decay, (1 + step) / (10 + step))

        def moved(mean: jax.Array, now: jax.Array) -> jax.Array:
            if not jnp.issubdtype(now.dtype, jnp.inexact):
                return now  # counters and random keys have no mean
            new: Any = optax.incremental_update(now, mean, 1 - decay)
            return new.astype(now.dtype)

        state = state.replace(average=jax.tree.map(moved, state.average, state.variables))
    # `optax.inject_hyperparams` keeps the learning rate in its state.
    held = optax.tree_utils.tree_get_all_with_path(opt_state, "learning_rate")
    rate = {"learning_rate": jnp.float32(held[0][1])} if held else {}
    return state, sums | {"gradient_norm": norm(grads), **rate}


def norm(tree: Any) -> jax.Array:
    """Computes the Euclidean norm of all numbers of a tree."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def eval_logits(
    variables: Variables, apply_fn: Callable[..., jax.Array], images: jax.Array
) -> jax.Array:
    """Computes the logits float32 [B, num_classes] of images float32 [B, H, W, C] in [0, 1].

    Products are in float32, also on GPUs and TPUs, where JAX's default is lower.
    """
    with jax.default_matmul_precision("float32"):
        return apply_fn(variables, images).astype(jnp.float32)


def eval_step(
    variables: Variables,
    apply_fn: Callable[..., jax.Array],
    batch: Batch,
    *,
    loss_fn: LossFn = cross_entropy,
    metrics: Mapping[str, Metric] | None = None,
) -> Sums:
    """Computes the metric sums of a batch, without dropout and augmentation."""
    logits = eval_logits(variables, apply_fn, to_float(batch["image"]))
    labels, mask = batch["label"], batch["mask"]
    losses = example_losses(loss_fn, logits, labels, mask, variables["params"])
    return metric_sums(logits, labels, mask, losses, metrics=metrics)


def run_steps(
    state: TrainState,
    chunk: Batch,
    rngs: Rngs,
    rate_factor: Number = 1.0,
    **options: Unpack[StepOptions],
) -> tuple[TrainState, Sums]:
    """Runs `train_step` over a chunk of batches [k, B, ...].

    Returns:
        The state after k updates, and the metric sums of each step, [k].
    """
    check_options("run_steps", options)

    def step(state: TrainState, own: tuple[Batch, Rngs]) -> tuple[TrainState, Sums]:
        # `precision` is the network's only: augmentation and optimizer multiply in float32.
        with jax.default_matmul_precision("float32"):
            return update(state, *own, rate_factor, **options)

    # Inside the loop, each key would take a TPU hundreds of scalar operations.
    numbers = state.step + jnp.arange(len(chunk["mask"]), dtype=jnp.int32)
    derive = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    keys = {role: derive(stream, numbers) for role, stream in rngs.items()}
    return jax.lax.scan(step, state, (chunk, keys))


@functools.partial(jax.jit, static_argnums=1, static_argnames=("loss_fn", "metrics"))
def run_eval_steps(
    variables: Variables,
    apply_fn: Callable[..., jax.Array],
    chunk: Batch,
    *,
    loss_fn: LossFn = cross_entropy,
    metrics: FrozenDict[str, Metric] | None = None,
) -> Sums:
    """Runs `eval_step` over a chunk of batches [k, B, ...]: the metric sums, each [k]."""
    measure = functools.partial(eval_step, loss_fn=loss_fn, metrics=metrics)
    return jax.lax.map(lambda batch: measure(variables, apply_fn, batch), chunk)


@functools.partial(jax.jit, static_argnums=1, static_argnames=("loss_fn", "metrics"))
def run_ensemble_steps(
    variables: tuple[Variables, ...],
    apply_fns: tuple[Callable[..., jax.Array], ...],
    chunk: Batch,
    *,
    loss_fn: LossFn = cross_entropy,
    metrics: FrozenDict[str, Metric] | None = None,
) -> Sums:
    """Evaluates an ensemble, whose logits are the logarithms of its mean probabilities.

    Otherwise it is like `run_eval_steps`, but `loss_fn` receives no `params`.
    """

    def ensemble_step(batch: Batch) -> Sums:
        images = to_float(batch["image"])
        pairs = zip(apply_fns, variables, strict=True)
        logs = [jax.nn.log_softmax(eval_logits(network, fn, images)) for fn, network in pairs]
        mean = jax.nn.logsumexp(jnp.stack(logs), axis=0) - jnp.log(len(logs))
        labels, mask = batch["label"], batch["mask"]
        losses = each_example("loss_fn", loss_fn(mean, labels), mask)
        return metric_sums(mean, labels, mask, losses, metrics=metrics)

    return jax.lax.map(ensemble_step, chunk)


def predict_step(
    variables: Variables, apply_fn: Callable[..., jax.Array], images: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Classifies a batch of images [B, H, W, C], uint8 or float32 in [0, 1].

    Returns:
        Probabilities float32 [B, num_classes], and classes int32 [B], by the logits, since
        rounding can make probabilities equal.
    """
    logits = eval_logits(variables, apply_fn, to_float(images))
    return jax.nn.softmax(logits), jnp.argmax(logits, axis=-1)
