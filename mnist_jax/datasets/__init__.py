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

    try:
        builder: Any = tfds.builder_from_directory(prepared)
    except Exception as error:
        raise _damaged(name, prepared, error) from error
    image_key, label_key = builder.info.supervised_keys or ("image", "label")
    try:
        _check_slices(split, builder.info.splits)
        source = builder.as_data_source(split)
    except NotImplementedError:  # prepared as tfrecord, which only TensorFlow reads
        source = prepare.read_with_tensorflow(builder, name, split)
    except Exception as error:
        raise ValueError(
            f"dataset {name!r} cannot give the split {split!r} (it has "
            f"{', '.join(builder.info.splits)}): {error}"
        ) from error
    try:
        examples = [(example[image_key], example[label_key]) for example in source]
    except Exception as error:
        raise _damaged(name, prepared, error) from error
    if len({np.shape(image) for image, _ in examples}) != 1:
        raise ValueError(
            f"dataset {name!r} must hold images of one size, one or more, in {split!r}"
        )
    images, labels = map(np.stack, zip(*examples, strict=True))
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4:
        found = f"{images.dtype} {images.shape[1:]}"
        raise ValueError(f"dataset {name!r} must hold uint8 images [H, W, C], found {found}")
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        found = f"{labels.dtype} {labels.shape[1:]}"
        raise ValueError(f"dataset {name!r} must hold one integer label an image, found {found}")
    return images, labels.astype(np.int32)


def _check_slices(split: str, splits: Any) -> None:
    """Raises ValueError for a slice that ends before it begins: tfds would take far too much."""
    import tensorflow_datasets as tfds

    for part in tfds.core.ReadInstruction.from_spec(split).to_absolute(splits):
        if None not in (part.from_, part.to) and part.from_ > part.to:
            raise ValueError(f"it would begin at {part.from_} and end at {part.to}")


def _damaged(name: str, prepared: Path, error: Exception) -> ValueError:
    return ValueError(
        f"dataset {name!r} cannot be read: {error}; delete {prepared} and it is prepared anew"
    )


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
    for part, split in splits.items():
        if not len(split.labels):
            raise ValueError(
                f"dataset {dataset!r}: {len(labels)} examples in {train_split!r} and a validation "
                f"fraction of {validation_fraction} leave none for {part}"
            )
    if images.shape[1:] != splits["test"].images.shape[1:]:
        raise ValueError(
            f"dataset {dataset!r} must hold images of one shape, but those for training are "
            f"{images.shape[1:]} and those for the test {splits['test'].images.shape[1:]}"
        )
    return splits


def check_labels(splits: dict[str, Split], num_classes: int) -> None:
    """Raises ValueError unless all labels are 0 to num_classes - 1."""
    for name, split in splits.items():
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0:
            raise ValueError(
                f"a {name} label is {low}; labels must be 0 or more (is it unlabelled?)"
            )
        if high >= num_classes:
            raise ValueError(
                f"the {name} labels are {low} to {high}, but model.num_classes is {num_classes}: "
                f"set it to {high + 1}"
            )


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
