"""Named streams of random keys: one root key, one stream per role, one key per step."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import random

ROLES = ("init", "shuffle", "dropout", "augment")  # append only: positions are part of the bits


def stream(seed: int | jax.Array, role: str) -> jax.Array:
    """Returns the key of a role, into which its user folds a step or an epoch.

    Keys are derived, never split in a loop and never stored, so any step can be recomputed from
    `(seed, step)` alone. The generator is named because JAX's default is configurable.

    Args:
        seed: the run's seed, 0 to 2**32 - 1.
        role: one of `ROLES`.

    References:
        https://docs.jax.dev/en/latest/random-numbers.html
    """
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), ROLES.index(role))


def streams(seed: int | jax.Array) -> dict[str, jax.Array]:
    """Returns the keys of all roles, by role."""
    return {role: stream(seed, role) for role in ROLES}


def _fold_in(key: jax.Array, data: Any) -> jax.Array:
    lanes = jnp.arange(8, dtype=jnp.uint32)
    words = random.threefry_2x32(key, jnp.concatenate([0 * lanes, jnp.uint32(data) + lanes]))
    return words[:: len(lanes)]


_vectorised = random.define_prng_impl(
    key_shape=(2,),
    **{name: getattr(random.threefry_prng_impl, name) for name in ("seed", "split", "random_bits")},
    fold_in=_fold_in,
    name="vectorised_threefry2x32",
    tag="vfry",
)


def vectorised(key: jax.Array) -> jax.Array:
    """Returns a key whose `fold_in` has the same bits and computes on vectors.

    JAX's own `fold_in` takes over a hundred scalar operations, which a TPU starts one by one. On
    vectors each is a single operation; the first of the eight derived keys is kept. A key of
    another generator is returned unchanged.
    """
    if str(jax.random.key_impl(key)) != "threefry2x32":
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_vectorised)
