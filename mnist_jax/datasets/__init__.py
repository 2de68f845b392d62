"""Datasets of tfds as arrays, read without TensorFlow and kept decoded for the next start."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnist_jax.datasets import cache, prepare
from mnist_jax.datasets.decode import decode, open_split, stream_encoded

LARGEST = 2**20  # classes; more is a slip


class Split(NamedTuple):
    """Images uint8 [N, H, W, C], in memory or `StreamedImages`, and labels int32 [N]."""

    images: Any
    labels: np.ndarray


def load_dataset(
    name: str = "mnist", split: str = "train", data_dir: str | Path | None = None
) -> Split:
    """Loads a split of a tfds dataset into memory, preparing the dataset on first use.

    `mnist` comes with this package and is prepared without a download. Other names work where they
    are prepared already, or where TensorFlow is installed so that tfds can prepare them.

    Args:
        name: a tfds name, with a config and a version where wanted: "emnist/letters:3.1.0".
        split: the split, in tfds's notation: "train", "test", "train[:1000]", "train[80%:]".
        data_dir: tfds's data directory; None for $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Returns:
        (images, labels): uint8 [N, H, W, C] and int32 [N].

    Raises:
        ValueError: the dataset cannot be prepared or read, has no such split, or does not hold
            images of one size with integer labels.
        OSError: the data directory cannot be written.
    """
    decoded = _load(name, split, data_dir)
    return Split(decoded.images, decoded.labels)


def _load(
    name: str, split: str, data_dir: str | Path | None = None, *, stream: bool = False
) -> cache.Decoded:
    prepared = prepare.prepared_dir(name, data_dir)
    decoded = cache.load(prepared, split, stream=stream)
    if decoded:
        return decoded
    source = open_split(prepared, name, split)
    shape, blocks = decode(source)
    if not stream:
        images, labels = map(np.concatenate, zip(*blocks, strict=True))
        cache.save(prepared, split, shape, [(images, labels)], source.label_names)
        return cache.Decoded(images, labels, source.label_names)
    cache.save(prepared, split, shape, blocks, source.label_names)
    decoded = cache.load(prepared, split, stream=True)
    if decoded:
        return decoded
    warnings.warn(
        f"the decoded images of {name!r} find no place in {cache.cache_root()}: every epoch "
        "decodes them anew, which is slow; set XDG_CACHE_HOME to a directory with room",
        stacklevel=2,
    )
    return stream_encoded(source)


def load_splits(
    dataset: str,
    train_split: str,
    test_split: str,
    validation_fraction: float,
    split_seed: int,
    loader: str = "memory",
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Loads the three parts that a recipe uses: "train", "validation" and "test".

    The validation part is the split "validation" of a dataset that was imported with one, unless
    the recipe trains or tests on it. Of any other dataset it is drawn from the training split.

    Args: the fields of `DataConfig`. With the loader "stream", images are `StreamedImages`.

    Returns:
        The splits by name, and the names of the classes. A dataset that gives its classes no names
        has as many as the largest label tells, and their numbers are the names.

    Raises:
        ValueError: as `load_dataset`, or a part is empty, or the images are of several shapes, or a
            label is none of the classes.
    """
    stream = loader == "stream"
    images, labels, label_names = _load(dataset, train_split, stream=stream)
    test = _load(dataset, test_split, stream=stream)
    if _has_validation(dataset, train_split, test_split):
        validation = _load(dataset, "validation", stream=stream)
        splits = {
            "train": Split(images, labels),
            "validation": Split(validation.images, validation.labels),
        }
    else:
        rows = train_validation_split(len(images), validation_fraction, split_seed)
        splits = {
            name: Split(images.take(part) if stream else images[part], labels[part])
            for name, part in zip(("train", "validation"), rows, strict=True)
        }
    splits["test"] = Split(test.images, test.labels)
    for part, split in splits.items():
        if not len(split.labels):
            raise ValueError(
                f"dataset {dataset!r}: {len(labels)} examples in {train_split!r} and a validation "
                f"fraction of {validation_fraction} leave none for {part}"
            )
    for part, split in splits.items():
        if images.shape[1:] != split.images.shape[1:]:
            raise ValueError(
                f"dataset {dataset!r} must hold images of one shape, but those for training are "
                f"{images.shape[1:]} and those for the {part} {split.images.shape[1:]}"
            )
    return splits, _check_labels(splits, label_names)


def _has_validation(dataset: str, train_split: str, test_split: str) -> bool:
    prepared = prepare.prepared_dir(dataset, None)
    is_used = "validation" in train_split + test_split
    return not is_used and prepare.has_imported_validation(prepared)


def _check_labels(splits: dict[str, Split], label_names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names, made of the labels where there are none."""
    for name, split in splits.items():
        if split.labels.min() < 0:
            raise ValueError(
                f"a {name} label is {split.labels.min()}; labels must be 0 or more (is it "
                "unlabelled?)"
            )
    largest = max(int(split.labels.max()) for split in splits.values())
    if largest >= LARGEST:
        raise ValueError(f"labels must be below {LARGEST}, found {largest}")
    label_names = label_names or tuple(map(str, range(largest + 1)))
    if largest >= len(label_names) or len(label_names) < 2:
        raise ValueError(
            f"the largest label is {largest}, of {len(label_names)} classes; labels must be 0 to "
            "the number of classes less one, and there must be 2 classes or more"
        )
    return label_names


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
