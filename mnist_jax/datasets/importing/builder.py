"""A tfds builder for iterators of examples, without TensorFlow."""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

SHARD_BYTES = 64 << 20  # kept in memory by tfds
OBJECT_BYTES = 1024  # per example, beside its pixels

Examples = Iterator[tuple[np.ndarray, int]]  # images uint8 [H, W, C] and their labels


def create_builder(
    name: str,
    version: str,
    data_dir: Path,
    splits: Mapping[str, tuple[int, Examples]],
    shape: tuple[int, int, int],
    label_names: list[str],
    metadata: dict[str, Any],
) -> Any:
    """Creates a tfds builder whose `download_and_prepare` writes the dataset once.

    `splits` are numbers of examples, and the examples, by split; `shape` is [H, W, C]; `metadata`
    is for metadata.json.
    """
    import tensorflow_datasets as tfds  # slow

    dataset_name = name
    size = max(1, SHARD_BYTES // (math.prod(shape) + OBJECT_BYTES))

    # A GeneratorBasedBuilder would keep a split in memory, and need TensorFlow from 1 GB.
    class Builder(tfds.core.ShardBasedBuilder, skip_registration=True):
        name = dataset_name
        VERSION = tfds.core.Version(version)

        def _info(self) -> tfds.core.DatasetInfo:
            image = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="zlib")
            label = tfds.features.ClassLabel(names=label_names)
            return tfds.core.DatasetInfo(
                builder=self,
                description="Images of your own, imported by mnist_jax.",
                features=tfds.features.FeaturesDict({"image": image, "label": label}),
                supervised_keys=("image", "label"),
                disable_shuffling=True,
                metadata=tfds.core.MetadataDict(metadata),
            )

        def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager):
            del dl_manager  # nothing is downloaded
            return {split: _shards(*examples, size) for split, examples in splits.items()}

    return Builder(data_dir=data_dir, file_format="array_record")


def _shards(count: int, examples: Examples, size: int):
    numbered = enumerate({"image": image, "label": label} for image, label in examples)
    # Shards are written in order.
    return [functools.partial(itertools.islice, numbered, size)] * -(-count // size)
