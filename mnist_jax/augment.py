"""Random changes to a batch of training images that keep or mix its labels."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnist_jax.sharding import target

Strength = float | jax.Array

# Append only: a draw's position here is folded into its key.
DRAWS = ("shift", "rotation", "scale", "shear", "elastic", "cutout", "mixup")

MOST_PRODUCTS = 2**26  # numbers (256 MB) between the two products of `warp` on an accelerator


def augment(
    images: jax.Array,
    key: jax.Array,
    *,
    shift: Strength = 0.0,
    rotation: Strength = 0.0,
    scale: Strength = 0.0,
    shear: Strength = 0.0,
    elastic: Strength = 0.0,
    cutout: Strength = 0,
) -> jax.Array:
    """Shifts, rotates, scales, shears and bends each image at random, then blanks a square.

    `warp` does the first five in one resampling. The first four are uniform up to their strength,
    in either direction. Strengths may be traced; the Python number 0 costs nothing.

    Args:
        images: float32 [B, H, W, C] in [0, 1], as is the result.
        key: this step's key.
        shift: largest shift along each axis, in pixels.
        rotation: largest rotation, in degrees.
        scale: largest change of both sides, a fraction below 1.
        shear: largest slant of vertical lines, in degrees, below 90.
        elastic: standard deviation of the displacements along each axis, in pixels, see
            `smooth_noise`. Simard et al. had about 1.4: alpha = 34, times 0.04 after their filter.
        cutout: side of a square set to 0, in pixels. Its centre is any pixel, so it may reach
            outside, as in DeVries and Taylor.

    References:
        P. Simard, D. Steinkraus and J. Platt, "Best Practices for Convolutional Neural Networks
        Applied to Visual Document Analysis", 2003 (affine and elastic).
        T. DeVries and G. Taylor, "Improved Regularization of Convolutional Neural Networks with
        Cutout", 2017.
    """
    count, height, width, _ = images.shape

    def draw(name: str, strength: Strength, *shape: int) -> jax.Array:
        if is_off(strength):
            return jnp.zeros((count, *shape))
        return strength * jax.random.uniform(_key(key, name), (count, *shape), minval=-1, maxval=1)

    if not all(map(is_off, (shift, rotation, scale, shear, elastic))):
        field = jnp.zeros((2, count, height, width))
        if not is_off(elastic):
            field = elastic * smooth_noise(_key(key, "elastic"), count, height, width)
        images = warp(
            images,
            shift=draw("shift", shift, 2),
            angle=jnp.radians(draw("rotation", rotation)),
            factor=1 + draw("scale", scale),
            slant=jnp.radians(draw("shear", shear)),
            field=field,
        )
    if not is_off(cutout):
        sides = jnp.array([[height, width]])
        centre = jax.random.randint(_key(key, "cutout"), (count, 2), 0, sides)
        images = blank(images, centre, cutout)
    return images


def warp(
    images: jax.Array,
    *,
    shift: jax.Array,
    angle: jax.Array,
    factor: jax.Array,
    slant: jax.Array,
    field: jax.Array,
) -> jax.Array:
    """Scales, shears, rotates and shifts each image, in this order, about its centre.

    Pixels are read by bilinear interpolation, with zeros outside the image.

    Args:
        images: float32 [B, H, W, C] in [0, 1], as is the result.
        shift: pixels down and right, [B, 2].
        angle: radians, anticlockwise, [B].
        factor: positive factor, above 1 to enlarge, [B].
        slant: radians; rows below the centre move right, [B].
        field: displacements of the places read, pixels down and right, [2, B, H, W].
    """
    _, height, width, _ = images.shape
    angle, factor, slant, down, right = (
        numbers[:, None, None] for numbers in (angle, factor, slant, shift[:, 0], shift[:, 1])
    )
    # From a result's pixel back to the place read, so the last operation comes first.
    y = jnp.arange(height)[None, :, None] - (height - 1) / 2 - down
    x = jnp.arange(width)[None, None, :] - (width - 1) / 2 - right
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y, x = cos * y + sin * x, cos * x - sin * y
    x = x - jnp.tan(slant) * y
    y = y / factor + (height - 1) / 2 + field[0]
    x = x / factor + (width - 1) / 2 + field[1]

    if target().platform != "cpu" and images.size * max(height, width) <= MOST_PRODUCTS:
        # TPUs read single pixels slowly, but multiply fast, even by zeros.
        weights = [
            jnp.maximum(0, 1 - jnp.abs(place[..., None] - jnp.arange(side).reshape(1, 1, 1, -1)))
            for place, side in ((y, height), (x, width))
        ]
        columns = jnp.einsum("bijh,bhwc->bijwc", weights[0], images, precision="float32")
        return jnp.minimum(
            jnp.einsum("bijw,bijwc->bijc", weights[1], columns, precision="float32"), 1
        )

    def add_corner(total: jax.Array, corner: jax.Array) -> tuple[jax.Array, None]:
        row, column = jnp.floor(y) + corner[0], jnp.floor(x) + corner[1]
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        weight = jnp.where(inside, (1 - jnp.abs(y - row)) * (1 - jnp.abs(x - column)), 0)
        pixels = jax.vmap(lambda image, i, j: image.at[i, j].get(mode="clip"))(
            images, row.astype(jnp.int32), column.astype(jnp.int32)
        )
        return total + weight[..., None] * pixels, None

    # A scan stores its result; XLA's CPU back end would compute it again for each use
    # (`benchmarks/augmentation.py`).
    corners = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    total, _ = lax.scan(add_corner, jnp.zeros_like(images), corners)
    return jnp.minimum(total, 1)  # the rounded weights may sum to more than one


def smooth_noise(key: jax.Array, count: int, height: int, width: int) -> jax.Array:
    """Draws independent smooth fields of mean 0 and variance 1, float32 [2, count, height, width].

    Each is uniform noise under a Gaussian filter, as in Simard et al. 2003; sigma is a seventh of a
    side, 4 pixels of MNIST's 28. For speed the noise has one number per sigma: this changes the
    covariance of two pixels by 1 in 10,000.
    """

    def filters(side: int) -> np.ndarray:
        pixels = (np.arange(side) + 0.5) * 7 / side  # the unit is sigma
        sources = np.arange(-2, 10)  # others have hardly any weight
        weights = np.exp(-((pixels[:, None] - sources[None]) ** 2) / 2)
        # Rows of norm 1 keep the variance.
        return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)

    rows, columns = filters(height), filters(width)
    shape = (2, count, rows.shape[1], columns.shape[1])
    noise = jax.random.uniform(key, shape, minval=-(3**0.5), maxval=3**0.5)  # of variance 1
    return jnp.einsum("yi,dbij,xj->dbyx", rows, noise, columns)


def blank(images: jax.Array, centre: jax.Array, size: Strength) -> jax.Array:
    """Sets a square of `size` pixels a side to 0 in each image [B, H, W, C].

    `centre` holds its row and column, int [B, 2]; with an even size, those after the middle.
    """
    _, height, width, _ = images.shape
    top, left = ((centre[:, axis] - size // 2)[:, None, None, None] for axis in (0, 1))
    row, column = jnp.arange(height)[None, :, None, None], jnp.arange(width)[None, None, :, None]
    inside = (row >= top) & (row < top + size) & (column >= left) & (column < left + size)
    return jnp.where(inside, 0, images)


def mixup(values: jax.Array, mask: jax.Array, key: jax.Array, *, alpha: Strength) -> jax.Array:
    """Mixes each example of a batch with its neighbour.

    Batches are shuffled, so the neighbour is random. Two calls with one key mix images and targets
    alike. Nothing is mixed with padding. A batch has one weight, as in the authors' program.

    Args:
        values: images, or targets (distributions over the classes), float32 [B, ...].
        mask: bool [B], False for padding.
        key: this step's key.
        alpha: parameter of Beta(alpha, alpha), which draws the example's own weight; 0 disables.

    References:
        H. Zhang, M. Cisse, Y. Dauphin and D. Lopez-Paz, "mixup: Beyond Empirical Risk
        Minimization", 2018. https://github.com/facebookresearch/mixup-cifar10
    """
    if is_off(alpha):
        return values
    some = jnp.maximum(alpha, 1e-3)  # Beta(0, 0) gives NaN
    weight = jnp.where(alpha > 0, 1 - jax.random.beta(_key(key, "mixup"), some, some), 0)
    weights = jnp.where(mask & jnp.roll(mask, 1), weight, 0)
    weights = weights.reshape(-1, *[1] * (values.ndim - 1))
    return values + weights * (jnp.roll(values, 1, axis=0) - values)


def is_off(strength: Strength) -> bool:
    """Tells whether a strength is the Python number 0."""
    return isinstance(strength, int | float) and strength == 0


def _key(key: jax.Array, name: str) -> jax.Array:
    return jax.random.fold_in(key, DRAWS.index(name))
