import functools
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mnist_jax.augment import augment, mixup, smooth_noise, warp
from mnist_jax.sharding import Target

KEY = jax.random.key(0)
STRENGTHS: dict[str, Any] = {"shift": 2.0, "rotation": 15.0, "scale": 0.15, "shear": 15.0}
STRENGTHS |= {"elastic": 1.0, "cutout": 5}
SHAPE = (500, 28, 28, 1)  # one shape and program for many tests
augment_jit, warp_jit = jax.jit(augment), jax.jit(warp)


def augmented(images: np.ndarray, key: jax.Array = KEY, **strengths: Any) -> np.ndarray:
    """Augments with traced strengths, 0 by default."""
    off = {name: type(strength)(0) for name, strength in STRENGTHS.items()}
    return np.asarray(augment_jit(images, key, **(off | strengths)))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(size=shape).astype(np.float32)


def warped(images: np.ndarray, **moves: float | tuple[float, float]) -> np.ndarray:
    count, height, width, _ = images.shape
    moves = {"shift": (0, 0), "angle": 0, "factor": 1, "slant": 0} | moves
    drawn = {name: np.tile(np.array(m, np.float32), (count, 1)) for name, m in moves.items()}
    drawn = {name: m if name == "shift" else m[:, 0] for name, m in drawn.items()}
    field = np.zeros((2, count, height, width), np.float32)
    return np.asarray(warp_jit(images, field=field, **drawn))


@pytest.mark.parametrize(
    ("moves", "matrix"),
    [
        ({"shift": (2.0, -3.0)}, np.eye(2)),
        ({"shift": (0.25, 0.0)}, np.eye(2)),
        ({"factor": 1.3}, np.eye(2) / 1.3),
        ({"factor": 0.7}, np.eye(2) / 0.7),
        ({"slant": 0.4}, [[1, 0], [-np.tan(0.4), 1]]),
        ({"angle": 0.4}, [[np.cos(0.4), np.sin(0.4)], [-np.sin(0.4), np.cos(0.4)]]),
        (  # scaled, sheared, rotated, then shifted
            {"factor": 1.3, "slant": 0.4, "angle": np.pi / 2, "shift": (1.5, 1.0)},
            [[0, 1 / 1.3], [-1 / 1.3, -np.tan(0.4) / 1.3]],
        ),
    ],
    ids=["moved", "moved in part", "larger", "smaller", "slanted", "turned", "all in order"],
)
def test_warp_agrees_with_scipy(moves, matrix):
    """`matrix` maps a place in the result, relative to the centre, to its source."""
    images = noise(2, 11, 8, 2)
    matrix, centre = np.array(matrix), (np.array(images.shape[1:3]) - 1) / 2
    offset = centre - matrix @ (centre + moves.get("shift", (0, 0)))
    expected = np.empty_like(images)
    for image, channel in np.ndindex(2, 2):
        expected[image, ..., channel] = ndimage.affine_transform(
            images[image, ..., channel], matrix, offset, order=1, mode="grid-constant"
        )
    np.testing.assert_allclose(warped(images, **moves), expected, atol=1e-4)


def blobs(rows: float, columns: float) -> np.ndarray:
    """Draws equal smooth blobs of given standard deviations in the middle of images."""
    place = np.arange(28) - 13.5
    blob = np.exp(-(place[:, None] ** 2 / rows**2 + place[None] ** 2 / columns**2) / 2)
    return np.broadcast_to(blob.astype(np.float32)[None, :, :, None], SHAPE)


def moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pixels = images[..., 0].astype(np.float64)
    places = np.moveaxis(np.indices(SHAPE[1:3]) - 13.5, 0, -1)
    mass = pixels / pixels.sum(axis=(1, 2), keepdims=True)
    centre = np.einsum("byx,yxi->bi", mass, places)
    squares = np.einsum("byx,yxi,yxj->bij", mass, places, places)
    return centre, squares - centre[:, :, None] * centre[:, None]


def assert_uniform(found: np.ndarray, low: float, high: float, slack: float) -> None:
    """Asserts that at least 500 numbers fill the range evenly, and do not leave it."""
    assert low - slack <= found.min() < low + 0.05 * (high - low)
    assert high - 0.05 * (high - low) < found.max() <= high + slack
    shares = np.array([0.25, 0.5, 0.75])
    found_shares = (np.quantile(found, shares) - low) / (high - low)
    np.testing.assert_allclose(found_shares, shares, atol=0.1)


def test_draws_fill_the_stated_ranges():
    round_, long = blobs(2, 2), blobs(4, 1.5)
    shifts, _ = moments(augmented(round_, shift=3.0))
    for axis in (0, 1):
        assert_uniform(shifts[:, axis], -3, 3, slack=0.01)

    _, turned = moments(augmented(long, rotation=20.0))
    angles = np.degrees(np.arctan2(2 * turned[:, 0, 1], turned[:, 0, 0] - turned[:, 1, 1]) / 2)
    assert_uniform(angles, -20, 20, slack=0.3)

    _, sized = moments(augmented(round_, scale=0.3))
    factors = np.sqrt(sized[:, 0, 0]) / 2
    assert_uniform(factors, 0.7, 1.3, slack=0.06)  # interpolation blurs

    _, slanted = moments(augmented(round_, shear=25.0))
    slants = np.degrees(np.arctan(slanted[:, 0, 1] / slanted[:, 0, 0]))
    assert_uniform(slants, -25, 25, slack=0.3)

    independent = np.corrcoef([*shifts.T, angles, factors, slants])
    assert np.abs(independent - np.eye(5)).max() < 0.15


