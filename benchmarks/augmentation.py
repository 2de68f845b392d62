"""Times `augment.augment`, one change at a time, beside dm_pix and augmax.

    python benchmarks/augmentation.py

Each runs in a compiled loop over steps, on 128 images of MNIST's size: alone, and in training the
reference network, where XLA may repeat a change for each use of its result. A library that is not
installed is reported.
"""

import functools
import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.ndimage import map_coordinates
from machine import alternate, headline
from markdown_table import print_table

from mnist_jax.augment import augment, mixup
from mnist_jax.config import ModelConfig
from mnist_jax.metrics import metric_sums
from mnist_jax.models import create_model

BATCH, SIDE, STEPS, ROUNDS = 128, 28, 20, 9
Change = Callable[[jax.Array, jax.Array], jax.Array]  # images, key -> images


def ours() -> dict[str, Change]:
    """Returns this project's changes by name."""
    affine = {"shift": 2.0, "rotation": 15.0, "scale": 0.15, "shear": 15.0}
    settings = {name: {name: strength} for name, strength in affine.items()}
    settings |= {
        "the four": affine,
        "elastic": {"elastic": 1.4},
        "the five": affine | {"elastic": 1.4},
        "cutout": {"cutout": 8},
    }

    changes: dict[str, Change] = {
        f"ours: {name}": functools.partial(augment, **strengths)
        for name, strengths in settings.items()
    }

    def mix(images: jax.Array, key: jax.Array) -> jax.Array:
        return mixup(images, jnp.ones(BATCH, bool), key, alpha=0.2)

    return {"nothing": lambda images, _: images} | changes | {"ours: mixup": mix}


def by_jax() -> dict[str, Change]:
    """Returns a rotation by JAX's interpolation."""

    def rotate(images, key):
        angle = 0.26 * jax.random.uniform(key, (BATCH, 1, 1), minval=-1, maxval=1)
        y, x = (jnp.arange(SIDE) - (SIDE - 1) / 2 for _ in range(2))
        y, x = y[None, :, None], x[None, None, :]
        rows = jnp.cos(angle) * y + jnp.sin(angle) * x + (SIDE - 1) / 2
        columns = jnp.cos(angle) * x - jnp.sin(angle) * y + (SIDE - 1) / 2
        read = jax.vmap(lambda image, i, j: map_coordinates(image, [i, j], order=1))
        return read(images[..., 0], rows, columns)[..., None]

    return {"jax: map_coordinates": rotate}


def by_dm_pix() -> dict[str, Change]:
    """Returns dm_pix's changes."""
    import dm_pix

    def affine(images, key):
        angle, slant, right, down = jax.random.uniform(key, (4, BATCH), minval=-1, maxval=1)
        cos, sin = jnp.cos(0.26 * angle), jnp.sin(0.26 * angle)
        rows = jnp.stack([cos, sin, -sin, cos + 0.26 * slant], axis=-1).reshape(-1, 2, 2)
        matrices = jnp.zeros((BATCH, 3, 3)).at[:, :2, :2].set(rows).at[:, 2, 2].set(1)
        offsets = jnp.stack([2 * down, 2 * right, jnp.zeros(BATCH)], axis=-1)
        return jax.vmap(
            lambda image, matrix, offset: dm_pix.affine_transform(
                image, matrix, offset=offset, order=1, mode="constant"
            )
        )(images, matrices, offsets)

    def elastic(images, key):
        return jax.vmap(
            lambda image, key: dm_pix.elastic_deformation(key, image, 34.0, 4.0, mode="constant")
        )(images, jax.random.split(key, BATCH))

    return {"dm_pix: affine_transform": affine, "dm_pix: elastic_deformation": elastic}


def by_augmax() -> dict[str, Change]:
    """Returns augmax's changes; it has no shear and no random shift."""
    import augmax

    def change(*transforms) -> Change:
        chain = jax.vmap(augmax.Chain(*transforms))
        return lambda images, key: chain(jax.random.split(key, BATCH), images)

    return {
        "augmax: Rotate": change(augmax.Rotate(15)),
        "augmax: Rotate and Warp": change(augmax.Rotate(15), augmax.Warp(1, 4)),
    }


def alone(change: Change) -> Callable[[jax.Array], jax.Array]:
    """Compiles a loop of the change alone."""

    def step(images, index):
        return change(images, jax.random.fold_in(jax.random.key(0), index)), None

    return jax.jit(lambda images: lax.scan(step, images, jnp.arange(STEPS))[0])


def in_training(change: Change) -> Callable[[jax.Array], jax.Array]:
    """Compiles a loop of plain gradient descent on changed images."""
    model = create_model(num_classes=10, **vars(ModelConfig()))
    params = model.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 1)))["params"]
    labels, mask = jnp.arange(BATCH) % 10, jnp.ones(BATCH, bool)

    def loss(params, images):
        return metric_sums(model.apply({"params": params}, images), labels, mask)["loss_sum"]

    def run(images):
        def step(params, index):
            changed = change(images, jax.random.fold_in(jax.random.key(0), index))
            grads = jax.grad(loss)(params, changed)
            return jax.tree.map(lambda p, g: p - 1e-5 * g, params, grads), None

        return lax.scan(step, params, jnp.arange(STEPS))[0]

    return jax.jit(run)


def main() -> None:
    """Prints a row per change."""
    changes = {}
    for collect in (ours, by_jax, by_dm_pix, by_augmax):
        try:
            changes |= collect()
        except ImportError as error:
            print(f"left out: {error}")

    images = jax.random.uniform(jax.random.key(0), (BATCH, SIDE, SIDE, 1))
    programs = {
        (name, where): functools.partial(where(change), images)
        for name, change in changes.items()
        for where in (alone, in_training)
    }
    times = alternate(programs, ROUNDS, scale=1e3 / STEPS)
    medians = {row: statistics.median(values) for row, values in times.items()}
    rows = [
        {
            "change": name,
            f"alone, ms per batch of {BATCH}": medians[name, alone],
            "in training, ms per step": medians[name, in_training],
            "added": medians[name, in_training] - medians["nothing", in_training],
        }
        for name in changes
    ]
    print_table(rows)
    print(f"\nMedians of {ROUNDS}. {headline()}")


if __name__ == "__main__":
    main()
