"""Datasets of tfds as arrays, without TensorFlow, cached in decoded form."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from mnist_jax.datasets import cache, prepare
from mnist_jax.datasets.arrays import PARTS, Split, as_parts, check_labels
from mnist_jax.datasets.decode import decode, open_split, stream_encoded
from mnist_jax.datasets.streamed import StreamedImages
from mnist_jax.machine.user_cache import cache_root

LARGEST = 2**20  # classes; more is a mistake


def load_dataset(
    name: str = "mnist", split: str = "train", data_dir: str | Path | None = None
) -> Split:
    """Loads a split of a tfds dataset into memory, preparing the dataset on first use.

    `mnist` comes with this package. Others must be prepared already, or need TensorFlow once.

    Args:
        name: a tfds name, optionally with a config and a version: "emnist/letters:3.1.0".
        split: a split in tfds's notation: "train", "train[:1000]", "train[80%:]".
        data_dir: tfds's data directory; None for $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Returns:
        (images, labels): uint8 [N, H, W, C] and int32 [N].

    Raises ValueError if the dataset cannot be prepared or read, lacks the split, or does not hold
    images of one size with integer labels; OSError if the data directory cannot be written.
    """
    decoded = _load(prepare.prepared_dir(name, data_dir), name, split)
    return Split(decoded.images, decoded.labels)


def _load(prepared: Path, name: str, split: str, *, stream: bool = False) -> cache.Decoded:
    if decoded := cache.load(prepared, split, stream=stream):
        return decoded
    source = open_split(prepared, name, split)
    shape, blocks = decode(source)
    if not stream:
        images, labels = map(np.concatenate, zip(*blocks, strict=True))
        cache.save(prepared, split, shape, [(images, labels)], source.label_names)
        return cache.Decoded(images, labels, source.label_names)
    cache.save(prepared, split, shape, blocks, source.label_names)
    if decoded := cache.load(prepared, split, stream=True):
        return decoded
    warnings.warn(
        f"cannot cache the images of {name!r} in {cache_root()}, so every epoch decodes them again "
        "(slow); set XDG_CACHE_HOME to a directory with free space",
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
    *,
    own: Any = None,
    num_classes: int = 0,
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Loads a recipe's parts: "train", "validation", and "test" if there is one.

    A split "validation" of an import or a builder is used, unless the recipe trains or tests on it.
    Otherwise the validation part is drawn from the training split.

    The first six arguments are fields of `DataConfig`; the loader "stream" gives `StreamedImages`.
    `own` is the user's own data instead: an argument of `arrays.as_parts`, a tfds builder, or a
    function that returns one. `num_classes` is the least number of classes without names.

    Returns:
        The splits by name, and the names of the classes, by default their numbers.

    Raises ValueError like `load_dataset`, and if a part is empty, the images differ in shape, or a
    label is not one of the classes.
    """
    own = own() if callable(own) else own
    builder: Any = own
    is_builder = hasattr(own, "data_dir") and hasattr(own, "info")
    label_names: tuple[str, ...] = ()
    if own is not None and not is_builder:
        dataset, parts = "splits", as_parts(own)
    else:
        dataset = builder.info.name if is_builder else dataset
        prepared = Path(builder.data_dir) if is_builder else prepare.prepared_dir(dataset, None)
        if not (prepared / "dataset_info.json").is_file():
            raise ValueError(
                f"the builder of {dataset!r} has not prepared {prepared}; call its "
                "download_and_prepare(file_format='array_record')"
            )
        names = {"train": train_split, "test": test_split}
        is_used = "validation" in train_split + test_split
        given = builder.info.splits if is_builder else ()
        if not is_used and ("validation" in given or prepare.has_imported_validation(prepared)):
            names["validation"] = "validation"
        if is_builder and "test" not in given and test_split == "test":
            del names["test"]
        decoded = {
            part: _load(prepared, dataset, name, stream=loader == "stream")
            for part, name in names.items()
        }
        label_names = decoded["train"].label_names
        parts = {part: Split(images, labels) for part, (images, labels, _) in decoded.items()}
    count = len(parts["train"].labels)
    if "validation" not in parts:
        rows = train_validation_split(count, validation_fraction, split_seed)
        images, labels = parts["train"]
        for name, part in zip(("train", "validation"), rows, strict=True):
            chosen = images.take(part) if isinstance(images, StreamedImages) else images[part]
            parts[name] = Split(chosen, labels[part])
    splits = {name: parts[name] for name in PARTS if name in parts}
    images = splits["train"].images
    for part, split in splits.items():
        if not len(split.labels):
            raise ValueError(
                f"dataset {dataset!r}: {count} examples in {train_split!r} and a validation "
                f"fraction of {validation_fraction} leave none for {part}"
            )
        if images.shape[1:] != split.images.shape[1:]:
            raise ValueError(
                f"dataset {dataset!r} must hold images of one shape, found {images.shape[1:]} for "
                f"training and {split.images.shape[1:]} for {part}"
            )
        if (least := split.labels.min()) < 0:
            raise ValueError(
                f"a {part} label is {least}; expected 0 or more (is the split unlabelled?)"
            )
    largest = max(int(split.labels.max()) for split in splits.values())
    if largest >= LARGEST:
        raise ValueError(f"labels must be below {LARGEST}, found {largest}")
    label_names = label_names or tuple(map(str, range(max(largest + 1, num_classes))))
    check_labels(splits, len(label_names))
    if len(label_names) < 2:
        raise ValueError(f"there must be 2 classes or more, found {len(label_names)}")
    return splits, label_names


def train_validation_split(
    num_examples: int, validation_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the training and the validation examples.

    Returns the indices, int [n] each, of scikit-learn's
    `train_test_split(test_size=validation_fraction, random_state=seed)`: a permutation whose
    beginning is for validation.

    References:
        https://scikit-learn.org/stable/modules/generated/sklearn.model_selection.train_test_split.html
    """
    order = np.random.RandomState(seed).permutation(num_examples)
    num_validation = int(np.ceil(validation_fraction * num_examples))
    return order[num_validation:], order[:num_validation]