def test_elastic_displacements_are_smooth_and_of_the_stated_size():
    fields = np.asarray(jax.jit(smooth_noise, static_argnums=(1, 2, 3))(KEY, 2000, 28, 28))
    assert fields.shape == (2, 2000, 28, 28)
    np.testing.assert_allclose(fields.std(axis=1), 1, atol=0.06)
    np.testing.assert_allclose(fields.mean(axis=1), 0, atol=0.1)
    # Under a Gaussian filter, pixels d apart have a correlation of exp(-d^2 / 4 sigma^2).
    for axis in (2, 3):
        for distance in (1, 4, 8):
            one, other = (np.take(fields, i, axis=axis).ravel() for i in (14, 14 - distance))
            expected = np.exp(-(distance**2) / 4 / 4**2)
            assert np.corrcoef(one, other)[0, 1] == pytest.approx(expected, abs=0.03)
    # Down and right are independent.
    assert abs(np.corrcoef(fields.reshape(2, -1))[0, 1]) < 0.05


def test_cutout_blanks_a_square_anywhere_and_nothing_else():
    images, size = 0.5 + noise(*SHAPE) / 2, 4
    found = augmented(images, cutout=size)
    blanked = found[..., 0] == 0
    np.testing.assert_array_equal(found[~blanked], images[~blanked])
    assert blanked.any(axis=(0, 1)).all()
    assert blanked.any(axis=(0, 2)).all()
    whole = blanked.sum(axis=(1, 2)) == size**2
    assert whole.mean() == pytest.approx(((28 - size + 1) / 28) ** 2, abs=0.08)


def test_strength_zero_is_the_identity_at_no_cost():
    images, mask = noise(*SHAPE), np.ones(SHAPE[0], bool)
    off = functools.partial(augment, **dict.fromkeys(STRENGTHS, 0))
    assert not jax.make_jaxpr(off)(images, KEY).eqns
    assert not jax.make_jaxpr(functools.partial(mixup, alpha=0))(images, mask, KEY).eqns
    np.testing.assert_array_equal(augmented(images), images)  # traced zeros
    np.testing.assert_array_equal(jax.jit(mixup)(images, mask, KEY, alpha=0.0), images)


def test_python_strengths_give_the_values_of_traced_ones():
    images = noise(*SHAPE)
    few: dict[str, Any] = {"shift": 2.0, "shear": 15.0}
    for some in (STRENGTHS, few):  # the others are skipped
        python = jax.jit(functools.partial(augment, **some))(images, KEY)
        np.testing.assert_allclose(python, augmented(images, **some), atol=1e-4)


def test_vmapped_strengths_agree_with_each_strength_alone():
    images, shifts, cutouts = noise(*SHAPE), np.array([0.0, 3.0], np.float32), np.array([5, 2])
    each = jax.vmap(lambda s, c: augment_jit(images, KEY, shift=s, elastic=s, cutout=c))
    for found, s, c in zip(jax.jit(each)(shifts, cutouts), shifts, cutouts, strict=True):
        expected = augmented(images, shift=float(s), elastic=float(s), cutout=int(c))
        np.testing.assert_allclose(found, expected, atol=1e-4)


MOST = {"shift": 100, "rotation": 360, "scale": 0.99, "shear": 80, "elastic": 50}
ANY = {name: st.floats(0, most) for name, most in MOST.items()} | {"cutout": st.integers(0, 40)}


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([(3, 5, 8, 3), (1, 1, 1, 1)]), st.integers(0, 9999), st.fixed_dictionaries(ANY)
)
def test_augmentation_keeps_shapes_and_values_in_zero_to_one(shape, seed, strengths):
    images = np.round(noise(*shape), 1)  # with ones and zeros among them
    found = augmented(images, jax.random.key(seed), **strengths)
    assert (found.shape, found.dtype) == (shape, np.float32)
    assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_mixup_weights_follow_the_beta_distribution(alpha):
    mix = jax.vmap(lambda key: mixup(jnp.eye(2), jnp.ones(2, bool), key, alpha=alpha)[0, 0])
    weights = jax.jit(mix)(jax.random.split(KEY, 1000))
    assert weights.mean() == pytest.approx(0.5, abs=0.05)
    assert weights.var() == pytest.approx(1 / (8 * alpha + 4), rel=0.1)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_an_accelerator_reads_the_same_pixels_by_products(platform):
    images = jax.random.uniform(jax.random.key(0), (7, 9, 11, 2))
    strengths = {"shift": 2.0, "rotation": 20.0, "scale": 0.2, "shear": 10.0, "elastic": 1.0}
    expected = augment(images, jax.random.key(1), **strengths)
    with mock.patch("mnist_jax.augment.target", return_value=Target(platform, 1)):
        found = augment(images, jax.random.key(1), **strengths)
    assert not jnp.array_equal(expected, images)
    np.testing.assert_allclose(found, expected, atol=2e-6)
