"""Datasets of tfds as arrays, read without TensorFlow and kept decoded for the next start."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnist_jax.datasets import cache, prepare


class Split(NamedTuple):
    """Images uint8 [N, H, W, C] and labels int32 [N]."""

    images: np.ndarray
    labels: np.ndarray


def load_dataset(
    name: str = "mnist", split: str = "train", data_dir: str | Path | None = None
) -> Split:
    """Loads a split of a tfds dataset into memory, preparing the dataset on first use.

    `mnist` comes with this package and is prepared without a download. Other names work where they
    are prepared already, or where TensorFlow is installed so that tfds can prepare them.

    Args:
        name: a tfds name, with a config and a version where wanted: "emnist/letters:3.1.0".
        split: in tfds's notation: "train", "test", "train[:1000]", "train[80%:]".
        data_dir: where tfds keeps datasets; None for $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Returns:
        (images, labels): uint8 [N, H, W, C] and int32 [N].

    Raises:
        ValueError: the dataset cannot be prepared or read, has no such split, or does not hold
            images of one size with integer labels.
        OSError: the data directory cannot be written.
    """
    prepared = prepare.prepared_dir(name, data_dir)
    arrays = cache.load(prepared, split)
    if arrays is None:
        arrays = _read_split(prepared, name, split)
        cache.save(prepared, split, arrays)
    return Split(*arrays)


def _read_split(prepared: Path, name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow_datasets as tfds  # slow, and not needed where the arrays are cached

    builder: Any = tfds.builder_from_directory(prepared)
    keys = builder.info.supervised_keys or ("image", "label")
    try:
        source = builder.as_data_source(split)
    except NotImplementedError:  # prepared as tfrecord, which only TensorFlow reads
        source = prepare.read_with_tensorflow(builder, name, split)
    except Exception as error:
        raise ValueError(
            f"dataset {name!r} cannot give the split {split!r} (it has "
            f"{', '.join(builder.info.splits)}), or {prepared} is damaged and should be deleted: "
            f"{error}"
        ) from error
    images, labels = [], []
    try:
        for example in source:
            images.append(example[keys[0]])
            labels.append(example[keys[1]])
        pixels = np.stack(images) if images else np.zeros((0, 0, 0, 0), np.uint8)
    except Exception as error:
        raise ValueError(f"dataset {name!r} in {prepared} cannot be read: {error}") from error
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise ValueError(
            f"dataset {name!r} must hold uint8 images [H, W, C] with labels, found "
            f"{pixels.dtype} {pixels.shape[1:]}"
        )
    return pixels, np.asarray(labels, np.int32)


def load_splits(
    dataset: str, train_split: str, test_split: str, validation_fraction: float, split_seed: int
) -> dict[str, Split]:
    """Loads the three parts that a recipe uses: "train", "validation" and "test".

    Args: the fields of `DataConfig`.

    Raises:
        ValueError: as `load_dataset`, or a part is empty, or the images are of several shapes.
    """
    images, labels = load_dataset(dataset, train_split)
    train, validation = train_validation_split(len(images), validation_fraction, split_seed)
    splits = {
        "train": Split(images[train], labels[train]),
        "validation": Split(images[validation], labels[validation]),
        "test": load_dataset(dataset, test_split),
    }
    shapes = {split.images.shape[1:] for split in splits.values()}
    if len(shapes) > 1 or not all(len(split.labels) for split in splits.values()):
        found = ", ".join(f"{name} {split.images.shape}" for name, split in splits.items())
        raise ValueError(f"dataset {dataset!r} must give images of one shape, got {found}")
    return splits


def train_validation_split(
    num_examples: int, validation_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the training and the validation examples.

    The same indices in the same order as scikit-learn's
    `train_test_split(test_size=validation_fraction, random_state=seed)`: a permutation, its first
    part for validation, the rest for training.

    Returns:
        (train, validation), int [n] each.

    References:
        https://scikit-learn.org/stable/modules/generated/sklearn.model_selection.train_test_split.html
    """
    order = np.random.RandomState(seed).permutation(num_examples)
    num_validation = int(np.ceil(validation_fraction * num_examples))
    return order[num_validation:], order[:num_validation]
