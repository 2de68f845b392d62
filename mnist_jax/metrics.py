"""Metrics as sums, exact over padding, chunks and devices, and their 95 % intervals."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mnist_jax.sharding import target

Sums = dict[str, jax.Array]
Z = 1.959964  # standard deviations that enclose 95 % of a normal distribution
COUNTS = ("correct", "count")  # integer sums
# (logits float [B, C], labels int [B]) -> one number per example, [B]
Metric = Callable[[jax.Array, jax.Array], jax.Array]
# Names in use in histories and results.
TAKEN = ("loss", "accuracy", "count", "correct", "step", "epoch", "seconds", "split")


def check_functions(loss_fn: Any, metrics: Any) -> None:
    """Raises ValueError if a user's loss or metric is not a function, or has a name in use."""
    if loss_fn is not None and not callable(loss_fn):
        raise ValueError(f"loss_fn must be a function (logits, labels) -> [B], got {loss_fn!r}")
    if not isinstance(metrics, Mapping | None):
        raise ValueError(f'metrics must be functions by name, {{"top5": fn}}, got {metrics!r}')
    for name, metric in (metrics or {}).items():
        if not (isinstance(name, str) and name.isidentifier()) or name in TAKEN:
            raise ValueError(
                f"metrics must have names such as top5, and not {', '.join(TAKEN)}, got {name!r}"
            )
        if not callable(metric):
            raise ValueError(f"metric {name!r} must be a function (logits, labels) -> [B]")


