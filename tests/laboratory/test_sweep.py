import contextlib
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from helpers import RECIPES, strict_json
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from mnist_jax import Epoch, console, evaluate, program, train
from mnist_jax.cli.main import main
from mnist_jax.config import load_config, replace_fields
from mnist_jax.laboratory.sweep import load_search_space, sweep
from mnist_jax.workdir.history import read_history, write_history

# Four steps per epoch; the processes read it from a file.
RECIPE = """
from mnist_jax import Config
from mnist_jax.config import DataConfig, ModelConfig

def get_config():
    return Config(
        epochs=6,
        chunk_steps=4,
        data=DataConfig(train_split="train[:640]", test_split="test[:100]"),
        model=ModelConfig(features=2, hidden_size=16),
    )

def get_search_space():
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        "optimizer.learning_rate": FloatDistribution(1e-3, 1e-2, log=True),
        "model.hidden_size": CategoricalDistribution([8, 16]),
    }
"""
_recipe: dict[str, Any] = {}
exec(RECIPE, _recipe)
TINY, SPACE = _recipe["get_config"](), _recipe["get_search_space"]()
TWO_EPOCHS = dataclasses.replace(TINY, epochs=2)
TRIALS = 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Runs a search in which measuring the test split would fail."""
    compile_training = program.compile_training

    def compile_without_test(*args, **fields):
        compiled = compile_training(*args, **fields)

        def measure(state, split):
            assert split != "test"
            return compiled.measure(state, split)

        return compiled._replace(measure=measure)

    workdir = tmp_path_factory.mktemp("sweep") / "search"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "compile_training", compile_without_test)
        return workdir, sweep(TINY, SPACE, workdir, trials=TRIALS)


@pytest.fixture
def imitated(monkeypatch):
    """Replaces training by a formula, for tests of many trials."""

    def imitated_train(config, workdir, *, test, listeners, **_):
        assert not test
        workdir.mkdir(parents=True, exist_ok=True)
        accuracy = 1 / (1 + abs(config.optimizer.learning_rate - 3e-3) * 100)
        rows: Any = []
        for epoch in range(1, config.epochs + 1):
            rows.append({"epoch": epoch, "step": epoch, "val_accuracy": accuracy - 0.1 / epoch})
            write_history(workdir, rows)
            listeners[0](Epoch(rows[-1], None, rows))

    monkeypatch.setattr("mnist_jax.laboratory.sweep.train", imitated_train)


@contextlib.contextmanager
def opened(url: str, name: str = "sweep") -> Iterator[optuna.Study]:
    storage = optuna.storages.RDBStorage(url)
    yield optuna.load_study(study_name=name, storage=storage)
    storage.remove_session()
    storage.engine.dispose()


def load_study(workdir: Path) -> list[optuna.trial.FrozenTrial]:
    with opened(f"sqlite:///{workdir}/sweep.db") as study:
        return study.trials


def in_order(trials):
    return [(t.number, t.state, t.params, t.value) for t in sorted(trials, key=lambda t: t.number)]


@pytest.mark.usefixtures("imitated")
def test_the_sweep_command_answers_in_json(tmp_path, capsys):
    (tmp_path / "recipe.py").write_text(RECIPE, encoding="utf-8")
    options = ["--config", str(tmp_path / "recipe.py"), "--workdir", str(tmp_path / "run")]
    assert main(["sweep", *options, "--trials", "2", "--json"]) == 0
    trials = json.loads(capsys.readouterr().out)
    assert sorted(trial["number"] for trial in trials) == [0, 1]


@pytest.mark.slow
def test_a_search_makes_the_asked_number_of_trials_each_an_ordinary_run(finished):
    workdir, trials = finished
    assert [trial.number for trial in load_study(workdir)] == [0, 1, 2]
    assert trials == sorted(trials, key=lambda trial: -trial.value)
    for trial in trials:
        directory = workdir / "trials" / str(trial.number)
        rows = read_history(directory)
        assert [row["epoch"] for row in rows] == [*range(1, 7)]
        assert trial.value == rows[-1]["val_accuracy"] == trial.intermediate_values[6]
        assert load_config(directory / "config.json") == replace_fields(TINY, trial.params)
        assert evaluate(directory, "validation")["accuracy"] == trial.value
        assert not {".lock", ".claim"} & {path.name for path in directory.iterdir()}
    assert load_config(workdir / "best.json") == replace_fields(TINY, trials[0].params)


@pytest.mark.slow
def test_the_test_split_is_not_measured_until_train_finishes_the_run(finished, tmp_path, capsys):
    """The fixture fails if it is measured."""
    workdir, trials = finished
    tested = [strict_json(path)["test_accuracy"] for path in workdir.rglob("result.json")]
    assert tested == [None] * TRIALS
    best = shutil.copytree(workdir / "trials" / str(trials[0].number), tmp_path / "best")
    run = train(load_config(workdir / "best.json"), best, listeners=[console()])
    assert run.result["val_accuracy"] == trials[0].value
    assert re.search("\nresuming after step.*\n(?!epoch)", capsys.readouterr().out)


@pytest.mark.slow
def test_a_complete_search_says_so_and_prints_the_best_first(finished, capsys):
    workdir, trials = finished
    before = load_study(workdir)
    lines: list[str] = []
    assert sweep(TINY, SPACE, workdir, trials=2, tell=lines.append) == trials
    assert not capsys.readouterr().out
    assert lines[0] == f"the search in {workdir} is complete: 3 trials"
    assert lines[1].split() == ["trial", "accuracy", "epochs", *trials[0].params]
    assert lines[2].split()[:3] == [str(trials[0].number), f"{trials[0].value:.2%}", "6"]
    assert load_study(workdir) == before


@pytest.mark.slow
def test_a_search_of_an_older_version_is_resumed_with_defaults_of_new_fields(finished, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "search")
    with opened(f"sqlite:///{workdir}/sweep.db") as study:
        made_of = study.user_attrs["made_of"]
        del made_of["config"]["precision"]
        study.set_user_attr("made_of", made_of)
    assert len(sweep(TINY, SPACE, workdir, trials=2)) == TRIALS


@pytest.mark.slow
def test_a_different_config_or_search_space_is_refused(finished):
    shorter = dataclasses.replace(TINY, epochs=5)
    with pytest.raises(ValueError, match=r"different .* \(config.epochs is 6, not 5\): choos"):
        sweep(shorter, SPACE, finished[0], trials=TRIALS)
    wider = SPACE | {"optimizer.learning_rate": FloatDistribution(1e-3, 1e-1, log=True)}
    with pytest.raises(ValueError, match=r"learning_rate.attributes.high is 0.01, not 0.1\)"):
        sweep(TINY, wider, finished[0], trials=TRIALS)


@pytest.mark.slow
@pytest.mark.usefixtures("imitated")
def test_suggestions_depend_only_on_the_seed_and_continue_after_a_pause(tmp_path):
    """Ten are drawn at random, the rest by TPE."""
    whole = sweep(TWO_EPOCHS, SPACE, tmp_path / "whole", trials=14)
    for trials in (1, 2, 11, 14):
        parts = sweep(TWO_EPOCHS, SPACE, tmp_path / "parts", trials=trials)
    assert in_order(parts) == in_order(whole)
    assert len({trial.params["optimizer.learning_rate"] for trial in whole}) == 14
    other = sweep(dataclasses.replace(TWO_EPOCHS, seed=1), SPACE, tmp_path / "other", trials=2)
    assert in_order(other) != in_order(whole)[:2]


@pytest.mark.usefixtures("imitated")
def test_with_early_stopping_the_value_is_the_best_epochs(tmp_path, monkeypatch):
    accuracies = [0.5, 0.8, 0.7]  # a training ends here, below its best

    def falling_train(*_, listeners, **_options):
        rows: Any = []
        for epoch, accuracy in enumerate(accuracies, 1):
            rows.append({"epoch": epoch, "step": epoch, "val_accuracy": accuracy})
            [listener(Epoch(rows[-1], None, rows)) for listener in listeners]

    monkeypatch.setattr("mnist_jax.laboratory.sweep.train", falling_train)
    config = dataclasses.replace(TINY, epochs=9, watch=dataclasses.replace(TINY.watch, patience=1))
    heard: list[Any] = []
    (trial,) = sweep(config, SPACE, tmp_path, trials=1, listeners=[heard.append])
    assert (trial.value, trial.last_step) == (0.8, 3)
    assert [event.row["val_accuracy"] for event in heard] == accuracies


@pytest.mark.slow
def test_bad_trials_are_stopped_early_or_diverge_and_the_search_continues(tmp_path):
    """Of step sizes that learn, learn nothing, and diverge."""
    config = dataclasses.replace(TWO_EPOCHS, seed=3)
    space = {"optimizer.learning_rate": CategoricalDistribution([1e-2, 1e-7, 1e30])}
    trials = sweep(config, space, tmp_path, trials=7)
    assert len(trials) == 7
    by_rate = {rate: [t for t in trials if [*t.params.values()] == [rate]] for rate in (1e-7, 1e30)}
    assert all(by_rate.values())
    for trial in by_rate[1e30]:
        assert (trial.state, trial.value) == (TrialState.COMPLETE, 0)
        assert "the loss is" in trial.user_attrs["diverged"]
    assert trials[0].params == {"optimizer.learning_rate": 1e-2}
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert pruned
    assert trials[-len(pruned) :] == pruned
    for trial in pruned:
        assert trial in by_rate[1e-7]
        directory = tmp_path / "trials" / str(trial.number)
        assert [row["epoch"] for row in read_history(directory)] == [1]
        assert not list((directory / "checkpoints").iterdir())


# `SIGNAL TRIAL ROOT ARGS...`: the command ARGS, which gets a signal when a trial has three rows,
# and so a checkpoint of its first epoch; without a signal, it waits until another one runs a trial.
DISTURBED = """
import os, sys, time
from pathlib import Path
from mnist_jax.laboratory import sweep
from mnist_jax.cli.main import run
from mnist_jax.events import Epoch

