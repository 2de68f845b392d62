"""Applies a trained network to images."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax.loader import eval_chunks
from mnist_jax.models import create_model
from mnist_jax.sharding import create_mesh, replicated, split_batch
from mnist_jax.steps import run_predict_steps
from mnist_jax.workdir import load_trained


class Predictions(NamedTuple):
    """Probabilities float32 [N, num_classes] and the likeliest classes int32 [N]."""

    probabilities: np.ndarray
    classes: np.ndarray


def predict(workdir: str | Path, images: np.ndarray, step: int | str = "latest") -> Predictions:
    """Classifies images.

    Args:
        workdir: a directory that `train` has written.
        images: uint8 [N, H, W, C], of the shape trained on.
        step: a saved step, "latest", or "best" by validation accuracy.

    Returns:
        (probabilities, classes): float32 [N, num_classes] and int32 [N].

    Raises:
        FileNotFoundError: there is no trained network in `workdir`.
        ValueError: it has no such step, cannot be read, or the images do not fit it.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise ValueError(
            "images must be uint8 [N, H, W, C], N at least 1, got "
            f"{images.dtype} {list(images.shape)}"
        )
    mesh = create_mesh()
    trained = load_trained(workdir, step, replicated(mesh))
    model = create_model(**vars(trained.config.model))
    expected = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(images[:1].shape))
    if jax.tree.map(jnp.shape, expected) != jax.tree.map(jnp.shape, trained.variables):
        raise ValueError(
            f"the network in {workdir} was trained on images of another shape than "
            f"{list(images.shape[1:])}"
        )
    on_device = jax.device_put(images, replicated(mesh))
    labels = jnp.zeros(len(images), jnp.int32)  # chunks carry some; here unused
    blocks = []
    for chunk in eval_chunks(
        on_device, labels, batch_size=trained.config.batch_size, sharding=split_batch(mesh)
    ):
        outputs = run_predict_steps(trained.variables, model.apply, chunk["image"])
        mask = np.asarray(chunk["mask"])
        blocks.append([np.asarray(output)[mask] for output in outputs])
    probabilities, classes = map(np.concatenate, zip(*blocks, strict=True))
    return Predictions(probabilities, classes)
