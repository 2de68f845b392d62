"""The optimizer of a recipe, built from Optax."""

import fnmatch
from typing import Any

import jax
import optax


def create_optimizer(
    name: str,
    learning_rate: float | jax.Array,
    schedule: str,
    warmup: float,
    b1: float,
    b2: float,
    eps: float,
    momentum: float,
    weight_decay: float | jax.Array,
    decay: str,
    clip_norm: float,
    *,
    num_steps: int,
    freeze: str = "",
) -> optax.GradientTransformation:
    """Returns an optimizer with its schedule, weight decay and clipping.

    The arguments are the fields of `config.OptimizerConfig`, the number of updates in the run, and
    patterns for `keep_frozen`. `nadam` decays weights as AdamW does; `sgd` has Nesterov momentum,
    and its decay is part of the gradient. `muon` orthogonalises the updates of kernels
    (convolutions as matrices [kh * kw * C, F]) and leaves the rest to Adam; its authors leave it
    the output layer, too. The default `eps` is Keras's, 1e-7; Optax takes 1e-8.

    References:
        D. P. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", 2015,
        https://arxiv.org/abs/1412.6980
        I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", 2019,
        https://arxiv.org/abs/1711.05101 (adamw).
        T. Dozat, "Incorporating Nesterov Momentum into Adam", 2016 (nadam).
        X. Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023,
        https://arxiv.org/abs/2302.06675 (lion).
        K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
        https://kellerjordan.github.io/posts/muon/
        J. Liu et al., "Muon is Scalable for LLM Training", 2025, https://arxiv.org/abs/2502.16982
        (updates as large as Adam's, so that its learning rates fit).
    """
    shape = rate_schedule(schedule, warmup, num_steps)
    rate = learning_rate if shape is None else lambda step: learning_rate * shape(step)
    mask = _is_kernel if decay == "kernels" else None
    if name == "adam":
        tx = optax.adam(rate, b1=b1, b2=b2, eps=eps)
    elif name == "adamw":
        tx = optax.adamw(rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=mask)
    elif name == "nadam":
        tx = optax.nadamw(rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=mask)
    elif name == "lion":
        tx = optax.lion(rate, b1=b1, b2=b2, weight_decay=weight_decay, mask=mask)
    elif name == "sgd":
        tx = optax.chain(
            optax.add_decayed_weights(weight_decay, mask),
            optax.sgd(rate, momentum=momentum, nesterov=True),
        )
    else:
        tx = optax.contrib.muon(
            rate,
            beta=momentum,
            weight_decay=weight_decay,
            weight_decay_mask=mask,
            adam_b1=b1,
            adam_b2=b2,
            eps=eps,
            adam_weight_decay=weight_decay if decay == "all" else 0.0,
            muon_weight_dimension_numbers=_as_matrices,
            consistent_rms=0.2,
        )
    if clip_norm:
        tx = optax.chain(optax.clip_by_global_norm(clip_norm), tx)
    return keep_frozen(tx, freeze)


def keep_frozen(tx: optax.GradientTransformation, freeze: str) -> optax.GradientTransformation:
    """Returns an optimizer that does not change the parameters that `is_frozen` finds."""
    if not freeze:
        return tx
    return optax.multi_transform(
        {"trained": tx, "frozen": optax.set_to_zero()},
        lambda params: jax.tree_util.tree_map_with_path(
            lambda path, _: "frozen" if is_frozen(path, freeze) else "trained", params
        ),
    )


def rate_schedule(schedule: str, warmup: float, num_steps: int) -> optax.Schedule | None:
    """Returns the learning rate over the steps, relative to the largest; None if it is constant.

    Args:
        schedule: `constant`; `cosine`, down to 0 along half a wave; `exponential`, down to a
            hundredth; or `one_cycle`, up from a 25th for 30 % of the steps, then down to almost 0.
        warmup: fraction of the steps, in [0, 1), in which the rate first rises linearly from 0.
        num_steps: updates in the run.

    References:
        I. Loshchilov and F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017,
        https://arxiv.org/abs/1608.03983 (cosine).
        L. N. Smith and N. Topin, "Super-Convergence: Very Fast Training of Neural Networks Using
        Large Learning Rates", 2017, https://arxiv.org/abs/1708.07120 (one cycle).
        P. Goyal et al., "Accurate, Large Minibatch SGD", 2017, https://arxiv.org/abs/1706.02677
        (warm-up).
    """
    warmup_steps = round(warmup * num_steps)
    if schedule == "constant" and not warmup_steps:
        return None
    after = max(1, num_steps - warmup_steps)
    shape = {
        "constant": optax.constant_schedule(1.0),
        "cosine": optax.cosine_decay_schedule(1.0, after),
        "exponential": optax.exponential_decay(1.0, after, 0.01),
        "one_cycle": optax.cosine_onecycle_schedule(after, 1.0),
    }[schedule]
    if not warmup_steps:
        return shape
    return optax.join_schedules(
        [optax.linear_schedule(0.0, 1.0, warmup_steps), shape], [warmup_steps]
    )


def is_frozen(path: tuple[Any, ...], freeze: str) -> bool:
    """Tells whether the parameter at a path of `jax.tree_util` matches a pattern.

    These are shell patterns, separated by commas, of parameters (`*/bias`) or layers (`conv*`).
    """
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    patterns = [pattern.strip() for pattern in freeze.split(",") if freeze]
    return any(
        fnmatch.fnmatchcase(name, glob)
        for pattern in patterns
        for glob in (pattern, f"{pattern}/*")
    )


def _is_kernel(params: Any) -> Any:
    """Marks kernels by name: a position embedding has three axes, too."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _as_matrices(params: Any) -> Any:
    """Describes kernels to Muon: all axes except the last are inputs."""

    def matrix(is_kernel: bool, x: jax.Array) -> Any:
        axes = tuple(range(x.ndim - 1))
        return optax.contrib.MuonDimensionNumbers(axes, x.ndim - 1) if is_kernel else None

    return jax.tree.map(matrix, _is_kernel(params), params)
