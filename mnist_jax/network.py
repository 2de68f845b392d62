"""A trained network as a function of images, loaded with one call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mnist_jax.datasets.info import DataInfo
from mnist_jax.datasets.streamed import StreamedImages
from mnist_jax.exporting.contract import BATCH
from mnist_jax.exporting.reading import read_exported
from mnist_jax.state import Variables
from mnist_jax.steps import predict_step
from mnist_jax.workdir.trained import Trained, load_trained


class Predictions(NamedTuple):
    """Probabilities float32 [N, num_classes] and the likeliest classes int32 [N]."""

    probabilities: np.ndarray
    classes: np.ndarray


class Network(NamedTuple):
    """A trained network, ready to classify.

    Attributes:
        apply: the pure function under it: (variables, images [B, H, W, C], uint8 or float32 in
            [0, 1]) -> (probabilities float32 [B, num_classes], classes int32 [B]). It is JAX's of a
            workdir, and NumPy's of an exported file.
        variables: what it computes with; an exported file has them inside.
        info: what it has to know of the data that it was trained on.
        batch_size: B, at most, of `predict`.
    """

    apply: Callable[[Variables, Any], tuple[Any, Any]]
    variables: Variables
    info: DataInfo
    batch_size: int

    def predict(self, images: Any) -> Predictions:
        """Classifies images, a batch at a time.

        Args:
            images: [N, H, W, C], or [N, H, W] of one channel, of the shape trained on: integers 0
                to 255, or floats in [0, 1]. Any number of them.

        Raises:
            ValueError: they are something else.
        """
        images = _as_images(images, self.info.image_shape)
        # The last batch is padded; the sizes are few, as each is a program of its own.
        size = min(self.batch_size, 1 << max(0, len(images) - 1).bit_length())
        probabilities = [np.zeros((0, len(self.info.label_names)), np.float32)]
        classes = [np.zeros(0, np.int32)]
        for first in range(0, len(images), size):
            batch = images[np.arange(first, min(first + size, len(images)))]
            padding = np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)
            outputs = self.apply(self.variables, np.concatenate([batch, padding]))
            for found, output in zip((probabilities, classes), outputs, strict=True):
                found.append(np.asarray(output)[: len(batch)])
        return Predictions(np.concatenate(probabilities), np.concatenate(classes))


def load_network(workdir: str | Path, step: int | str = "latest") -> Network:
    """Loads a trained network.

    Args:
        workdir: a directory that `train` has written, or a file that `export` has.
        step: a saved step, "latest", or "best" by validation accuracy; of a workdir.

    Raises:
        FileNotFoundError: there is no trained network, or no card beside the file.
        ValueError: it has no such step, cannot be read, or what reads it is not installed.
    """
    if Path(workdir).is_file():
        return _load_exported(Path(workdir))
    return as_network(load_trained(workdir, step))


def as_network(trained: Trained) -> Network:
    """Makes of what a training gave a function of images."""
    apply_fn: Any = trained.model.apply
    return Network(
        jax.jit(lambda variables, images: predict_step(variables, apply_fn, images)),
        trained.variables,
        trained.info,
        trained.config.batch_size,
    )


def _load_exported(path: Path) -> Network:
    classify, info = read_exported(path)

    def apply(_: Variables, images: Any) -> tuple[Any, Any]:
        images = np.asarray(images)
        if images.dtype != np.uint8:  # an exported network takes nothing else
            images = np.rint(images * np.float32(255)).astype(np.uint8)
        probabilities = classify(images)
        return probabilities, probabilities.argmax(axis=-1).astype(np.int32)

    return Network(apply, {}, info, BATCH)


def _as_images(given: Any, image_shape: tuple[int, ...]) -> Any:
    """Returns images [N, H, W, C], uint8 or float32; ValueError for what is no such thing."""
    images: Any = given
    if not isinstance(given, StreamedImages):
        try:
            images = np.asarray(given)
        except ValueError as error:  # of several lengths
            raise ValueError(f"images must be an array, and of one size: {error}") from error
    if images.shape[1:] == image_shape[:2] and image_shape[2] == 1:
        images = images.reshape(*images.shape, 1)
    found = f"{images.dtype} {list(images.shape)}"
    if images.shape[1:] != image_shape:
        grey = f" or [N, {image_shape[0]}, {image_shape[1]}]" if image_shape[2] == 1 else ""
        raise ValueError(
            f"images must be [N, {', '.join(map(str, image_shape))}]{grey}, as those trained on, "
            f"got {found}; a single one needs another axis: images[None]"
        )
    if images.dtype == np.uint8:
        return images
    if not len(images):
        return images.astype(np.uint8)
    if images.dtype.kind not in "uif":
        raise ValueError(f"images must be integers 0 to 255, or floats 0 to 1, got {found}")
    largest = 1 if images.dtype.kind == "f" else 255
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= largest):  # also where one is not a number
        raise ValueError(
            "images must be integers 0 to 255, or floats 0 to 1, got "
            f"{images.dtype} {low} to {high}"
        )
    return images.astype(np.float32 if largest == 1 else np.uint8)
