import dataclasses
import shutil
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers import SMALL, TESTS, TINY, compilations, make_files, python, strict_json, write_recipe
from scripted import LESSON, scripted
from sklearn.metrics import accuracy_score

from mnist_jax import evaluate, load_dataset, load_network, predict, train
from mnist_jax.config import replace_fields
from mnist_jax.training import PHASES
from mnist_jax.workdir.checkpoint import check_checkpoints
from mnist_jax.workdir.hashing import tree_sha256
from mnist_jax.workdir.history import read_history


def test_a_work_directory_holds_what_the_design_says(small_run):
    workdir, run = small_run
    names = ["checkpoints", "config.json", "metrics.jsonl", "result.json"]
    assert sorted(path.name for path in workdir.iterdir()) == names
    assert strict_json(workdir / "config.json") == dataclasses.asdict(SMALL)
    assert strict_json(workdir / "result.json") == run.result
    assert read_history(workdir) == run.history
    assert " ".join(sorted(run.result)) == (
        "best_step cpu_count data_sha256 device_count device_kind guessing native_compiler "
        "params_sha256 platform process_count seconds settings step_sha256 steps test_accuracy "
        "test_loss val_accuracy versions"
    )
    assert {*run.result["seconds"]} == {*PHASES}
    assert (run.result["steps"], run.result["platform"]) == (16, "cpu")
    assert run.result["val_accuracy"] == run.history[-1]["val_accuracy"]
    assert run.result["params_sha256"] == tree_sha256(run.state.params)
    assert [(row["epoch"], row["step"]) for row in run.history] == [(1, 8), (2, 16)]
    for row in run.history:
        assert row["examples_per_second"] * row["seconds"] == pytest.approx(1024)
        assert row["generalization_gap"] == row["train_accuracy"] - row["val_accuracy"]
    # It learns.
    assert run.history[1]["train_loss"] < run.history[0]["train_loss"] < np.log(10)
    assert run.history[1]["val_accuracy"] > 0.6


def test_a_run_and_a_network_have_a_short_repr_and_a_table_in_notebooks(small_run):
    workdir, run = small_run
    for text in (repr(run), repr(load_network(workdir))):
        assert len(text) < 120
        assert "\n" not in text
    assert f"test accuracy {run.result['test_accuracy']:.2%}" in repr(run)
    for shown in (run, run._replace(history=run.history[:1])):
        table, _, curves = shown._repr_html_().partition("</table>")
        assert f"{run.result['val_accuracy']:.2%}" in table
        drawn = ElementTree.fromstring(curves)
        for line, end in zip(drawn.iter("polyline"), drawn.iter("circle"), strict=True):
            points = [tuple(map(float, p.split(","))) for p in line.attrib["points"].split()]
            assert len(points) == len(shown.history)
            assert points[-1] == (float(end.attrib["cx"]), float(end.attrib["cy"]))
            assert all(0 <= x <= 240 and 0 <= y <= 80 for x, y in points)


@pytest.mark.parametrize("left", ["nothing", "", "half a line", "{"])
def test_a_complete_run_gets_its_history_back(small_run, tmp_path, left):
    workdir = shutil.copytree(small_run[0], tmp_path / "run")
    path = workdir / "metrics.jsonl"
    whole = path.read_text(encoding="utf-8")
    path.unlink()
    if left != "nothing":
        path.write_text(whole[:-100] if left == "half a line" else left, encoding="utf-8")
    train(SMALL, workdir)
    assert path.read_text(encoding="utf-8") == whole


def test_overwrite_trains_again_with_another_config_and_leaves_other_files(tmp_path):
    """And a link to where the checkpoints are."""
    make_files(tmp_path, {"large/": "", "run/notes.txt": "mine", "run/checkpoints": "@../large"})
    workdir = tmp_path / "run"
    write_recipe(workdir / "config.json", LESSON)
    for seed in (0, 1):
        with scripted():
            run = train(dataclasses.replace(LESSON, seed=seed), workdir, overwrite=True)
        assert run.result == strict_json(workdir / "result.json")
        assert strict_json(workdir / "config.json")["seed"] == seed
        assert check_checkpoints(tmp_path / "large") == ([16, 24], {})
    assert (workdir / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_a_run_without_its_config_is_refused(small_run, tmp_path):
    lost = shutil.copytree(small_run[0], tmp_path / "no-config")
    (lost / "config.json").unlink()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"holds checkpoints but no config.json"):
            train(dataclasses.replace(SMALL, epochs=3), lost, overwrite=overwrite)
    assert (lost / "checkpoints" / "16").is_dir()


