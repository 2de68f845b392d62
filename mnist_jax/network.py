"""A trained network as a function of images."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax.config import Config
from mnist_jax.datasets.arrays import as_bytes, as_pixels
from mnist_jax.datasets.info import DataInfo, unlike
from mnist_jax.exporting.contract import BATCH
from mnist_jax.exporting.reading import read_exported
from mnist_jax.forward import Forward
from mnist_jax.parts import OwnModel
from mnist_jax.state import Variables
from mnist_jax.steps import eval_logits, predict_step, to_float
from mnist_jax.workdir.files import atomic_file
from mnist_jax.workdir.trained import Trained, load_trained, own_splits

CHECKED = 1000  # images compared with the dataset's


class Predictions(NamedTuple):
    """Probabilities float32 [N, num_classes] and the likeliest classes int32 [N]."""

    probabilities: np.ndarray
    classes: np.ndarray


class Network(NamedTuple):
    """A trained network. For an exported file, `variables` is empty, `model` and `config` are None.

    Attributes:
        apply: pure function (variables, images [B, H, W, C], uint8 or float32 in [0, 1]) ->
            (probabilities float32 [B, num_classes], classes int32 [B]); NumPy arrays for an
            exported file, else JAX's.
        variables: parameters and statistics.
        info: facts about the training data.
        batch_size: largest B in `predict`.
    """

    apply: Callable[[Variables, Any], tuple[Any, Any]]
    variables: Variables
    info: DataInfo
    batch_size: int
    model: Any = None
    config: Config | None = None

    def __repr__(self) -> str:
        name = "an exported file" if self.model is None else type(self.model).__name__
        shape, classes = "x".join(map(str, self.info.image_shape)), len(self.info.label_names)
        return f"Network({name}, images {shape}, {classes} classes)"

    def logits(self, images: jax.typing.ArrayLike, variables: Variables | None = None) -> jax.Array:
        """Computes logits, float32 [..., num_classes], under `jit`, `grad` and `vmap` too.

        Args:
            images: uint8, or float in [0, 1], [..., H, W, C].
            variables: replacement for the network's own.

        Raises ValueError for an exported file, which has probabilities only.
        """
        if self.model is None:
            raise ValueError("an exported file has no logits: load the network from its workdir")
        images = jnp.asarray(images)
        batch = to_float(images).reshape(-1, *self.info.image_shape)
        logits = eval_logits(variables or self.variables, Forward(self.model), batch)
        return logits.reshape(*images.shape[:-3], -1)

    def probabilities(
        self, images: jax.typing.ArrayLike, variables: Variables | None = None
    ) -> jax.Array:
        """Computes class probabilities, like `logits`."""
        return jax.nn.softmax(self.logits(images, variables))

    def predict(self, images: Any, *, check: bool = True) -> Predictions:
        """Classifies images, a batch at a time.

        Args:
            images: integers 0 to 255, or floats in [0, 1], of the shape trained on: [N, H, W, C],
                or [N, H, W] with one channel.
            check: True to warn of images unlike the dataset's, such as inverted ones.

        Raises ValueError for other images.
        """
        images = _as_images(images, self.info.image_shape)
        if check and self.info.brightness and len(images):
            some = images[np.linspace(0, len(images) - 1, min(len(images), CHECKED), dtype=int)]
            if problem := unlike(some, self.info.brightness):
                warnings.warn(problem, stacklevel=2)
        # Each batch size compiles a program, so the last batch is padded.
        size = min(self.batch_size, 1 << max(0, len(images) - 1).bit_length())
        probabilities = np.zeros((len(images), len(self.info.label_names)), np.float32)
        classes = np.zeros(len(images), np.int32)
        for first in range(0, len(images), size):
            batch = images[np.arange(first, min(first + size, len(images)))]
            padding = np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)
            outputs = self.apply(self.variables, np.concatenate([batch, padding]))
            for whole, output in zip((probabilities, classes), outputs, strict=True):
                whole[first : first + size] = np.asarray(output)[: len(batch)]
        return Predictions(probabilities, classes)


def load_network(
    workdir: str | Path, step: int | str = "latest", *, model: OwnModel = None
) -> Network:
    """Loads a trained network.

    Args:
        workdir: directory written by `train`, or file written by `export`.
        step: saved step of a workdir, "latest", or "best" by `watch.monitor`.
        model: own module, as in `train`.

    Raises:
        FileNotFoundError: there is no trained network, or no card beside the file.
        ValueError: the step does not exist, the network or the package that reads it cannot be
            loaded, or the model is not the one trained.
    """
    if Path(workdir).is_file():
        return _load_exported(Path(workdir))
    return as_network(load_trained(workdir, step, model=model))


def as_network(trained: Trained) -> Network:
    """Wraps a run's network as a `Network`."""
    apply_fn = trained.apply_fn
    return Network(
        jax.jit(lambda variables, images: predict_step(variables, apply_fn, images)),
        trained.variables,
        trained.info,
        trained.config.batch_size,
        trained.model,
        trained.config,
    )


