"""A tfds builder for the bundled MNIST that needs neither TensorFlow nor a network.

It is not named `mnist`, which tfds's own builder may have prepared.
"""

import functools
import gzip
import hashlib
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

# From tensorflow_datasets/url_checksums/mnist.txt.
SUMS = """
440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609 train-images-idx3-ubyte.gz
3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c train-labels-idx1-ubyte.gz
8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6 t10k-images-idx3-ubyte.gz
f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6 t10k-labels-idx1-ubyte.gz
"""
SHA256 = {name: digest for digest, name in map(str.split, SUMS.split("\n")[1:-1])}
IMAGE_HEADER = 16  # bytes: magic number, count, rows, columns
LABEL_HEADER = 8  # bytes: magic number, count


class Builder(tfds.core.GeneratorBasedBuilder):
    """MNIST: 60,000 and 10,000 images of digits, 28x28, in the order of the original files."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        # `Image` would need TensorFlow to encode arrays. Pixels stay uncompressed here, because
        # array_record compresses them.
        image = tfds.features.Tensor(shape=(28, 28, 1), dtype=np.uint8, encoding="bytes")
        label = tfds.features.ClassLabel(num_classes=10)
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"image": image, "label": label}),
            supervised_keys=("image", "label"),
            homepage="http://yann.lecun.com/exdb/mnist/",
            # The validation split indexes the original order.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(*arrays) for split, arrays in self.arrays.items()}

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray):
        for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            yield index, {"image": image, "label": label}

    @functools.cached_property
    def arrays(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Images uint8 [N, 28, 28, 1] and labels int32 [N] of each split."""
        return {
            split: (
                read_idx(f"{prefix}-images-idx3-ubyte.gz", IMAGE_HEADER).reshape(-1, 28, 28, 1),
                read_idx(f"{prefix}-labels-idx1-ubyte.gz", LABEL_HEADER).astype(np.int32),
            )
            for split, prefix in {"train": "train", "test": "t10k"}.items()
        }


def read_idx(name: str, header: int) -> np.ndarray:
    """Reads a bundled file's bytes after the header, uint8 [n]; ValueError if damaged."""
    path = Path(__file__).parent / name
    compressed = path.read_bytes()
    if hashlib.sha256(compressed).hexdigest() != SHA256[name]:
        raise ValueError(f"{path} is damaged: install the package again")
    return np.frombuffer(gzip.decompress(compressed), np.uint8, offset=header)
