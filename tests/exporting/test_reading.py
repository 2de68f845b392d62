"""Exported files and their cards: written, read back, and refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import exported, network, probabilities
from helpers import trained_network

from mnist_jax.datasets.info import DataInfo
from mnist_jax.exporting.export import write_export
from mnist_jax.exporting.model_card import create_card, format_card
from mnist_jax.exporting.reading import READERS, read_exported

INFO = DataInfo((7, 5, 3), (*"abcde",), 4, None, (0.1, 0.5, 1.0))


def write(path: Path, file_format: str = "onnx", **changes: Any) -> Path:
    """Writes a small network and its card, with some entries changed, or left out if None."""
    model, variables, _ = network("mlp")
    data = exported("mlp", file_format)
    card = create_card(data, path.name, file_format, trained_network(model, variables, INFO), {})
    write_export(path, data, card)
    if changes:
        entries = {name: value for name, value in (card | changes).items() if value is not None}
        path.with_name(f"{path.name}.json").write_text(json.dumps(entries), encoding="utf-8")
    return path


def test_the_card_is_written_beside_the_network(tmp_path):
    path = write(tmp_path / "net")
    assert {path.name for path in tmp_path.iterdir()} == {"net", "net.json", "net.md"}
    assert path.read_bytes() == exported("mlp", "onnx")
    card = json.loads(path.with_name("net.json").read_text(encoding="utf-8"))
    assert path.with_name("net.md").read_text(encoding="utf-8") == format_card(card)


@pytest.mark.parametrize("blocked", ["net.json", "net.md"])
def test_a_network_is_not_written_where_its_card_cannot_be(blocked, tmp_path):
    (tmp_path / "net").write_bytes(b"old")
    (tmp_path / blocked).mkdir()
    with pytest.raises(OSError, match=blocked):
        write(tmp_path / "net")
    assert (tmp_path / "net").read_bytes() == b"old"
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


@pytest.mark.parametrize("file_format", READERS)
def test_an_exported_file_gives_its_network_and_its_data(file_format, tmp_path):
    classify, info = read_exported(write(tmp_path / "net", file_format))
    assert info == INFO
    computed = classify(network("mlp")[2])
    np.testing.assert_allclose(computed, probabilities("mlp"), atol=1e-5)


def test_a_file_without_its_card_is_refused(tmp_path):
    path = write(tmp_path / "net")
    path.with_name("net.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"^there is no .*net\.json, the card that [^\n]*$"):
        read_exported(path)


def test_the_card_of_an_older_version_knows_no_brightness(tmp_path):
    path = write(tmp_path / "net", brightness=None)
    assert read_exported(path)[1] == INFO._replace(brightness=None)


def taken(shape: list[Any], **changes: Any) -> dict[str, Any]:
    return {"input": {"name": "images", "dtype": "uint8", "shape": ["N", *shape]} | changes}


HUGE = 10**400
NO_CARD = "net.json is not a card written by `export`"
CHANGES = {
    f"{NO_CARD}$": [
        *({name: None} for name in ("sha256", "input", "labels", "format", "drawing_box", "step")),
        {"input": {"shape": ["N", 7, 5, 3]}},
        {"input": 3},
        {"figures": [1]},
        {"params_sha256": 7},
    ],
    "format must be stablehlo or onnx, got": [{"format": value} for value in ("pb", [], {}, 1)],
    "labels must be a list of names, got": [{"labels": value} for value in ("abcde", {}, 5)],
    "label_names must be different names, without control characters, got": [
        {"labels": labels} for labels in ([], [*"abcdd"], [0, 1, 2, 3, 4], [*"abcd", ["e"]])
    ],
    "label_names must be .* got [^\\x1b]*$": [
        {"labels": [*"abcd", name]} for name in ("e\x1b[2J", "e\n", "\x9b31m", "\x7f", "\u2028")
    ],
    "drawing_box must be 0, or the side in pixels of a square in the image, got": [
        {"drawing_box": value} for value in (True, False, 4.0, "4", -1, 8, HUGE, [4])
    ],
    "brightness must be null, or the least mean, the greatest mean and the least maximum, in": [
        {"brightness": value}
        for value in (0.5, "abc", [0, 1], [0.5, 0.1, 1], [0, 1, 2], [-1, 1, 1], [0, True, 1], {})
    ],
    "image_shape must be a height, a width and a number of channels, got": [
        *(taken([height, 5, 3]) for height in (7.0, -7, 0, HUGE, "7")),
        *(taken([7, *others]) for others in ([None, 3], [5, True], [5], [5, 3, 1])),
        taken([10**5, 10**5, 3]),
    ],
    r"input must be images, uint8 \[N, H, W, C\], got": [
        taken([7, 5, 3], dtype="float32"),
        taken([7, 5, 3], name="x"),
        {"input": {"name": "images", "dtype": "uint8", "shape": "N753"}},
        {"input": {"name": "images", "dtype": "uint8", "shape": [1, 7, 5, 3]}},
    ],
    "step must be a number of updates, got": [{"step": v} for v in ("x", -1, 1.5, True, [])],
    "bytes must be a number of bytes, got": [{"bytes": value} for value in ("9", 0, True)],
    "params_sha256 must be 64 hexadecimal digits, got": [{"params_sha256": "ab"}],
    "figures must be accuracies of 0 to 1": [
        {"figures": {"test_accuracy": v}} for v in (98, -1, "1", True)
    ],
    "trained_on must be an object, got": [{"trained_on": "mnist"}],
    "SHA-256 [0-9a-f]{64}, but its card names": [{"sha256": v} for v in ("0" * 64, 7, ["a"])],
    r"names 4 classes, .*net has 5": [{"labels": [*"abcd"]}],
    "images must be uint8": [taken([7, 5, 1])],
}


@pytest.mark.parametrize("message", CHANGES)
def test_a_card_that_does_not_fit_its_file_is_refused_in_one_line(tmp_path, subtests, message):
    line = rf"^[^\n]*{message}[^\n]*$"
    for changes in CHANGES[message]:
        with subtests.test(msg=str(changes)), pytest.raises(ValueError, match=line):
            read_exported(write(tmp_path / "net", **changes))


def test_a_damaged_card_is_refused_in_one_line(tmp_path, subtests):
    path = write(tmp_path / "net")
    card = path.with_name("net.json").read_text(encoding="utf-8")
    twice = card.replace('"step"', '"drawing_box": 9, "step"')
    nan = card.replace('"step": 3750', '"step": NaN')
    texts = ("", "{", "[]", "null", '"text"', "{}", "[" * 100_000, twice, nan, card + card)
    for text in texts:
        path.with_name("net.json").write_text(text, encoding="utf-8")
        message = rf"^{re.escape(str(path))}\.json is not (JSON|a card)[^\n]*$"
        with subtests.test(msg=text), pytest.raises(ValueError, match=message):
            read_exported(path)