def test_overwrite_keeps_foreign_files_and_a_run_until_the_new_one_compiles(small_run, tmp_path):
    theirs: Any = {"checkpoints/model.pt": "precious", "config.json": '{"name": "other tool"}'}
    make_files(tmp_path / "theirs", theirs)
    with pytest.raises(ValueError, match="unknown config field name"):
        train(SMALL, tmp_path / "theirs", overwrite=True)
    assert (tmp_path / "theirs/checkpoints/model.pt").read_text(encoding="utf-8") == "precious"

    ours = shutil.copytree(small_run[0], tmp_path / "ours")
    with pytest.raises(ValueError, match="too small for a kernel of 40"):
        train(replace_fields(SMALL, {"model.kernel_size": 40}), ours, overwrite=True)
    assert evaluate(ours)["accuracy"] == small_run[1].result["test_accuracy"]


def test_each_step_function_is_compiled_once(tmp_path, caplog):
    with compilations(caplog) as compiled:
        train(dataclasses.replace(TINY, epochs=3), tmp_path)
    assert compiled["train_steps"] == 1
    assert compiled["run_eval_steps"] == 1  # validation and test have different lengths
    assert compiled["epoch_order"] == 1


def test_the_result_is_that_of_evaluate_and_of_scikit_learn(small_run):
    workdir, run = small_run
    images, labels = load_dataset("mnist", SMALL.data.test_split)
    found = evaluate(workdir)
    probabilities, classes = predict(workdir, images)
    assert (probabilities.shape, probabilities.dtype) == ((500, 10), np.float32)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert found == {
        "loss": run.result["test_loss"],
        "accuracy": accuracy_score(labels, classes),
        "count": 500,
        "split": "test",
        "step": 16,
    }
    assert found["accuracy"] == run.result["test_accuracy"]
    best = max(run.history, key=lambda row: (row["val_accuracy"], row["step"]))
    found = evaluate(workdir, "validation", step="best")
    assert (found["accuracy"], found["loss"]) == (best["val_accuracy"], best["val_loss"])
    assert evaluate(workdir, "train")["count"] == 1024


def test_a_relative_workdir_does_not_follow_a_change_of_directory(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    with scripted():
        train(LESSON, "run", listeners=[lambda _: monkeypatch.chdir(tmp_path / "elsewhere")])
    assert (tmp_path / "run" / "result.json").exists()
    assert check_checkpoints(tmp_path / "run" / "checkpoints")[0][-1] == 24
    assert not list((tmp_path / "elsewhere").iterdir())


# Outside pytest, which has its own hooks. Changes by importing Orbax are not ours.
HOST = """
import logging, os, signal, sys, threading, warnings, jax, numpy, orbax.checkpoint
from helpers import TINY
from mnist_jax import Epoch, train

def left():
    loggers = [logging.root, *map(logging.getLogger, names)]
    return {
        "hooks": (sys.unraisablehook, sys.excepthook, threading.excepthook, sys.stdout, sys.stderr),
        "signals": [signal.getsignal(signum) for signum in signal.valid_signals()],
        "wakeup": signal.set_wakeup_fd(-1),
        "warnings": (warnings.showwarning, [*warnings.filters]),
        "logging": [([*log.filters], [*log.handlers], log.level, log.disabled) for log in loggers],
        "settings": (dict(os.environ), os.getcwd(), numpy.geterr(), dict(jax.config.values)),
    }

def interrupt(event):
    if isinstance(event, Epoch):
        signal.raise_signal(signal.SIGTERM)

names = [*logging.root.manager.loggerDict]
before = left()
for listeners in ([interrupt], []):
    try:
        train(TINY, sys.argv[1], listeners=listeners)
    except KeyboardInterrupt:
        assert listeners
    after = left()
    assert after == before, [(name, before[name], after[name]) for name in after]
"""


def test_train_leaves_hooks_filters_and_handlers_as_they_were_and_prints_nothing(tmp_path):
    done = python("-c", HOST, tmp_path / "run", cwd=TESTS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "run" / "result.json").exists()
