"""The devices that JAX has: what they are, and whether they compute rightly."""

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def kinds(devices: Sequence[Any]) -> str:
    """Returns how many there are of which kind: "8 x TPU v5 lite"."""
    return f"{len(devices)} x {devices[0].device_kind}"


def memory(device: Any) -> int:
    """Returns how many bytes JAX may use on a device; 0 where it does not tell."""
    with contextlib.suppress(RuntimeError, NotImplementedError):
        return (device.memory_stats() or {}).get("bytes_limit", 0)
    return 0


def wrong_on(device: Any) -> str:
    """Computes a matrix product and a gradient on a device, and says what is wrong; "" if nothing.

    The numbers are whole, and so small that bfloat16 holds each of them: a TPU rounds what it
    multiplies to that. So the device must give exactly what NumPy gives.
    """
    rng = np.random.default_rng(0)
    inputs, weights, targets = rng.integers(-1, 2, (3, 16, 16)).astype(np.float32)

    def loss_fn(weights: jax.Array, inputs: jax.Array, targets: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum((inputs @ weights - targets) ** 2)

    try:
        x, w, y = jax.device_put((inputs, weights, targets), device)
        product, gradient = jax.device_get((x @ w, jax.jit(jax.grad(loss_fn))(w, x, y)))
    except RuntimeError as error:
        return " ".join(str(error).split())
    if not np.array_equal(product, inputs @ weights):
        return "a matrix product is wrong"
    if not np.array_equal(gradient, inputs.T @ (inputs @ weights - targets)):
        return "a gradient is wrong"
    return ""
