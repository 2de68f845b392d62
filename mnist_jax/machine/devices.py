"""JAX's devices: their kind, and a check of what they compute."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def kinds(devices: Sequence[Any]) -> str:
    """Returns the devices' number and kind: "8 x TPU v5 lite"."""
    return f"{len(devices)} x {devices[0].device_kind}"


def one_line(error: Exception) -> str:
    """Returns an error's message on one line."""
    return " ".join(str(error).split())


def wrong_on(device: Any) -> str:
    """Computes a matrix product and a gradient on a device; returns what is wrong, "" if nothing.

    All numbers are integers that bfloat16 holds exactly, since a TPU rounds factors to it. So the
    device must give exactly NumPy's results.
    """
    rng = np.random.default_rng(0)
    inputs, weights, targets = rng.integers(-1, 2, (3, 16, 16)).astype(np.float32)

    def loss_fn(weights: jax.Array, inputs: jax.Array, targets: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum((inputs @ weights - targets) ** 2)

    try:
        x, w, y = jax.device_put((inputs, weights, targets), device)
        product, gradient = jax.device_get((x @ w, jax.jit(jax.grad(loss_fn))(w, x, y)))
    except RuntimeError as error:
        return one_line(error)
    if not np.array_equal(product, inputs @ weights):
        return "a matrix product is wrong"
    if not np.array_equal(gradient, inputs.T @ (inputs @ weights - targets)):
        return "a gradient is wrong"
    return ""
