"""The random bits of a seed, which never change: JAX's Threefry, recorded on 2026-11-26."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_jax import rng
from mnist_jax.augment import augment, blank, mixup, smooth_noise, warp
from mnist_jax.loader import epoch_order

# The two words of each role's key, in the order of ROLES.
KEYS = {
    0: "1797259609 2579123966 928981903 3453687069 4146024105 2718843009 2467461003 3840466878",
    1: "507451445 1853169794 1948878966 4237131848 2441914641 3819641963 3568232559 2761185182",
    2**32 - 1: (
        "2973345818 897673333 3461607691 1112781462 3122495753 3444035234 567453946 3439652919"
    ),
}
DRAWN = [3725328165, 2389352394, 1291398195]
ORDERS = ([10, 5, 3, 11, 4, 6, 1, 0, 8, 7, 9, 2], [10, 6, 1, 9, 2, 11, 4, 3, 7, 5, 8, 0])


def words(seed: Any) -> jax.Array:
    return jnp.concatenate([jax.random.key_data(rng.stream(seed, role)) for role in rng.ROLES])


@pytest.mark.parametrize("seed", KEYS)
def test_the_keys_of_all_roles_never_change_however_jax_is_configured(seed):
    """Includes a traced seed, as in `compile_program`."""
    assert rng.ROLES == ("init", "shuffle", "dropout", "augment")
    expected = [*map(int, KEYS[seed].split())]
    assert words(seed).tolist() == jax.jit(words)(np.uint32(seed)).tolist() == expected
    for partitionable in (True, False):
        with jax.default_prng_impl("rbg"), jax.threefry_partitionable(partitionable):
            assert words(seed).tolist() == expected
            assert str(jax.random.key_impl(rng.stream(seed, "init"))) == "threefry2x32"


def test_the_bits_drawn_from_a_key_never_change():
    with jax.threefry_partitionable(True):  # JAX's default since 0.5
        assert jax.random.bits(rng.stream(7, "init"), (3,)).tolist() == DRAWN
        for epoch, order in enumerate(ORDERS):
            assert epoch_order(rng.stream(0, "shuffle"), epoch, 12).tolist() == order


def test_each_augmentation_has_its_own_key_by_its_place(monkeypatch):
    """Compares with an independent `augment`: positions are part of the bits."""
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 9, 8, 1)), jnp.float32)

    def found(key: jax.Array) -> jax.Array:
        strengths = {"shift": 2.0, "rotation": 30.0, "scale": 0.3, "shear": 20.0, "elastic": 0.5}
        return augment(images, key, **strengths, cutout=3)

    def expected(key: jax.Array) -> jax.Array:
        shift, rotation, scale, shear, elastic, cutout = (
            jax.random.fold_in(key, place) for place in range(6)
        )

        def uniform(key: jax.Array, strength: float, *shape: int) -> jax.Array:
            return jax.random.uniform(key, (4, *shape), minval=-strength, maxval=strength)

        warped = warp(
            images,
            shift=uniform(shift, 2.0, 2),
            angle=uniform(rotation, np.pi / 6),
            factor=1 + uniform(scale, 0.3),
            slant=uniform(shear, np.pi / 9),
            field=0.5 * smooth_noise(elastic, 4, 9, 8),
        )
        return blank(warped, jax.random.randint(cutout, (4, 2), 0, jnp.array([[9, 8]])), 3)

    key = jax.random.key(3)
    np.testing.assert_allclose(*jax.jit(lambda key: (found(key), expected(key)))(key), atol=1e-5)

    drawn = []
    monkeypatch.setattr(jax.random, "beta", lambda *args: drawn.append(args) or jnp.float32(0.25))
    mixed = mixup(images, jnp.ones(4, bool), key, alpha=0.5)
    np.testing.assert_allclose(mixed, 0.25 * images + 0.75 * jnp.roll(images, 1, axis=0), atol=1e-6)
    assert drawn == [(jax.random.fold_in(key, 6), 0.5, 0.5)]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_vectorised_key_has_the_same_bits(seed, data):
    key = rng.stream(seed, "dropout")
    other = rng.vectorised(key)
    for derive in (
        lambda key: jax.random.fold_in(key, data),
        lambda key: jax.random.split(key, 3),
        lambda key: jax.random.fold_in(jax.random.fold_in(key, data), 1),
    ):
        ours, theirs = (jax.random.key_data(derive(each)) for each in (other, key))
        assert jnp.array_equal(ours, theirs)
    assert jnp.array_equal(jax.random.bits(key, (5,)), jax.random.bits(other, (5,)))
