"""Pictures in files, and the answers of `predict`."""

import json

import numpy as np
import pytest
from PIL import Image

from mnist_jax import load_dataset, load_network
from mnist_jax.cli.main import main
from mnist_jax.handwriting.files import predict_files
from mnist_jax.network import Network


@pytest.fixture(scope="module")
def network(small_run) -> Network:
    return load_network(small_run[0])


@pytest.fixture
def seven(tmp_path):
    """Provides a seven that the network knows, drawn dark on a large white sheet."""
    (digit, *_), _ = load_dataset("mnist", "test[:1]")
    sheet = np.full((400, 500), 250, np.uint8)
    enlarged = Image.fromarray(digit[..., 0]).resize((196, 196), Image.Resampling.BICUBIC)
    sheet[100:296, 200:396] -= (np.asarray(enlarged) * 0.8).astype(np.uint8)
    Image.fromarray(sheet).save(tmp_path / "seven.png")
    Image.new("L", (400, 300), 240).save(tmp_path / "blank.png")
    return tmp_path / "seven.png"


def test_the_predict_command_prints_class_and_runner_up(small_run, seven, capsys):
    assert main(["predict", str(seven), f"--workdir={small_run[0]}"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{seven}: 7 (")
    assert "%), or " in line


def test_the_predict_command_prints_json_for_programs(small_run, seven, capsys):
    blank = seven.parent / "blank.png"
    assert main(["predict", str(seven), str(blank), "--json", f"--workdir={small_run[0]}"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["image"], first["label"], first["problem"]) == (str(seven), "7", "")
    assert 1 >= first["probability"] > first["runner_up_probability"] > 0
    assert first["runner_up"] in {*"012345689"}
    assert (second["label"], second["probability"]) == (None, 0.0)
    assert second["problem"].startswith("blank")


def test_show_writes_the_network_input_except_of_bad_files(network, seven):
    bad = seven.with_name("bad.png")
    bad.write_bytes(seven.read_bytes()[:100])
    first, failed, last = predict_files(network, [seven, bad, seven], show=True)
    assert (first.label, first.failed, first) == ("7", False, last)
    assert failed.problem.startswith("cannot be read as an image: ")
    with Image.open(seven.with_name("seven.png.seen.png")) as picture:
        assert picture.width > picture.height
    names = {path.name for path in seven.parent.iterdir()}
    assert names == {"seven.png", "seven.png.seen.png", "blank.png", "bad.png"}


def test_an_answer_that_the_network_is_not_sure_of_is_marked(network, seven):
    def apply(_, batch):
        return np.full((len(batch), 10), 0.1), np.zeros(len(batch), int)

    (found,) = predict_files(network._replace(apply=apply), [seven])
    assert "not sure" in found.problem
    assert str(found).endswith(f"; but {found.problem}")
