"""Classifies arrays of images, and image files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mnist_jax.datasets.image_files import read_image
from mnist_jax.datasets.info import DataInfo
from mnist_jax.handwriting.drawing import Drawing, prepare_drawing, prepare_picture, side_by_side
from mnist_jax.network import Network, Predictions, load_network
from mnist_jax.workdir.files import atomic_file

UNSURE = 0.5  # the probability below which a class is said with a question mark


def predict(workdir: str | Path, images: Any, step: int | str = "latest") -> Predictions:
    """Classifies images, a batch at a time.

    Args:
        workdir: a directory that `train` has written, or a file that `export` has.
        images: [N, H, W, C], or [N, H, W] of one channel, of the shape trained on: integers 0 to
            255, or floats in [0, 1]. Any number of them.
        step: a saved step, "latest", or "best" by validation accuracy.

    Returns:
        (probabilities, classes): float32 [N, num_classes] and int32 [N].

    Raises:
        FileNotFoundError: there is no trained network in `workdir`.
        ValueError: it has no such step, cannot be read, or the images do not fit it.
    """
    return load_network(workdir, step).predict(images)


class FilePrediction(NamedTuple):
    """What a network says of an image file.

    Attributes:
        image: the file.
        label: the name of the likeliest class; None where there is nothing to classify.
        probability: of it.
        runner_up: the name of the class after it.
        runner_up_probability: of that.
        problem: why the answer is not to be trusted; empty where nothing speaks against it.
    """

    image: str
    label: str | None
    probability: float
    runner_up: str | None
    runner_up_probability: float
    problem: str

    def __str__(self) -> str:
        if self.label is None:
            return f"{self.image}: no answer: {self.problem}"
        answers = (
            f"{self.label} ({self.probability:.1%}), "
            f"or {self.runner_up} ({self.runner_up_probability:.1%})"
        )
        return f"{self.image}: {answers}" + (f"; but {self.problem}" if self.problem else "")


def predict_files(
    network: Network, paths: Sequence[str | Path], *, show: bool = False
) -> list[FilePrediction]:
    """Classifies image files, each prepared as the images were that the network was trained on.

    Where those are light drawings on black, such as MNIST's, see `handwriting.prepare_drawing`;
    where not, an image is made grey or coloured, and scaled.

    Args:
        network: see `load_network`.
        paths: image files of any size.
        show: also writes beside each file, as FILE.seen.png, it and what the network is given.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is not an image; nothing is written then.
    """
    drawings = [prepare(read_image(path), network.info) for path in paths]
    images = np.stack([drawing.pixels for drawing in drawings])
    answers = network.predict(images)
    if show:
        for path, image in zip(paths, images, strict=True):
            with atomic_file(Path(f"{path}.seen.png")) as file:
                side_by_side(read_image(path), image).save(file, "PNG")
    rows = zip(paths, drawings, answers.probabilities, answers.classes, strict=True)
    names = network.info.label_names
    return [
        FilePrediction(str(path), **answer(drawing, probabilities, first, names))
        for path, drawing, probabilities, first in rows
    ]


def prepare(picture: Image.Image, info: DataInfo) -> Drawing:
    """Makes of a picture what the images were that a network was trained on.

    Args:
        picture: of mode "L" or "RGB", of any size.
        info: what the network knows of its images.

    Raises:
        ValueError: images of so many channels are no pictures.
    """
    if info.drawing_box:
        return prepare_drawing(picture, info.image_shape, info.drawing_box)
    return Drawing(prepare_picture(picture, info.image_shape))


def answer(
    drawing: Drawing, probabilities: np.ndarray, first: int, label_names: tuple[str, ...]
) -> dict[str, Any]:
    """Says in words what a network has found.

    Args:
        drawing: what the network was given, see `prepare`.
        probabilities: float [num_classes].
        first: the likeliest class.
        label_names: of all classes.

    Returns:
        The fields of `FilePrediction`, but for the file.
    """
    if drawing.blank:
        label, probability, runner_up, runner_up_probability = None, 0.0, None, 0.0
    else:
        second = next(c for c in np.argsort(-probabilities, kind="stable") if c != first)
        label, probability = label_names[first], float(probabilities[first])
        runner_up, runner_up_probability = label_names[second], float(probabilities[second])
    unsure = "the network is not sure" if not drawing.blank and probability < UNSURE else ""
    return {
        "label": label,
        "probability": probability,
        "runner_up": runner_up,
        "runner_up_probability": runner_up_probability,
        "problem": drawing.problem or unsure,
    }
