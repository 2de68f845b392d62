"""Names that a terminal would obey: of files, directories and classes, in what commands print."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from mnist_jax.cli.main import main
from mnist_jax.messages import PrintableStream
from mnist_jax.network import load_network

HOSTILE = {
    "colour": "a\x1b[31mb",
    "clear": "a\x1b[2Jb",
    "title": "a\x1b]0;title\ab",
    "link": "a\x1b]8;;http:b\x1b\\c",
    "turned around": "a\u202egnp.b",
    "isolate": "a\u2066b",
    "bell": "a\ab",
    "carriage return": "a\rb",
    "backspace": "a\b\bb",
    "C1": "a\x9b31mb",
    "newline": "a\nerror: b",
    "line separator": "a\u2028b",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_stream_spells_out_what_a_terminal_would_obey(kind):
    stream = io.StringIO()
    print(HOSTILE[kind], "é 日本", file=PrintableStream(stream))
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()
    assert line.endswith("b é 日本") or "\\" in line
    assert line.startswith("a\\")


@pytest.mark.parametrize("kind", HOSTILE)
def test_predict_prints_a_line_for_a_file_of_any_name(kind, small_run, tmp_path, capsys):
    path = tmp_path / f"{HOSTILE[kind]}.png"
    Image.fromarray(np.eye(28, dtype=np.uint8) * 255).save(path, "PNG")
    bad = tmp_path / f"{HOSTILE[kind]}.csv"
    bad.write_text("x", encoding="utf-8")
    assert main(["predict", str(path), str(bad), "--workdir", str(small_run[0])]) == 4
    out, err = capsys.readouterr()
    assert [line.isprintable() for line in out.splitlines()] == [True, True]
    assert err == ""


@pytest.mark.parametrize("command", ["evaluate", "report", "export", "predict", "verify"])
def test_a_command_prints_the_name_of_a_directory(command, small_run, tmp_path, capsys):
    workdir = shutil.copytree(small_run[0], tmp_path / "a\x1b[31m\a\u202e\x9b\rb")
    options = {
        "export": ["--format", "stablehlo", "--output", str(workdir / "net")],
        "predict": ["--output", str(workdir / "x.npz")],
    }.get(command, [])
    if command == "verify":
        history = workdir / "metrics.jsonl"
        text = history.read_text(encoding="utf-8")
        history.write_text(text.replace('"val_loss": ', '"val_loss": 1'), encoding="utf-8")
    code = main([command, "--workdir", str(workdir), *options])
    out, err = capsys.readouterr()
    assert code == (4 if command == "verify" else 0), err
    assert all(line.isprintable() for line in out.splitlines())
    assert command == "evaluate" or r"a\x1b[31m\x07\u202e\x9b\rb" in out
    assert "\nerror:" not in out


def test_the_names_of_classes_are_printed(small_run, tmp_path, capsys, monkeypatch):
    hostile = (*HOSTILE.values(),)[:10]
    network = load_network(small_run[0])
    foreign = network._replace(info=network.info._replace(label_names=hostile))
    monkeypatch.setattr("mnist_jax.network.load_network", lambda *_, **__: foreign)
    Image.fromarray(np.eye(28, dtype=np.uint8) * 255).save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "a.png")]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out[:-1].isprintable()
