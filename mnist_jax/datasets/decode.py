"""A split of a prepared dataset, decoded in blocks."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnist_jax.datasets import cache, prepare
from mnist_jax.datasets.streamed import StreamedImages
from mnist_jax.machine.user_cache import cache_root

BLOCK = 1024  # images decoded at a time


class EncodedSplit(NamedTuple):
    """An opened split."""

    examples: Any  # dicts: tfds's data source, or an iterable of TensorFlow's
    num_examples: int
    image_key: str
    label_key: str
    label_names: tuple[str, ...]  # may be empty
    title: str  # the dataset's name
    prepared: Path


def open_split(prepared: Path, name: str, split: str) -> EncodedSplit:
    """Opens a split of the dataset `name`; ValueError if the split is missing or damaged."""
    import tensorflow_datasets as tfds  # slow

    try:
        builder: Any = tfds.builder_from_directory(prepared)
    except Exception as error:
        raise _damaged(name, prepared, error) from error
    image_key, label_key = builder.info.supervised_keys or ("image", "label")
    label_names = tuple(getattr(dict(builder.info.features).get(label_key), "names", None) or ())
    try:
        for part in tfds.core.ReadInstruction.from_spec(split).to_absolute(builder.info.splits):
            # tfds reads too much of a slice that ends before it begins.
            if None not in (part.from_, part.to) and part.from_ > part.to:
                raise ValueError(f"it would begin at {part.from_} and end at {part.to}")
        examples = builder.as_data_source(split)
    except NotImplementedError:  # prepared as tfrecord, which only TensorFlow reads
        examples = prepare.read_with_tensorflow(builder, name, split)
    except Exception as error:
        raise ValueError(
            f"dataset {name!r} has no split {split!r}, only {', '.join(builder.info.splits)}: "
            f"{error}"
        ) from error
    num_examples = builder.info.splits[split].num_examples
    return EncodedSplit(examples, num_examples, image_key, label_key, label_names, name, prepared)


def decode(split: EncodedSplit) -> tuple[tuple[int, ...], Iterator[cache.Block]]:
    """Returns the images' shape, (N, H, W, C), and an iterator over all blocks.

    Both raise ValueError unless the split holds intact uint8 images, of one size, with integer
    labels.
    """
    blocks = _blocks(split)
    first = next(blocks)
    return (split.num_examples, *first[0].shape[1:]), itertools.chain([first], blocks)


def stream_encoded(split: EncodedSplit) -> cache.Decoded:
    """Streams a split from tfds, decoded each epoch; ValueError if it can only be read in order."""
    if not hasattr(split.examples, "__getitems__"):
        raise ValueError(
            f"dataset {split.title!r} cannot be streamed: its format can only be read in order, "
            f"and it cannot be cached in {cache_root()}; set XDG_CACHE_HOME to a directory with "
            "free space, or prepare the dataset with file_format='array_record'"
        )
    shape, blocks = decode(split)
    labels = np.concatenate([labels for _, labels in blocks])

    def read_rows(rows: np.ndarray) -> np.ndarray:
        examples = split.examples.__getitems__(rows.tolist())
        return np.stack([example[split.image_key] for example in examples]).reshape(-1, *shape[1:])

    images = StreamedImages(read_rows, np.arange(shape[0]), shape[1:])
    return cache.Decoded(images, labels, split.label_names)


def _read_blocks(examples: Any) -> Iterator[list[Any]]:
    if hasattr(examples, "__getitems__"):  # far faster than one by one
        for first in range(0, len(examples), BLOCK):
            yield examples.__getitems__([*range(first, min(first + BLOCK, len(examples)))])
    else:
        one_by_one = iter(examples)
        while block := list(itertools.islice(one_by_one, BLOCK)):
            yield block


def _blocks(split: EncodedSplit) -> Iterator[cache.Block]:
    shapes, blocks = set(), _read_blocks(split.examples)
    while True:
        try:
            block = next(blocks, [])
            pairs = [(example[split.image_key], example[split.label_key]) for example in block]
        except Exception as error:
            raise _damaged(split.title, split.prepared, error) from error
        if shapes and not pairs:
            return
        shapes |= {np.shape(image) for image, _ in pairs}
        if len(shapes) != 1:
            raise ValueError(f"dataset {split.title!r} must hold images, all of one size")
        images, labels = map(np.stack, zip(*pairs, strict=True))
        images = images if images.ndim == 4 else images[..., None]
        expected = ""
        if images.dtype != np.uint8 or images.ndim != 4:
            expected = f"uint8 images [H, W, C], found {images.dtype} {images.shape[1:]}"
        elif not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
            expected = f"one integer label per image, found {labels.dtype} {labels.shape[1:]}"
        elif (abs(labels.astype(np.float64)) >= 2**31).any():
            expected = f"labels of 32 bits, found {labels.max()}"
        if expected:
            raise ValueError(f"dataset {split.title!r} must hold {expected}")
        yield images, labels.astype(np.int32)


def _damaged(name: str, prepared: Path, error: Exception) -> ValueError:
    return ValueError(
        f"dataset {name!r} cannot be read: {error}; delete {prepared} to prepare it again, or "
        "import it again"
    )
