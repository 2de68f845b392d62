"""Image files classified by a network, in words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mnist_jax.datasets.image_files import read_image
from mnist_jax.datasets.info import DataInfo
from mnist_jax.handwriting.drawing import Drawing, prepare_drawing, prepare_picture, side_by_side
from mnist_jax.predict import Network
from mnist_jax.workdir.files import atomic_file

UNSURE = 0.5  # the probability below which a class is said with a question mark


class FilePrediction(NamedTuple):
    """A network's answer for an image file.

    Attributes:
        image: The file.
        label: Name of the likeliest class; None if there is nothing to classify.
        probability: The label's.
        runner_up: Name of the second likeliest class.
        runner_up_probability: The runner-up's.
        problem: Reason not to trust the answer; empty if there is none.
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

    See `prepare_drawing` for light drawings on black, such as MNIST's. Any other image is made
    grey or coloured, and scaled.

    Args:
        network: A trained network, from `load_network`.
        paths: Image files of any size.
        show: Whether to write FILE.seen.png beside each file: the image and the network's input.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file is not an image; nothing is written then.
    """
    drawings = [prepare(read_image(path, network.info.ground), network.info) for path in paths]
    images = np.stack([drawing.pixels for drawing in drawings])
    predictions = network.predict(images)
    if show:
        for path, image in zip(paths, images, strict=True):
            with atomic_file(Path(f"{path}.seen.png")) as file:
                side_by_side(read_image(path, network.info.ground), image).save(file, "PNG")
    label_names = network.info.label_names
    return [
        FilePrediction(str(path), **interpret(drawing, probabilities, first, label_names))
        for path, drawing, probabilities, first in zip(paths, drawings, *predictions, strict=True)
    ]


def prepare(picture: Image.Image, info: DataInfo) -> Drawing:
    """Makes a picture look like the images that a network was trained on.

    Args:
        picture: Picture of mode "L" or "RGB", of any size.
        info: Facts about the network's images.

    Raises:
        ValueError: The network's images have neither 1 nor 3 channels.
    """
    if info.drawing_box:
        return prepare_drawing(picture, info.image_shape, info.drawing_box)
    return Drawing(prepare_picture(picture, info.image_shape))


def interpret(
    drawing: Drawing, probabilities: np.ndarray, first: int, label_names: tuple[str, ...]
) -> dict[str, Any]:
    """Puts a network's output into words.

    Args:
        drawing: The network's input, from `prepare`.
        probabilities: Probability of each class, float [num_classes].
        first: The likeliest class.
        label_names: Names of all classes.

    Returns:
        The fields of `FilePrediction` without the file.
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
