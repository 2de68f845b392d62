"""The command as a user types it."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers import RECIPES, bits, strict_json, write_recipe
from sklearn.metrics import accuracy_score
from subprocesses import CONFIG

from mnist_jax import Config, train
from mnist_jax.cli.commands import COMMANDS
from mnist_jax.cli.main import main

SMALL_MODEL = ["--model.features", "4", "--model.hidden-size", "16"]


def test_the_smoke_recipe_from_start_to_scikit_learn(tmp_path, command, capsys):
    workdir, output = tmp_path / "smoke", tmp_path / "predictions.npz"
    trained = command("train", "--config", RECIPES / "smoke.py", "--workdir", workdir)
    assert (trained.returncode, trained.stderr) == (0, "")
    lines = trained.stdout.splitlines()
    begins = [line[:5] for line in lines]
    assert [begin for begin in begins if begin in ("epoch", "test ")] == ["epoch"] * 4 + ["test "]
    assert "".join(lines).isprintable()  # a pipe gets plain lines
    assert "│" not in trained.stdout
    result = strict_json(workdir / "result.json")
    assert result["test_accuracy"] > 0.8

    def run(*args: object) -> str:
        assert main([*map(str, args), "--workdir", str(workdir)]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    expected = f"accuracy {result['test_accuracy']:.2%} of 512 images  (step 64)"
    assert expected in run("evaluate")
    run("predict", "--output", output)
    with np.load(output) as saved:
        assert saved["probabilities"].shape == (512, 10)
        assert accuracy_score(saved["labels"], saved["classes"]) == result["test_accuracy"]
    assert "is already trained" in run("train", "--config", RECIPES / "smoke.py")


def test_the_workdir_is_named_after_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", f"--config={RECIPES / 'smoke.py'}", "--epochs=1", *SMALL_MODEL]) == 0
    assert strict_json(tmp_path / "runs/smoke/config.json")["epochs"] == 1


def test_summary_prints_the_table(capsys):
    assert main(["summary"]) == 0
    assert "347,146" in capsys.readouterr().out
    assert main(["summary", "--model.features", "8", "--image-shape", "12", "12", "3"]) == 0
    assert "10x10x8" in capsys.readouterr().out


def test_help_lists_every_command_and_every_option_of_a_recipe(capsys):
    assert main(["--help"]) == 0
    commands = capsys.readouterr().out
    assert all(name in commands for name in COMMANDS)
    assert main(["train", "--help-all"]) == 0
    options = {*re.findall(r"--[\w.-]+", capsys.readouterr().out)}
    fields = flatten_dict(dataclasses.asdict(Config()), sep=".")
    assert {f"--{field.replace('_', '-')}" for field in fields} <= options
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("mnist-jax 0.")


def test_the_last_config_counts_like_every_option(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, features in {"a.py": 3, "b.py": 5}.items():
        model = f"ModelConfig(features={features})"
        code = "from mnist_jax.config import *\ndef get_config(): return Config(model=%s)"
        (tmp_path / name).write_text(code % model, encoding="utf-8")
    assert main(["summary", "--config", "a.py", "--config=b.py"]) == 0
    assert "26x26x5" in capsys.readouterr().out


@pytest.mark.slow
def test_a_closed_pipe_ends_a_command_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    summary = [sys.executable, "-m", "mnist_jax", "summary"]
    done = subprocess.run(summary, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_debug_shows_where_an_error_is_raised(tmp_path, capsys):
    assert main(["evaluate", "--workdir", str(tmp_path / "nowhere"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("closed", "command"),
    [
        (">&-", "train --overwrite"),
        (">&- 2>&- <&-", "train --epochs=0"),
        pytest.param("2>&-", "verify", marks=pytest.mark.slow),
        pytest.param("<&-", "evaluate --json", marks=pytest.mark.slow),
        pytest.param(">&- 2>&- <&-", "report", marks=pytest.mark.slow),
        pytest.param(">&-", "train --epochs=0", marks=pytest.mark.slow),
    ],
)
def test_closed_standard_streams_change_neither_result_nor_exit_code(tmp_path, closed, command):
    config = dataclasses.replace(CONFIG, epochs=1)
    recipe, workdir = write_recipe(tmp_path / "recipe.json", config), tmp_path / "run"
    train(config, workdir, listeners=())
    before = bits(workdir)
    name, *options = [*command.split(), f"--workdir={workdir}"]
    if name == "train":
        options.append(f"--config={recipe}")
    call = shlex.join([sys.executable, "-m", "mnist_jax", name, *options])
    done = subprocess.run(f"{call} {closed}", shell=True, capture_output=True, text=True)
    fails = "--epochs=0" in command
    assert done.returncode == (2 if fails else 0), done
    said = "error: epochs must be at least 1, got 0\n" if fails and "2" not in closed else ""
    assert done.stderr == said
    assert {name: value for name, value in bits(workdir).items() if name != "report.html"} == before
