"""A dataset of tfds from examples that come one after another, written without TensorFlow."""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# tfds keeps a shard's examples in memory until it is written.
SHARD_BYTES = 64 << 20
OBJECT_BYTES = 1024  # of an example in Python, beside its pixels

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
    """Returns a builder of tfds, whose `download_and_prepare` writes the dataset, once.

    Splits have the number of their examples, and these: images of the shape [H, W, C], and labels.
    The first of the label names is that of label 0. The metadata become metadata.json.
    """
    import tensorflow_datasets as tfds  # slow

    dataset_name = name
    size = max(1, SHARD_BYTES // (math.prod(shape) + OBJECT_BYTES))

    # Not a GeneratorBasedBuilder: that one collects a split in memory, and from 1 GB on needs
    # TensorFlow.
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
    # They are written in turn, so each takes the next examples.
    return [functools.partial(itertools.islice, numbered, size)] * -(-count // size)