signum, trial, root, *sys.argv[1:] = sys.argv[1:]
train_trial = sweep.train

def train_and_end(config, workdir, *, listeners, **options):
    def end(event):
        if isinstance(event, Epoch) and workdir.name == trial and len(event.history) == 3:
            os.kill(os.getpid(), int(signum))
    return train_trial(config, workdir, listeners=[end, *listeners], **options)

def train_beside(*args, **options):
    (Path(root) / f"began-{os.getpid()}").touch()
    while len([*Path(root).glob("began-*")]) < 2:
        time.sleep(0.005)
    return train_trial(*args, **options)

if int(signum):
    sweep.train = train_and_end
else:
    sweep.train = train_beside
run()
"""


def start(root: Path, trials: int, trial: int = -1, signum: int = 0) -> subprocess.Popen[str]:
    (root / "recipe.py").write_text(RECIPE, encoding="utf-8")
    options = [f"--config={root}/recipe.py", f"--workdir={root}/run", f"--trials={trials}"]
    return subprocess.Popen(
        [sys.executable, "-c", DISTURBED, str(int(signum)), str(trial), root, "sweep", *options],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate(timeout=300)
    finally:
        process.kill()


@pytest.mark.slow
def test_stopped_and_killed_trials_resume_and_count_once(tmp_path, finished):
    """Rows from before each end stay, with their times; the results equal `finished`."""
    trials = tmp_path / "run" / "trials"
    process = start(tmp_path, TRIALS, trial=0, signum=signal.SIGTERM)
    saved = "all trials are saved, the unfinished one too; to resume, run the same command again"
    assert end(process)[1] == f"stopped by SIGTERM; {saved}\n"
    assert process.returncode == 128 + signal.SIGTERM
    assert [trial.state for trial in load_study(tmp_path / "run")] == [TrialState.RUNNING]
    before = [read_history(trials / "0")]

    process = start(tmp_path, TRIALS, trial=1, signum=signal.SIGKILL)
    end(process)
    assert process.returncode == -signal.SIGKILL
    assert [trial.state.name for trial in load_study(tmp_path / "run")] == ["COMPLETE", "RUNNING"]
    before.append(read_history(trials / "1"))

    assert len(sweep(load_config(tmp_path / "recipe.py"), SPACE, tmp_path / "run", trials=3)) == 3
    assert in_order(load_study(tmp_path / "run")) == in_order(finished[1])
    for number, first in enumerate(before):
        rows = read_history(trials / str(number))
        assert [row["epoch"] for row in rows] == [*range(1, 7)]
        assert 0 < len(first) < 6
        assert rows[0] == first[0]  # with its seconds: it was not retrained


@pytest.mark.slow
def test_two_processes_share_the_asked_number_of_trials(tmp_path):
    both = [start(tmp_path, 5), start(tmp_path, 5)]
    outputs = [end(process) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert [stderr for _, stderr in outputs] == ["", ""]
    told = [re.findall(r"^trial (\d):", stdout, re.MULTILINE) for stdout, _ in outputs]
    assert all(told), "each has run some"
    assert sorted(told[0] + told[1]) == ["0", "1", "2", "3", "4"]
    trials = load_study(tmp_path / "run")
    assert [trial.state.is_finished() for trial in trials] == [True] * 5
    for trial in trials:
        rows = read_history(tmp_path / "run" / "trials" / str(trial.number))
        assert [row["epoch"] for row in rows] == [*range(1, 7)][: trial.last_step]


@pytest.mark.usefixtures("imitated")
def test_a_trial_killed_while_its_values_were_drawn_is_drawn_again(tmp_path):
    sweep(TWO_EPOCHS, SPACE, tmp_path, trials=1)
    with opened(f"sqlite:///{tmp_path}/sweep.db") as study:
        study.ask()
    trials = sweep(TWO_EPOCHS, SPACE, tmp_path, trials=2)
    assert sorted(trial.number for trial in trials) == [0, 2]


@pytest.mark.slow
@pytest.mark.usefixtures("imitated")
def test_an_external_storage_names_the_study_after_the_workdir(tmp_path):
    """A trial without a directory here is running on another machine."""
    url = f"sqlite:///{tmp_path}/shared.db"
    for name in ("a", "b"):
        assert len(sweep(TWO_EPOCHS, SPACE, tmp_path / name, trials=2, storage=url)) == 2
    with opened(url, "a") as study:
        study.ask(SPACE)
        assert len(sweep(TWO_EPOCHS, SPACE, tmp_path / "a", trials=3, storage=url)) == 2
        assert len(study.trials) == 3
    with pytest.raises(ValueError, match=r"holds trials but no sweep.db: give their --storage"):
        sweep(TWO_EPOCHS, SPACE, tmp_path / "a", trials=3)


@pytest.mark.slow
@pytest.mark.usefixtures("imitated")
def test_the_plots_are_one_page_without_other_files(tmp_path):
    pytest.importorskip("plotly")
    few, many = io.StringIO(), io.StringIO()
    sweep(TWO_EPOCHS, SPACE, tmp_path, trials=1, tell=few.write)
    assert "no plot of the parameter importances: " in few.getvalue()
    sweep(TWO_EPOCHS, SPACE, tmp_path, trials=8, tell=many.write)
    assert "no plot" not in many.getvalue()
    page = (tmp_path / "plots" / "sweep.html").read_text(encoding="utf-8")
    for title in ("optimization history", "parameter importances", "slices", "parallel coordinat"):
        assert f'"text":"{title}' in page
    assert "<script src" not in page


@pytest.mark.slow
@pytest.mark.usefixtures("imitated")
def test_the_shipped_search_fits_its_recipe(tmp_path):
    recipe = RECIPES / "sweep.py"
    config, space = load_config(recipe), load_search_space(recipe)
    (trial,) = sweep(config, space, tmp_path, trials=1)
    assert load_config(tmp_path / "best.json") == replace_fields(config, trial.params)
