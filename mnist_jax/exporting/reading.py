"""Reading of an exported network and its card."""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mnist_jax.datasets.info import DataInfo, data_info
from mnist_jax.exporting.contract import INPUT, OUTPUT, Classify
from mnist_jax.exporting.onnx_file import from_onnx
from mnist_jax.exporting.stablehlo import from_stablehlo
from mnist_jax.messages import one_line
from mnist_jax.workdir.files import read_json

READERS = {"stablehlo": from_stablehlo, "onnx": from_onnx}


def _is_array(name: str, dtype: str) -> Callable[[Any], bool]:
    return lambda a: [a["name"], a["dtype"], a["shape"][:1]] == [name, dtype, ["N"]]


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _are_shares(figures: Any) -> bool:
    shares = [value for name, value in figures.items() if name.endswith("accuracy")]
    return all(type(value) in (int, float) and 0 <= value <= 1 for value in shares)


# Checks of a card's fields, in addition to those of `data_info`.
FIELDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "file": (_is(str), "a name"),
    "format": ([*READERS].__contains__, " or ".join(READERS)),
    "bytes": (lambda value: type(value) is int and value > 0, "a number of bytes"),
    "input": (_is_array(INPUT, "uint8"), f"{INPUT}, uint8 [N, H, W, C]"),
    "output": (_is_array(OUTPUT, "float32"), f"{OUTPUT}, float32 [N, classes]"),
    "labels": (_is(list), "a list of names"),
    "step": (lambda value: type(value) is int and value >= 0, "a number of updates"),
    "params_sha256": (re.compile("[0-9a-f]{64}").fullmatch, "64 hexadecimal digits"),
    "figures": (_are_shares, "accuracies of 0 to 1"),
    **dict.fromkeys(("trained_on", "recipe", "written_by"), (_is(dict), "an object")),
}


def read_exported(path: Path) -> tuple[Classify, DataInfo]:
    """Reads a file written by `export`, and its card, PATH.json.

    Returns:
        The network, and the facts about its data.

    Raises:
        FileNotFoundError: there is no card.
        ValueError: the file or its card is damaged, they do not match, or a package is not
            installed.
    """
    card_path = path.with_name(f"{path.name}.json")
    if not card_path.exists():
        raise FileNotFoundError(
            f"there is no {card_path}, the card that `export` writes beside {path}; keep them "
            "together, or export the network again"
        )
    card, data = read_json(card_path), path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        if card["sha256"] != sha256:
            raise ValueError(
                f"{path}: the file has the SHA-256 {sha256}, but its card names {card['sha256']}: "
                "one of them is damaged or from another export; export the network again"
            )
        info = _checked(card, card_path)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{card_path} is not a card written by `export`") from error
    try:
        classify = READERS[card["format"]](data)
        classes = classify(np.zeros((1, *info.image_shape), np.uint8)).shape[1]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if classes != len(info.label_names):
        raise ValueError(f"{card_path} names {len(info.label_names)} classes, {path} has {classes}")
    return classify, info


def _checked(card: Mapping[str, Any], path: Path) -> DataInfo:
    """Checks a card's fields; raises ValueError, LookupError, TypeError or AttributeError."""
    try:
        for name, (is_right, expected) in FIELDS.items():
            if not is_right(card[name]):
                raise ValueError(f"{name} must be {expected}, got {card[name]!r:.100}")
        shape = card["input"]["shape"][1:]
        return data_info({**card, "image_shape": shape, "label_names": card["labels"]})
    except ValueError as error:
        raise ValueError(f"{path} is not a card written by `export`: {one_line(error)}") from error
