"""The contract of every exported network: uint8 images in, class probabilities out."""

from collections.abc import Callable

import numpy as np

INPUT, OUTPUT = "images", "probabilities"
BATCH = 128  # images per call of a loaded network; larger ones are not faster

Classify = Callable[[np.ndarray], np.ndarray]
"""A function of images, uint8 [N, H, W, C] -> probabilities float32 [N, num_classes]."""


def in_batches(classify: Classify, image_shape: tuple[int, ...]) -> Classify:
    """Extends a function of BATCH images to any number of images.

    Raises ValueError if the function does not map a blank image of this shape, (H, W, C), to
    probabilities. The result raises ValueError for other images.
    """
    if len(image_shape) != 3 or not all(isinstance(size, int) for size in image_shape):
        raise ValueError("its input is not a batch of images")

    def classify_all(images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != image_shape or not len(images):
            raise ValueError(
                f"images must be uint8 [N, {', '.join(map(str, image_shape))}], N at least 1, got "
                f"{images.dtype} {list(images.shape)}"
            )
        # JAX compiles a program for each size.
        padding = np.zeros((-len(images) % BATCH, *image_shape), np.uint8)
        batches = np.concatenate([images, padding]).reshape(-1, BATCH, *image_shape)
        return np.concatenate([classify(batch) for batch in batches])[: len(images)]

    outputs = classify_all(np.zeros((1, *image_shape), np.uint8))
    if outputs.dtype != np.float32 or outputs.ndim != 2 or not abs(outputs.sum() - 1) < 1e-3:
        raise ValueError("its output is not a batch of probabilities")
    return classify_all
