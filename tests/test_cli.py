"""The command as a user types it."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL
from sklearn.metrics import accuracy_score

from mnist_jax.cli import main

RECIPES = Path(__file__).parent.parent / "configs"


def test_the_smoke_recipe_from_start_to_scikit_learn(tmp_path, command):
    workdir = tmp_path / "smoke"
    trained = command("train", "--config", RECIPES / "smoke.py", "--workdir", workdir)
    assert (trained.returncode, trained.stderr) == (0, "")
    assert "\x1b" not in trained.stdout  # no colours and no bar where there is no terminal
    assert len(trained.stdout.splitlines()) == 4 + 1
    result = json.loads((workdir / "result.json").read_text())
    assert result["test_accuracy"] > 0.8

    evaluated = command("evaluate", "--workdir", workdir)
    assert f"accuracy {result['test_accuracy']:.2%} of 512 images  (step 64)" in evaluated.stdout

    output = tmp_path / "predictions.npz"
    predicted = command("predict", "--workdir", workdir, "--output", output)
    assert (predicted.returncode, predicted.stderr) == (0, "")
    with np.load(output) as saved:
        assert saved["probabilities"].shape == (512, 10)
        assert accuracy_score(saved["labels"], saved["classes"]) == result["test_accuracy"]

    again = command("train", "--config", RECIPES / "smoke.py", "--workdir", workdir)
    assert again.returncode == 0
    assert "is complete" in again.stdout


def test_the_workdir_is_named_after_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", str(RECIPES / "smoke.py"), "--epochs", "1"]) == 0
    assert json.loads((tmp_path / "runs/smoke/config.json").read_text())["epochs"] == 1


def test_summary_prints_the_table(capsys):
    assert main(["summary"]) == 0
    assert "347,146" in capsys.readouterr().out
    assert main(["summary", "--model.features", "8", "--image-shape", "12", "12", "3"]) == 0
    assert "10x10x8" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "summary"])
def test_help_lists_every_option(name, capsys):
    assert main([name, "--help"]) == 0
    assert "--debug" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert name in capsys.readouterr().out


BAD = {
    "": "Expected one of {train, evaluate, predict, summary}",
    "trane": "Unrecognized options: trane (see mnist-jax --help)",
    "train --epoch 3": "Unrecognized options: --epoch, 3; perhaps you meant",
    "train --epochs three": "--epochs: invalid literal for int()",
    "train --epochs 0": "epochs must be at least 1, got 0",
    "train --epochs": "--epochs",
    "train --optimizer.learning-rate nan": "optimizer.learning_rate must be above 0 and finite",
    "train --optimizer.learning-rate -1": "optimizer.learning_rate must be above 0 and finite",
    "train --model.dropout-rate 1": "model.dropout_rate must be at least 0 and below 1",
    "train --model.name cnm": "model.name is 'cnm'; expected one of cnn",
    "train --model.kernel-size 40": "images of 28x28 pixels are too small for a kernel of 40",
    "train --model.num-classes 4": "labels are 0 to 9, but model.num_classes is 4",
    "train --data.dataset ../x": "data.dataset must be a tfds name",
    "train --data.dataset nothing_here": "dataset 'nothing_here' is not prepared",
    "train --data.train-split valid": "cannot give the split 'valid' (it has train, test)",
    "train --data.train-split train[:0]": "cannot give the split 'train[:0]'",
    "train --data.train-split train[": "train[",
    "train --config missing.py": "there is no config file 'missing.py'",
    "train --config=broken.py": "broken.py: ZeroDivisionError: division by zero",
    "train --config": "--config",
    "train --workdir a-file": "the workdir a-file is a file",
    "train --workdir a-file/below": "a-file/below",
    "train --workdir other-run --epochs 3": "epochs is 2, not 3",
    "train --workdir broken-run": "is not JSON",
    "evaluate": "--workdir",
    "evaluate --workdir nowhere": "there is no trained network in nowhere",
    "evaluate --workdir a-file": "the workdir a-file is a file",
    "evaluate --workdir other-run": "there is no trained network in other-run",
    "evaluate --workdir RUN --split tset": "tset",
    "evaluate --workdir RUN --step 3": "holds no step 3, but the steps",
    "evaluate --workdir RUN --step newest": "holds no step newest",
    "predict --workdir RUN": "--output",
    "predict --workdir RUN --output p.txt": "--output must end in .npz, got p.txt",
    "predict --workdir RUN --output no/such/p.npz": "there is no directory no/such",
    "predict --workdir nowhere --output p.npz": "there is no trained network in nowhere",
    "evaluate --workdir empty-run": "holds no step latest, but nothing yet",
    "train --data.dataset cache": "dataset 'cache' is not prepared",
    "train --data.train-split train[:1]": "leave none for train",
    "train --config=": "there is no config file ''",
    "summary --image-shape 28 28 0": "--image-shape must be positive",
    "summary --model.kernel-size 30": "images of 28x28 pixels are too small",
}


@pytest.mark.parametrize(("arguments", "message"), BAD.items())
def test_bad_input_is_one_line_and_changes_nothing(
    arguments, message, tmp_path, monkeypatch, capsys, small_run
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").write_text("precious")
    (tmp_path / "broken.py").write_text("1 / 0")
    for name, text in {"other-run": '{"epochs": 2}', "broken-run": "{"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    (tmp_path / "empty-run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "empty-run" / "config.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    code = main(arguments.replace("RUN", str(small_run[0])).split())

    output = capsys.readouterr()
    assert (code, output.out) == (2, "")
    assert output.err.count("\n") == 1
    assert output.err.startswith("error: ")
    assert message in output.err
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert not (tmp_path / "runs").exists()


def test_a_damaged_checkpoint_is_one_line_for_every_command(tmp_path, capfd, small_run):
    workdir = tmp_path / "run"
    shutil.copytree(small_run[0], workdir)
    (workdir / "result.json").unlink()  # as if the run had been stopped at the end
    (workdir / "checkpoints" / "16" / "params" / "manifest.ocdbt").write_bytes(b"")
    small = ["--data.train-split", "train[:1280]", "--data.test-split", "test[:500]"]
    options = {
        "evaluate": [],
        "predict": ["--output", str(tmp_path / "p.npz")],
        "train": ["--epochs", "2", "--chunk-steps", "4", *small],
    }
    for name, extra in options.items():
        assert main([name, "--workdir", str(workdir), *extra]) == 2
        error = capfd.readouterr().err
        assert error.startswith(f"error: the checkpoint {workdir / 'checkpoints' / '16'} cannot be")
        assert "params/manifest.ocdbt is not as SHA256SUMS says; delete that" in error
        assert error.count("\n") == 1


def test_the_last_config_counts_like_every_option(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, features in {"a.py": 3, "b.py": 5}.items():
        model = f"ModelConfig(features={features})"
        code = "from mnist_jax.config import *\ndef get_config(): return Config(model=%s)"
        (tmp_path / name).write_text(code % model)
    assert main(["summary", "--config", "a.py", "--config=b.py"]) == 0
    assert "26x26x5" in capsys.readouterr().out


def test_checkpoints_that_cannot_be_written_are_one_line(tmp_path, command):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(dataclasses.asdict(SMALL)))
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(SMALL)))
    (tmp_path / "run" / "checkpoints").write_text("a file")
    train = command("train", "--config", tmp_path / "config.json", "--workdir", tmp_path / "run")
    assert (train.returncode, train.stdout) == (2, "")
    assert train.stderr.count("\n") == 1


def test_a_closed_pipe_ends_it_quietly():
    line = f"{sys.executable} -m mnist_jax summary | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout in ("141\n", "0\n")  # 0 where the pipe was still open
    assert done.stderr == ""


def test_divergence_has_an_exit_code_of_its_own(tmp_path, capsys):
    learning_rate = ["--optimizer.learning-rate", "1e30"]
    split = ["--data.train-split", SMALL.data.train_split]
    assert main(["train", "--workdir", str(tmp_path / "run"), *learning_rate, *split]) == 3
    assert "training diverged in epoch 1" in capsys.readouterr().err


def test_debug_shows_where(tmp_path, capsys):
    assert main(["evaluate", "--workdir", str(tmp_path / "nowhere"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("mnist-jax 0.")
