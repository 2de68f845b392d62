"""Random keys: one root, one stream per role, one key per step."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import random

ROLES = ("init", "shuffle", "dropout", "augment")  # append only: keys depend on positions


def stream(seed: int | jax.Array, role: str) -> jax.Array:
    """Returns the key of a role, to fold a step or an epoch into.

    Keys are derived, never split in a loop nor stored, so `(seed, step)` alone determines a step.
    JAX's default generator is configurable, so this one is named.

    Args:
        seed: seed of the run, 0 to 2**32 - 1.
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
    """Returns a key whose `fold_in` has the same bits, but computes on vectors.

    A TPU starts the hundred scalar operations of JAX's own `fold_in` one by one; this derives
    eight keys at once, and keeps the first. Keys of other generators stay unchanged.
    """
    if str(jax.random.key_impl(key)) != "threefry2x32":
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_vectorised)
