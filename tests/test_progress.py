"""The lines and the progress bar of a training."""

import dataclasses
import io
import re
import sys
from typing import Any

import pytest
from scripted import LESSON, scripted

from mnist_jax import population, progress, start, train
from mnist_jax.config import replace_fields
from mnist_jax.events import Done
from mnist_jax.processes import distributed
from mnist_jax.progress import console, show_result


def test_a_population_prints_the_number_of_seeds_of_each_combination(tmp_path, capsys):
    config = replace_fields(LESSON, {"epochs": 1, "augment.shift": 1.0})
    how: Any = {"vary": {"label_smoothing": [0.1, 0.2], "augment.shift": [2.0]}}
    how |= {"seeds": 2, "listeners": [console()]}
    with scripted(accuracies=[[0.5, 0.75, 0.25, 0.25]]):
        result: Any = population(config, tmp_path / "two", **how)
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert lines[1] == (
        "label_smoothing=0.2 augment.shift=2.0 validation accuracy 25.00 % "
        "(std 0.00, 95 % interval 25.00 to 25.00, 2 seeds)"
    )
    first = "label_smoothing=0.1 augment.shift=2.0"
    assert lines[0].startswith(f"{first} validation accuracy 62.50 % (std 17.68, 95 % interval ")
    assert lines[2].startswith(f"best in validation: {first}; test accuracy 62.50 % (std 17.68, ")
    assert [one["mean"] for one in result["combinations"]] == [0.625, 0.25]
    assert [one["validation"]["mean"] for one in result["combinations"]] == [0.625, 0.25]
    with scripted(accuracies=[[0.5, 0.5, 0.25]]):
        result: Any = population(config, tmp_path / "three", seeds=3, listeners=[console()])
    lines = capsys.readouterr().out.splitlines()[-5:]
    assert lines[0] == "seed-0  validation 50.00%  test 50.00%"
    assert lines[3].startswith("validation accuracy 41.67 % (std 14.43, 95 % interval ")
    assert re.fullmatch(r"test accuracy 41.67 % \(std 14.43, 95 % interval .*, 3 seeds\)", lines[4])
    assert result["validation"] == {name: result[name] for name in ("mean", "std", "ci95")}


def test_train_prints_a_line_per_epoch_a_plateau_and_the_test_result(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    fields = {"epochs": 13, "data.loader": "stream", "watch.plateau_patience": 4}
    config = replace_fields(LESSON, fields | {"watch.plateau_factor": 0.5})
    with scripted(accuracies=[0.5, 0.625], seconds={"data": 0.25, "run": 4.0}):
        train(config, tmp_path, listeners=[console()])
    first, *lines, took = capsys.readouterr().out.splitlines()
    assert first == f"cnn (1 parameters) on CPU, mnist 16/4/4, in {tmp_path}"
    assert len(lines) == 13 + 2 + 1
    for number, factor in ((5, 0.5), (10, 0.25)):  # after epochs 5 and 9
        assert lines[number] == f"plateau: learning rate times {factor} from here on"
    assert lines[1] == (
        "epoch  2/13  train loss 0.0354 accuracy 50.00%  validation loss 1.0000 accuracy 62.50%  "
        "12.8 s, 1 images/s, waited 0.75 s for images"
    )
    assert lines[14].startswith("epoch 13/13  train loss")
    assert lines[15] == "test loss 2.0000  accuracy 62.50% of 4 images"
    assert re.match(r"[\d.]+ s: ", took)


def test_population_prints_a_line_per_epoch_and_per_member(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with scripted(accuracies=[[0.5, 0.75]]):
        population(dataclasses.replace(LESSON, epochs=10), tmp_path, seeds=2, listeners=[console()])
    _, *lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "epoch  1/10  train accuracy 50.00 ± 8.84 %  validation accuracy 62.50 ± 17.68 %  "
        "3.0 s, 11 images/s"
    )
    assert lines[9].startswith("epoch 10/10  train accuracy")
    assert lines[10] == "seed-0  validation 50.00%  test 50.00%"
    assert lines[11] == "seed-1  validation 75.00%  test 75.00%"


@pytest.mark.parametrize(("accuracies", "nothing"), [([0.25, 0.5], True), ([0.25, 0.75], False)])
def test_a_population_of_which_no_member_has_learned_says_so(
    tmp_path, capsys, accuracies, nothing, monkeypatch
):
    """Two of the four test images are of one class."""
    monkeypatch.setattr(start, "guessing", lambda *_: {"loss": 9.0, "accuracy": 0.5})
    with scripted(accuracies=[accuracies]):
        population(LESSON, tmp_path, seeds=2, listeners=[console()])
    line = "none of them is better than guessing; try a lower --optimizer.learning-rate"
    assert capsys.readouterr().out.splitlines()[-1].startswith(line) == nothing


def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    output = io.StringIO()
    output.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", output)
    return output


@pytest.mark.parametrize(("run", "options"), [(train, {}), (population, {"seeds": 2})])
def test_the_accuracies_stand_beside_the_bar(tmp_path, monkeypatch, run, options):
    shown = terminal(monkeypatch)
    with scripted(accuracies=[0.625]):
        run(LESSON, tmp_path, **options, listeners=[console()])
    # Those of the previous chunk, and of the previous epoch.
    assert re.search(r"epoch 2/.*, loss [\d.]+, train 50.0%, validation 62.5%", shown.getvalue())


def test_the_bar_is_gone_when_a_training_fails(tmp_path, monkeypatch):
    shown = terminal(monkeypatch)
    with scripted(diverges={0: 12}), pytest.raises(FloatingPointError):
        train(LESSON, tmp_path, listeners=[console()])
    assert re.fullmatch(r".* left.*\r +\r", shown.getvalue(), re.DOTALL)


def test_only_the_first_of_several_processes_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(distributed, "is_first", lambda: False)
    console()(Done(tmp_path, {"test_accuracy": 0.5}, [], trained=False))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("columns", [80, 60, 40])
@pytest.mark.parametrize(("run", "options"), [(train, {}), (population, {"seeds": 2})])
def test_the_lines_of_a_run_fit_the_terminal(tmp_path, monkeypatch, capsys, columns, run, options):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(tmp_path)
    with scripted(accuracies=[0.625], seconds={"data": 0.25, "run": 40.0}):
        run(replace_fields(LESSON, {"epochs": 10}), "runs/mine", **options, listeners=[console()])
    lines = capsys.readouterr().out.splitlines()
    assert sum(bool(re.match(r"(epoch )? ?\d+/10  ", line)) for line in lines) == 10
    described = [line for line in lines if not line.startswith(("validation", "test accuracy"))]
    assert max(map(len, described)) <= columns, described
    assert "in runs/mine" in "".join(lines[:4])


def test_the_next_command_can_run_as_installed(tmp_path, monkeypatch, capsys):
    """Without the packages that `report` needs, another command is proposed."""
    result: Any = {"seconds": {}, "test_loss": 0.5, "test_accuracy": 0.5}
    for installed, command in ((True, "report"), (False, "verify")):
        monkeypatch.setattr(progress, "has_extra", lambda _, there=installed: there)
        show_result(tmp_path, result)
        assert f" {command} {tmp_path}" in capsys.readouterr().out
