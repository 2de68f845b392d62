"""Named streams of random keys: one root key, one stream a role, one key a step."""

import jax

ROLES = ("init", "shuffle", "dropout", "augment")  # append only: the position is part of the bits


def stream(seed: int | jax.Array, role: str) -> jax.Array:
    """Returns the key of a role; what uses it folds in its own step or epoch.

    Keys are derived, never split in a loop and never stored, so any step can be computed again
    from `(seed, step)` alone. The generator is named because JAX's default can be configured away.

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
