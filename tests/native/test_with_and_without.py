"""What a user sees with the kernel and without a compiler."""

import dataclasses

import pytest
from helpers import strict_json
from subprocesses import CONFIG, OPTIONS, options

from mnist_jax import Config, train
from mnist_jax.cli.main import main
from mnist_jax.config import ModelConfig
from mnist_jax.native.library import load
from mnist_jax.workdir.origin import environment

COMPILERS = "$CXX or one of c++, g++, clang++ is used"
ADVICE = f"no C++ compiler is found: install g++ or clang++ ({COMPILERS})"
TRAIN_ADVICE = f"convolutions are matrix products, which is slower: {ADVICE}"


@pytest.fixture
def no_compiler(tmp_path):
    (tmp_path / "empty").mkdir()
    return {"PATH": str(tmp_path / "empty")}


def test_a_training_without_a_compiler_advises_in_one_line(command, tmp_path, no_compiler):
    given = [*OPTIONS, "--epochs=1", f"--workdir={tmp_path / 'run'}"]
    done = command("train", *given, **no_compiler)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines().count(TRAIN_ADVICE) == 1
    assert "C++" not in done.stdout.replace(TRAIN_ADVICE, "")
    assert strict_json(tmp_path / "run" / "result.json")["native_compiler"] == ""


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"features": 4, "lowering": "matmul"}, {"name": "mlp"}])
def test_a_network_that_never_takes_the_kernel_gets_none(fields, command, tmp_path, no_compiler):
    config = dataclasses.replace(CONFIG, epochs=1, model=ModelConfig(hidden_size=8, **fields))
    done = command("train", *options(config), f"--workdir={tmp_path / 'run'}", **no_compiler)
    assert (done.returncode, done.stderr) == (0, "")
    assert "C++" not in done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("native")
def test_a_run_with_the_kernel_is_verified_and_resumed_without_it(command, tmp_path, no_compiler):
    workdir = tmp_path / "run"
    train(CONFIG, workdir)
    assert strict_json(workdir / "result.json")["native_compiler"] == load().compiler
    assert main(["verify", f"--workdir={workdir}"]) == 0
    done = command("verify", f"--workdir={workdir}", **no_compiler)
    assert done.returncode in (0, 4)  # different sums round differently
    assert "was made in a different environment (native_compiler is " in done.stderr
    given = [*OPTIONS, f"--epochs={CONFIG.epochs + 1}", "--extend", f"--workdir={workdir}"]
    done = command("train", *given, **no_compiler)
    assert done.returncode == 0
    assert "resumes in a different environment (native_compiler is " in done.stderr


@pytest.mark.usefixtures("native")
def test_doctor_and_summary_name_the_kernel(capsys):
    assert main(["summary"]) == 0
    assert "\nlowered here: conv1 native\n" in capsys.readouterr().out
    main(["doctor"])
    assert f"native kernel       compiled by {load().compiler}\n" in capsys.readouterr().out


@pytest.mark.slow
def test_doctor_and_summary_name_the_lowering_without_a_compiler(command, no_compiler):
    done = command("summary", **no_compiler)
    assert "\nlowered here: conv1 matmul\n" in done.stdout
    done = command("doctor", **no_compiler)
    assert "native kernel       none: convolutions are matrix products\n" in done.stdout
    assert f"-> {ADVICE}\n" in done.stdout


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("lowering", ["auto", "native", "matmul"])
@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_recipes_that_may_use_the_kernel_record_the_compiler(name, lowering):
    recipe = dataclasses.asdict(Config(model=ModelConfig(name=name, lowering=lowering)))
    recorded = load().compiler if name == "cnn" and lowering != "matmul" else ""
    assert environment(recipe)["native_compiler"] == recorded
