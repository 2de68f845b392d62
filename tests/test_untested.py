"""Runs without a test split, or with one that is not measured."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import TINY, results, strict_json, times, write_recipe

from mnist_jax import population, report, start, train
from mnist_jax.cli.main import main
from mnist_jax.events import Done
from mnist_jax.exporting.model_card import create_card, format_card
from mnist_jax.laboratory.verify import verify
from mnist_jax.progress import console
from mnist_jax.reporting.tensorboard import tensorboard
from mnist_jax.serving.serve import about
from mnist_jax.workdir import trained as trained_module
from mnist_jax.workdir.run import read_result
from mnist_jax.workdir.trained import load_trained

ONE_EPOCH = dataclasses.replace(TINY, epochs=1)


@pytest.fixture(scope="module")
def untested(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Trains a run without its test; tests only read it."""
    workdir = tmp_path_factory.mktemp("untested") / "run"
    return workdir, train(ONE_EPOCH, workdir, test=False, listeners=[tensorboard(workdir)])


@pytest.fixture
def without_test(monkeypatch):
    for module in (start, trained_module):
        load: Any = module.load_splits

        def load_two(*, load: Any = load, **fields: Any) -> Any:
            splits, names = load(**fields)
            return {name: splits[name] for name in ("train", "validation")}, names

        monkeypatch.setattr(module, "load_splits", load_two)


def test_a_skipped_test_is_measured_later_without_retraining(untested, tmp_path, capsys):
    workdir, run = untested
    assert (run.result["test_loss"], run.result["test_accuracy"]) == (None, None)
    assert "guessing" not in run.result
    assert read_result(workdir) == run.result
    before = times(workdir)
    assert train(ONE_EPOCH, workdir, test=False, listeners=[console()]).result == run.result
    shown = f"validation accuracy {run.result['val_accuracy']:.2%}, test not measured"
    assert f"is already trained: {shown}\n" in capsys.readouterr().out
    assert times(workdir) == before

    later = Path(shutil.copytree(workdir, tmp_path / "later"))
    completed = train(ONE_EPOCH, later, listeners=[console()])
    assert "epoch" not in capsys.readouterr().out.replace("--epochs", "")
    assert completed.result["params_sha256"] == run.result["params_sha256"]
    at_once = train(ONE_EPOCH, tmp_path / "at-once")
    assert results(completed) == results(at_once)
    assert strict_json(later / "result.json") == completed.result
    again = train(ONE_EPOCH, later, test=False)
    assert again.result == completed.result  # the test stays


def test_validation_is_shown_if_the_test_is_not_measured(untested, capsys):
    workdir, run = untested
    accuracy = run.result["val_accuracy"]
    console()(Done(workdir, run.result, run.history, trained=False))
    assert f"validation accuracy {accuracy:.2%}, test not measured" in capsys.readouterr().out
    (found,) = report(workdir, workdir.parent / "page.html").networks
    assert (found["split"], found["accuracy"]) == ("validation", pytest.approx(accuracy))
    assert "The test has not been measured." in (workdir.parent / "page.html").read_text("utf-8")
    both = report([workdir, workdir], workdir.parent / "both.html").networks
    assert {each["split"] for each in both} == {"validation"}
    trained = load_trained(workdir)
    card = create_card(b"", "file", "onnx", trained, run.result)
    assert card["figures"] == {"val_accuracy": accuracy, "test_accuracy_ci95": None}
    assert f"- Validation accuracy: {accuracy:.2%}" in format_card(card)
    assert about(trained, workdir).test_accuracy is None
    assert {path.name for path in (workdir / "tensorboard").glob("*/")} == {"train", "validation"}
    assert verify(workdir) == []


def test_the_train_command_leaves_the_test_out_with_no_test(untested, tmp_path, capsys):
    workdir, run = untested
    recipe = write_recipe(tmp_path / "recipe.json", ONE_EPOCH)
    before = times(workdir)
    options = [f"--config={recipe}", f"--workdir={workdir}", "--no-test", "--json"]
    assert main(["train", *options]) == 0
    assert json.loads(capsys.readouterr().out) == {"workdir": str(workdir), **run.result}
    assert times(workdir) == before


@pytest.mark.usefixtures("without_test")
def test_data_without_a_test_split_give_a_complete_run(tmp_path, capsys):
    workdir = tmp_path / "run"
    run = train(ONE_EPOCH, workdir, listeners=[console()])
    assert run.result["test_accuracy"] is None
    assert "guessing" not in run.result
    before = times(workdir)
    assert train(ONE_EPOCH, workdir, listeners=[console()]).result == run.result
    assert times(workdir) == before
    assert capsys.readouterr().out.count("test not measured") == 2
    assert report(workdir).networks[0]["split"] == "validation"
    assert verify(workdir) == []
    result: Any = population(ONE_EPOCH, tmp_path / "population", seeds=1)
    assert result["test_accuracy"] == [None]
    assert population(ONE_EPOCH, tmp_path / "population", seeds=1) == result


def test_the_test_of_a_population_is_measured_later_without_retraining(tmp_path, capsys):
    options: Any = {"seeds": 2, "vary": {"label_smoothing": [0.1, 0.2]}}
    show: Any = {"listeners": [console()]}
    result: Any = population(ONE_EPOCH, tmp_path / "run", **options, test=False, **show)
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"best in validation: label_smoothing=0.\d; test .* not measured", last)
    assert (result["test_accuracy"], result["test_loss"]) == ([None] * 4, [None] * 4)
    assert [each["mean"] for each in result["combinations"]] == [None] * 2
    assert all(each["validation"]["ci95"] for each in result["combinations"])
    completed = population(ONE_EPOCH, tmp_path / "run", **options, **show)
    assert "epoch" not in capsys.readouterr().out
    at_once = population(ONE_EPOCH, tmp_path / "at-once", **options)
    assert completed["test_loss"] == pytest.approx(at_once["test_loss"], rel=1e-5)
    assert completed.keys() == at_once.keys()
    others = completed.keys() - {"test_loss", "combinations", "members", "seconds"}
    assert {n: completed[n] for n in others} == {n: at_once[n] for n in others}
    assert strict_json(tmp_path / "run" / "population.json") == completed