def predict(
    workdir: str | Path, images: Any, step: int | str = "latest", *, model: OwnModel = None
) -> Predictions:
    """Classifies images by `Network.predict`, with the network of `load_network`.

    Returns (probabilities, classes), float32 [N, num_classes] and int32 [N]. Arguments and errors
    are those of the two.
    """
    return load_network(workdir, step, model=model).predict(images)


def predict_split(
    workdir: str | Path,
    output: Path,
    *,
    split: str = "test",
    step: int | str = "latest",
    model: OwnModel = None,
    splits: Any = None,
) -> tuple[int, ...]:
    """Classifies a split ("test", "validation" or "train") of a run's own dataset into a file.

    It holds probabilities [N, num_classes], whose shape is returned, classes [N], true labels [N]
    and the classes' names. Raises FileNotFoundError without a trained network or the file's
    directory, ValueError if the file is not an .npz or the network is unreadable.
    """
    if output.suffix != ".npz":
        raise ValueError(f"--output must end in .npz, got {output}")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"--output: there is no directory {output.parent}")
    trained = load_trained(workdir, step, model=model, splits=splits)
    parts, label_names = own_splits(trained)
    images, labels = parts[split]
    predictions = as_network(trained).predict(images, check=False)
    with atomic_file(output) as file:
        np.savez(file, **predictions._asdict(), labels=labels, names=np.array(label_names))
    return predictions.probabilities.shape


def _load_exported(path: Path) -> Network:
    classify, info = read_exported(path)

    def apply(_: Variables, images: Any) -> tuple[Any, Any]:
        probabilities = classify(as_bytes(np.asarray(images)))
        return probabilities, probabilities.argmax(axis=-1).astype(np.int32)

    return Network(apply, {}, info, BATCH)


def _as_images(given: Any, image_shape: tuple[int, ...]) -> Any:
    """Returns images [N, H, W, C], uint8 or float32; ValueError for others."""
    images = as_pixels(given)
    if images.shape[1:] == image_shape[:2] and image_shape[2] == 1:
        images = images.reshape(*images.shape, 1)
    if images.shape[1:] != image_shape:
        grey = f" or [N, {image_shape[0]}, {image_shape[1]}]" if image_shape[2] == 1 else ""
        remedy = _remedy(images.shape, image_shape)
        raise ValueError(
            f"images must be [N, {', '.join(map(str, image_shape))}]{grey}, as those trained on, "
            f"got {images.dtype} {list(images.shape)}{remedy and '; '}{remedy}"
        )
    return images


def _remedy(shape: tuple[int, ...], image_shape: tuple[int, ...]) -> str:
    """Suggests a way from a shape to [N, *image_shape], or ""."""
    height, width, channels = image_shape
    size, first, last = (height, width), (channels, height, width), shape[-1:]
    grey = channels == 1
    if shape == image_shape or (grey and shape == size):
        return "a single one needs another axis: images[None]"
    if shape == first:
        return "a single one, its channels first: np.moveaxis(images, 0, -1)[None]"
    if shape[1:] == first:
        return "their channels come first: np.moveaxis(images, 1, -1)"
    if grey and (shape[1:-1] == size or shape[:-1] == size) and last[0] in (3, 4):
        return 'they are in colour: make them grey, as convert("L") of Pillow does'
    if shape in ((*image_shape, *last), (*size, *last)[: 3 if grey else 0]):
        return "they lie along the last axis: np.moveaxis(images, -1, 0)"
    if last == (height * width * channels,) and len(shape) < 3:
        colours = "" if grey else ", where the colours of a pixel lie side by side"
        return (
            f"they are rows of pixels: images.reshape(-1, {height}, {width}, {channels}){colours}"
        )
    if shape[1:] in (size, (*size, 1)):
        return f"they are grey: np.repeat(images.reshape(-1, *{[*size, 1]}), {channels}, axis=-1)"
    if shape[1:] == (*size, 4) and channels == 3:
        return "they have an alpha channel: images[..., :3]"
    if 3 <= len(shape) <= 4 and shape[1:3] != size:
        return f"scale them to {height}x{width}; predict_files does that for image files"
    return ""
