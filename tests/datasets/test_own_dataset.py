"""A user's own dataset, from import to export, with the commands alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import strict_json
from imports import write_images
from PIL import Image
from sklearn.datasets import load_digits

from mnist_jax import evaluate
from mnist_jax.cli.main import main

SMALL_MODEL = "--model.features 4 --model.hidden-size 16"


@pytest.fixture(autouse=True)
def own_place(tmp_path, data_dir, monkeypatch) -> None:  # noqa: ARG001
    monkeypatch.chdir(tmp_path)


def run(line: str) -> None:
    assert main(line.split()) == 0, line


def test_an_imported_dataset_is_trained_reported_and_exported(capsys):
    images, labels = load_digits(return_X_y=True)  # 8x8 pixels, 0.0 to 16.0
    np.savez("digits.npz", x=images, y=labels)
    run("import digits digits.npz")
    assert "pixels of 0 to 16 became 0 to 255" in capsys.readouterr().out
    run("train --data.dataset digits --workdir run --batch-size 32 --epochs 6")
    result = strict_json(Path("run/result.json"))
    assert result["test_accuracy"] > 0.9
    run("evaluate --workdir run --split validation")
    run("predict --workdir run --output answers.npz")
    with np.load("answers.npz") as answers:
        assert answers["names"].tolist() == [*"0123456789"]
        right = answers["classes"] == answers["labels"]
    assert right.mean() == result["test_accuracy"]
    run("report --workdir run")
    assert f"{result['test_accuracy']:.2%}</span>" in Path("run/report.html").read_text("utf-8")

    picture = np.full((300, 300), 240, np.uint8)
    enlarged = Image.fromarray((images[0].reshape(8, 8) * 15).astype(np.uint8)).resize((150, 150))
    picture[80:230, 70:220] -= (np.asarray(enlarged) * 0.8).astype(np.uint8)
    Image.fromarray(picture).save("zero.png")
    capsys.readouterr()
    run("predict --workdir run zero.png --json")
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["label"] == "0"
    for file_format in ("stablehlo", "onnx"):
        run(f"export --workdir run --format {file_format} --output net.{file_format}")
        capsys.readouterr()
        run(f"predict --model net.{file_format} zero.png --json")
        (found,) = json.loads(capsys.readouterr().out)
        assert found["label"] == "0"
        assert found["probability"] == pytest.approx(answer["probability"], abs=1e-5)


@pytest.mark.slow
def test_every_command_reports_class_names(capsys):
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 8)):
        for name, colour in (("Grün", (30, 180, 40)), ("red apple", (200, 30, 30))):
            pixels = rng.normal(colour, 20, (count, 14, 10, 3)).clip(0, 255).astype(np.uint8)
            write_images(Path("photos", part), pixels, [name] * count)
    run("import fruit photos")
    assert "classes: Grün, red apple" in capsys.readouterr().out
    run(f"train --data.dataset fruit --workdir run --batch-size 8 --epochs 3 {SMALL_MODEL}")
    capsys.readouterr()
    run("predict --workdir run photos/test/Grün/0.png")
    assert capsys.readouterr().out.startswith("photos/test/Grün/0.png: Grün (")
    run("export --workdir run --format onnx --output net.onnx")
    assert strict_json(Path("net.onnx.json"))["labels"] == ["Grün", "red apple"]


@pytest.mark.slow
def test_a_dataset_imported_again_is_not_measured_with_the_old_network(capsys):
    images, labels = load_digits(return_X_y=True)
    first, second = slice(0, 300), slice(300, 600)
    np.savez("digits.npz", x=images[first], y=labels[first])
    run("import digits digits.npz")
    run(f"train --data.dataset digits --workdir run --epochs 1 {SMALL_MODEL}")
    for x, y, what in (
        (images[second], labels[second], "images"),
        (images[first], labels[first] + 1, "classes"),
    ):
        np.savez("digits.npz", x=x, y=y)
        run("import digits digits.npz --overwrite")
        with pytest.raises(ValueError, match=f"the {what} of digits have changed"):
            evaluate("run")
        capsys.readouterr()
        assert main(["predict", "--workdir", "run", "--output", "answers.npz"]) == 2
        assert "have changed since the network was trained on them" in capsys.readouterr().err
        assert not Path("answers.npz").exists()
