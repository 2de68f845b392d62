"""The card of an exported network: its text and its example."""

import json
from typing import Any

import numpy as np
import pytest
from exports import exported, network, probabilities
from flax import linen as nn
from helpers import python, trained_network
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from mnist_jax import Config
from mnist_jax.config import DataConfig
from mnist_jax.datasets.info import DataInfo
from mnist_jax.exporting.export import write_export
from mnist_jax.exporting.model_card import create_card, format_card
from mnist_jax.metrics import wilson_interval
from mnist_jax.workdir.hashing import network_sha256
from mnist_jax.workdir.origin import environment

VARIABLES = {"params": {"kernel": np.zeros((2, 3), np.float32)}}
RESULT = {"test_accuracy": 0.9858, "test_loss": 0.04321, "val_accuracy": 0.9875}
RESULT |= {"params_sha256": network_sha256(VARIABLES)}
DIGITS, CONFIG = tuple("0123456789"), Config()


def create(
    data: bytes = b"model",
    name: str = "digits.onnx",
    *,
    labels: tuple[str, ...] = DIGITS,
    config: Config = CONFIG,
    result: dict[str, Any] = RESULT,
) -> dict[str, Any]:
    trained = trained_network(nn.Dense(1), VARIABLES, DataInfo((28, 28, 1), labels, 20), config)
    return create_card(data, name, name.rpartition(".")[2], trained, result)


# Importing one of these would fail.
ALONE = "import sys; sys.modules.update(dict.fromkeys(['mnist_jax', 'flax', 'optax', 'orbax']))\n"
SAVE = "np.save('computed.npy', probabilities)\n"


@pytest.mark.parametrize("file_format", [pytest.param("stablehlo", marks=pytest.mark.slow), "onnx"])
def test_the_example_of_a_card_runs_without_this_package(file_format, tmp_path):
    name = f"it's a net.{file_format}"
    card = create(exported("cnn", file_format), name)
    write_export(tmp_path / name, exported("cnn", file_format), card)
    images = network("cnn")[2][:3]
    np.save(tmp_path / "images.npy", images)
    blank = "np.zeros((1, 28, 28, 1), np.uint8)"
    assert blank in card["run"]
    assert card["run"] in (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    real = card["run"].replace(blank, "np.load('images.npy')")
    ran = python("-W", "error", "-c", ALONE + card["run"] + real + SAVE, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    expected = probabilities("cnn")[:3]
    np.testing.assert_allclose(np.load(tmp_path / "computed.npy"), expected, atol=1e-5)
    assert ran.stdout.splitlines()[1] == str(expected.argmax(axis=1))


def test_the_card_describes_the_network():
    text, versions = format_card(create()), environment({})["versions"]
    for fact in (
        "# digits.onnx",
        "in the format onnx: 5 bytes",
        "`9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4`",
        "| input | `images` | uint8 | [N, 28, 28, 1] |",
        "| output | `probabilities` | float32 | [N, 10] |",
        '["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]',
        "Test accuracy: 98.58% of 10,000 images (95 % interval 98.33% to 98.79%)\n",
        "Test loss: 0.0432 nats per image\n",
        "Validation accuracy: 98.75%\n",
        "mnist (48,000 train, 12,000 validation, 10,000 test examples)",
        f"`{RESULT['params_sha256']}`",
        "`" + "b" * 64 + "`",
        f"jax {versions['jax']}, jaxlib {versions['jaxlib']}, ",
        f", on {environment({})['platform']}.",
        '"learning_rate": 0.001',
        "3,750",
        "not calibrated",
        "Apache-2.0",
        "Yann LeCun, Corinna Cortes and Christopher J. C. Burges",
        "Attribution-ShareAlike 3.0",
    ):
        assert fact in text


def test_a_card_has_the_figures_of_no_other_network():
    for result in ({}, RESULT | {"params_sha256": "a" * 64}):
        text = format_card(create(result=result))
        assert "It was not measured." in text
        assert "None" not in text
        assert "%" not in text


def test_a_licence_is_named_only_for_data_that_is_known():
    cases = {"mnist": True, "mnist:3.0.1": True, "fashion_mnist": False, "mnist_corrupted": False}
    for dataset, is_ours in cases.items():
        licence = create(config=Config(data=DataConfig(dataset)))["licence"]["data"]
        assert ("Yann LeCun" in licence) == is_ours, dataset
        assert ("unknown" in licence) != is_ours, dataset


def test_the_same_network_has_the_same_card_wherever_it_is_made(tmp_path):
    config = Config(init_from=str(tmp_path / "base"))
    card = create(config=config)
    assert card == json.loads(json.dumps(card)) == create(config=config)
    assert card["recipe"]["init_from"] == "base"
    assert str(tmp_path) not in json.dumps(card) + format_card(card)


def test_labels_cannot_leave_their_place_in_a_card():
    hostile = ["```\n# A title", "<b>", "| |", "{file}"]
    lines = format_card(create(labels=tuple(hostile))).splitlines()
    assert lines[lines.index("```json") + 1] == json.dumps(hostile)
    assert "# A title" not in lines


@given(count=st.integers(1, 100_000), data=st.data())
def test_the_wilson_interval_is_that_of_scipy(count, data):
    successes = data.draw(st.integers(0, count))
    expected = binomtest(successes, count).proportion_ci(method="wilson")
    assert wilson_interval(successes, count) == pytest.approx(tuple(expected), abs=1e-6)
