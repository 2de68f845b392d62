"""The card beside an exported network: its text, its example, and the file that it belongs to."""

import dataclasses
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from exports import exported, network, probabilities
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from mnist_jax import Config
from mnist_jax.exporting.export import write_export
from mnist_jax.exporting.model_card import check_card, create_card, format_card
from mnist_jax.metrics import wilson_interval

FIGURES = {"test_accuracy": 0.9858, "test_loss": 0.04321, "val_accuracy": 0.9875}


def card(data: bytes = b"model", **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "file_name": "digits.onnx",
        "file_format": "onnx",
        "image_shape": (28, 28, 1),
        "label_names": [*map(str, range(10))],
        "drawing_box": 20,
        "config": dataclasses.asdict(Config()),
        "step": 3750,
        "params_sha256": "a" * 64,
        "data_sha256": "b" * 64,
        "counts": {"train": 48_000, "validation": 12_000, "test": 10_000},
        "figures": FIGURES,
        "versions": {"mnist_jax": "0.1.0", "jax": "0.10.2"},
        "platform": "cpu",
    }
    return create_card(data, **(values | changes))


# Whoever imports one of these is not alone.
ALONE = "import sys; sys.modules.update(dict.fromkeys(['mnist_jax', 'flax', 'optax', 'orbax']))\n"
SAVE = "np.save('found.npy', probabilities)\n"


@pytest.mark.parametrize("file_format", [pytest.param("stablehlo", marks=pytest.mark.slow), "onnx"])
def test_the_example_of_a_card_runs_without_this_package(file_format, tmp_path):
    data = exported("cnn", file_format)
    name = f"it's a net.{file_format}"
    described = card(data, file_name=name, file_format=file_format, label_names=[*"abcdefghij"])
    write_export(tmp_path / name, data, described)
    images = network("cnn")[2][:3]
    np.save(tmp_path / "images.npy", images)
    code = described["run"]
    blank = "np.zeros((1, 28, 28, 1), np.uint8)"
    assert blank in code
    assert code in (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    real = code.replace(blank, "np.load('images.npy')")
    script = ALONE + code + real + SAVE
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    expected = probabilities("cnn")[:3]
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, atol=1e-5)
    assert ran.stdout.splitlines()[1] == str(expected.argmax(axis=1))


def test_the_card_says_what_is_known_of_the_network():
    text = format_card(card())
    for fact in (
        "# digits.onnx",
        "in the format onnx: 5 bytes",
        "`9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4`",
        "| input | `images` | uint8 | [N, 28, 28, 1] |",
        "| output | `probabilities` | float32 | [N, 10] |",
        '["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]',
        "Test accuracy: 98.58% of 10,000 images (95 % interval 98.33% to 98.79%)",
        "Test loss: 0.0432 nats an image",
        "Validation accuracy: 98.75%",
        "mnist (48,000 train, 12,000 validation, 10,000 test examples)",
        "`" + "a" * 64 + "`",
        "`" + "b" * 64 + "`",
        "mnist_jax 0.1.0, jax 0.10.2, on cpu",
        '"learning_rate": 0.001',
        "3,750",
        "not calibrated",
        "Apache-2.0",
        "Yann LeCun, Corinna Cortes and Christopher J. C. Burges",
        "Attribution-ShareAlike 3.0",
    ):
        assert fact in text


def test_a_card_says_nothing_of_what_is_not_known():
    text = format_card(card(figures={}, counts={}, data_sha256=None))
    assert "It was not measured." in text
    assert "None" not in text
    assert "%" not in text.replace("95 %", "")
    partly = format_card(card(figures={"test_accuracy": 0.5}, counts={}))
    assert "Test accuracy: 50.00%\n" in partly
    assert "loss" not in partly.partition("## What it is for")[0].partition("## How good")[2]


def test_a_licence_is_named_only_for_data_that_is_known():
    cases = {"mnist": True, "mnist:3.0.1": True, "fashion_mnist": False, "mnist_corrupted": False}
    for dataset, is_ours in cases.items():
        licence = card(config={"data": {"dataset": dataset}})["licence"]["data"]
        assert ("Yann LeCun" in licence) == is_ours, dataset
        assert ("not known here" in licence) != is_ours, dataset


def test_the_same_network_has_the_same_card_wherever_it_is_made(tmp_path):
    config = dataclasses.asdict(Config(init_from=str(tmp_path / "base")))
    first = card(config=config)
    assert first == json.loads(json.dumps(first)) == card(config=config)
    assert first["recipe"]["init_from"] == "base"
    assert config["init_from"] == str(tmp_path / "base")
    assert str(tmp_path) not in json.dumps(first) + format_card(first)


def test_labels_cannot_leave_their_place_in_a_card():
    hostile = ["```\n# A title", "<b>", "| |"]
    lines = format_card(card(label_names=hostile)).splitlines()
    assert lines[lines.index("```json") + 1] == json.dumps(hostile)
    assert "# A title" not in lines


@given(count=st.integers(1, 100_000), data=st.data())
def test_the_wilson_interval_is_that_of_scipy(count, data):
    successes = data.draw(st.integers(0, count))
    expected = binomtest(successes, count).proportion_ci(method="wilson")
    assert wilson_interval(successes, count) == pytest.approx(tuple(expected), abs=1e-6)


def test_a_card_fits_only_its_own_file():
    check_card(json.loads(json.dumps(card())), b"model")
    with pytest.raises(ValueError, match=r"^the file has the SHA-256 \w+, and its card names .*$"):
        check_card(card(), b"modem")


def test_an_invalid_card_is_refused_in_one_line():
    for other in (None, [], "text", {}, {"sha256": None}, {"sha256": ["a"]}):
        with pytest.raises(ValueError, match=r"^the card is none that mnist_jax has [^\n]*$"):
            check_card(other, b"model")
