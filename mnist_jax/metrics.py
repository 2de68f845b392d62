"""Metrics as sums: exact over a ragged last batch, over chunks and over devices."""

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Sums = dict[str, jax.Array]


def metric_sums(
    logits: jax.Array, labels: jax.Array, mask: jax.Array, targets: jax.Array | None = None
) -> Sums:
    """Sums the cross-entropy and the right answers of a batch's real examples.

    Args:
        logits: float [B, C], unnormalised log-probabilities.
        labels: int [B], 0 to C - 1.
        mask: bool [B], False for padding.
        targets: float [B, C], probabilities that the cross-entropy takes in place of the labels.

    Returns:
        `loss_sum` in nats (float32), `correct` and `count` (int32), each a scalar.
    """
    if targets is None:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    else:
        losses = optax.softmax_cross_entropy(logits, targets)
    return {
        "loss_sum": jnp.sum(losses, where=mask),
        "correct": jnp.sum(mask & (jnp.argmax(logits, axis=-1) == labels), dtype=jnp.int32),
        "count": jnp.sum(mask, dtype=jnp.int32),
    }


def mean_metrics(sums: Iterable[Sums]) -> dict[str, float]:
    """Turns the sums of many steps into the mean loss and the accuracy.

    `math.fsum` rounds once, so the result does not depend on how the steps were cut into chunks.

    Args:
        sums: results of `metric_sums`, each leaf of any shape.

    Returns:
        `loss` in nats an example and `accuracy` in [0, 1].
    """
    total = total_sums(sums)
    loss_sum, correct, count = math.fsum(total["loss_sum"]), total["correct"], total["count"]
    return {"loss": loss_sum / count, "accuracy": correct / count}


def total_sums(sums: Iterable[Sums]) -> dict[str, Any]:
    """Turns the sums of many steps into one that JSON can hold, with the same means to the bit.

    The losses stay apart, a number a step, because `mean_metrics` rounds their sum once.
    """
    host = jax.device_get(list(sums))
    return {
        "loss_sum": [float(x) for s in host for x in np.ravel(s["loss_sum"])],
        "correct": sum(int(np.sum(s["correct"])) for s in host),
        "count": sum(int(np.sum(s["count"])) for s in host),
    }
