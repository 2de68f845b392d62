"""An exported network, read back with the card beside it."""

import hashlib
from pathlib import Path

import numpy as np

from mnist_jax.datasets.info import DataInfo, data_info
from mnist_jax.exporting.contract import Classify
from mnist_jax.exporting.onnx_file import from_onnx
from mnist_jax.exporting.stablehlo import from_stablehlo
from mnist_jax.workdir.files import read_json

READERS = {"stablehlo": from_stablehlo, "onnx": from_onnx}


def read_exported(path: Path) -> tuple[Classify, DataInfo]:
    """Reads a file that `export` has written, and its card.

    Args:
        path: the file; its card is PATH.json.

    Returns:
        A function of images, uint8 [N, H, W, C] -> probabilities float32 [N, num_classes], and the
        facts about its data.

    Raises:
        FileNotFoundError: there is no card beside the file.
        ValueError: the file or its card is damaged, they do not belong together, or the package
            that reads the file is not installed.
    """
    card_path = path.with_name(f"{path.name}.json")
    if not card_path.exists():
        raise FileNotFoundError(
            f"there is no {card_path}, the card that `export` writes beside {path}: keep them "
            "together, or export the network again"
        )
    card, data = read_json(card_path), path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        if card["sha256"] != sha256:
            raise ValueError(
                f"the file has the SHA-256 {sha256}, and its card names {card['sha256']}: one of "
                "them is damaged, or they are of two exports; export the network again"
            )
        info = data_info(
            {**card, "image_shape": card["input"]["shape"][1:], "label_names": card["labels"]}
        )
        classify = READERS[card["format"]](data)
    except (LookupError, TypeError, OverflowError) as error:
        raise ValueError(f"{card_path} is not a card that `export` has written") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    classes = classify(np.zeros((1, *info.image_shape), np.uint8)).shape[1]
    if classes != len(info.label_names):
        raise ValueError(f"{card_path} names {len(info.label_names)} classes, {path} has {classes}")
    return classify, info