def with_hash(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a callable that JAX cannot hash."""
    try:
        hash(function)
    except TypeError:
        return functools.partial(function)
    return function


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the cross-entropy of each example in nats, float [B]; arguments as in `Metric`."""
    if target().platform == "cpu":
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    # Optax gathers the label's logit; the gradient, a scatter, is slow on accelerators. A sum of
    # that logit and zeros is equal up to rounding.
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    own = jnp.sum(logits, axis=-1, where=is_label)
    return jax.nn.logsumexp(logits, axis=-1) - jnp.where(is_label.any(axis=-1), own, jnp.nan)


def metric_sums(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    losses: jax.Array | None = None,
    *,
    metrics: Mapping[str, Metric] | None = None,
) -> Sums:
    """Sums losses, correct answers and metrics over a batch's real examples.

    Args:
        logits: unnormalised log-probabilities, float [B, C].
        labels: int [B], 0 to C - 1.
        mask: bool [B], False for padding.
        losses: losses by example, float [B]; by default the cross-entropy in nats.
        metrics: further metrics by name.

    Returns:
        Scalars: `loss_sum` (float32), `correct` and `count` (int32), and `NAME_sum` (float32) for
        each metric.
    """
    if losses is None:
        losses = cross_entropy(logits, labels)
    sums = {
        "loss_sum": jnp.sum(losses, where=mask),
        "correct": jnp.sum(mask & (jnp.argmax(logits, axis=-1) == labels), dtype=jnp.int32),
        "count": jnp.sum(mask, dtype=jnp.int32),
    }
    for name, metric in (metrics or {}).items():
        values = each_example(f"metric {name!r}", metric(logits, labels), mask)
        sums[f"{name}_sum"] = jnp.sum(values, where=mask)
    return sums


def each_example(what: str, values: Any, mask: jax.Array) -> jax.Array:
    """Returns values as float32 [B]; ValueError unless they are a number per example."""
    shape = getattr(values, "shape", None)
    if shape != mask.shape:
        got = type(values).__name__ if shape is None else f"the shape {[*shape]}"
        raise ValueError(
            f"{what} must return a number for each example, [B], here {[*mask.shape]}, got {got}"
        )
    return values.astype(jnp.float32)


def mean_metrics(sums: Iterable[Sums]) -> dict[str, Any]:
    """Turns results of `metric_sums`, of any shape, into means per example.

    These are `loss`, `accuracy` in [0, 1], and metrics by name (None if not finite). `math.fsum`
    rounds once, so chunk sizes do not matter.
    """
    total = total_sums(sums)
    count = total["count"]
    means = {
        name.removesuffix("_sum"): math.fsum(values) / count if np.isfinite(values).all() else None
        for name, values in total.items()
        if name.endswith("_sum") and name != "loss_sum"
    }
    loss = math.fsum(total["loss_sum"]) / count
    return {"loss": loss, "accuracy": total["correct"] / count, **means}


def total_sums(sums: Iterable[Sums]) -> dict[str, Any]:
    """Turns the sums of many steps into a JSON object with the same means to the bit.

    Only counts are added up; the others stay separate for `mean_metrics`, which rounds once.
    """
    host = jax.device_get(list(sums))
    names = dict.fromkeys(name for each in (("loss_sum", *COUNTS), *host) for name in each)
    by_name = {name: [each[name] for each in host if name in each] for name in names}
    return {
        name: sum(int(np.sum(value)) for value in values)
        if name in COUNTS
        else [float(x) for value in values for x in np.ravel(value)]
        for name, values in by_name.items()
    }


def guessing(labels: np.ndarray, num_classes: int) -> dict[str, float]:
    """Returns the metrics of guessing labels, int [N], without the images.

    `loss` is that of equal probabilities; `accuracy` that of always answering the largest class.
    """
    return {
        "loss": math.log(num_classes),
        "accuracy": int(np.bincount(labels).max()) / len(labels),
    }


def spelled_loss(loss: float | None) -> str:
    """Spells a loss, None if it is not finite."""
    return "not finite" if loss is None else f"{loss:.4f}"


def no_better_than_guessing(
    loss: float | None, accuracy: float, guessed: dict[str, float]
) -> str | None:
    """Describes how a network fails to beat `guessing`; None if it beats it."""
    if accuracy <= guessed["accuracy"]:
        return (
            f"it has learned nothing: test accuracy {accuracy:.2%}, and {guessed['accuracy']:.2%} "
            "by always answering the largest class"
        )
    if "loss" in guessed and (loss is None or loss >= guessed["loss"]):
        own = "not finite" if loss is None else f"{loss:.4g}"
        return (
            f"it is surer than it is right: test accuracy {accuracy:.2%}, but test loss {own}, and "
            f"{guessed['loss']:.4g} by equal probabilities of all classes"
        )
    return None


def mean_and_spread(values: Sequence[Any]) -> dict[str, Any]:
    """Describes numbers of trainings that differ only by their seed, by Student's t.

    The result is `mean`, the sample standard deviation `std` (ddof 1) and `ci95`, the 95 % interval
    [low, high] of the mean. The last two are None for one number; all are if one is None (not
    measured). Student, "The Probable Error of a Mean", Biometrika 6, 1908.
    """
    from scipy.special import stdtrit  # the import takes a tenth of a second

    if None in values:
        return dict.fromkeys(("mean", "std", "ci95"))
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": mean, "std": None, "ci95": None}
    std = float(np.std(values, ddof=1))
    half_width = float(stdtrit(len(values) - 1, 0.975)) * std / math.sqrt(len(values))
    return {"mean": mean, "std": std, "ci95": [mean - half_width, mean + half_width]}


def wilson_interval(successes: int, count: int) -> tuple[float, float]:
    """Returns the 95 % interval, within [0, 1], of a probability, given `successes` of `count`.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of
    the American Statistical Association 22, 1927.
    """
    share, weight = successes / count, Z**2 / count
    middle = (share + weight / 2) / (1 + weight)
    half_width = math.sqrt(weight * share * (1 - share) + weight**2 / 4) / (1 + weight)
    return max(0.0, middle - half_width), min(1.0, middle + half_width)


def paired_interval(only_first: int, only_second: int, count: int) -> tuple[float, float]:
    """Returns the 95 % interval of the difference of two accuracies on the same images.

    It is (low, high) of the second minus the first, as fractions, from the numbers of images that
    `only_first` and `only_second` got right, as in McNemar's test. Half an image is added to each
    of the four counts, to cover 95 % even if few differ: A. Agresti and Y. Min, "Simple improved
    confidence intervals for comparing matched proportions", Statistics in Medicine 24, 2005.
    """
    difference = only_second - only_first
    differing, total = only_first + only_second + 1, count + 2
    half_width = Z * math.sqrt(differing - difference**2 / total) / total
    return difference / total - half_width, difference / total + half_width
