import dataclasses
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers import SMALL, TESTS, TINY, compilations, python, strict_json, write_recipe
from scripted import LESSON, scripted
from sklearn.metrics import accuracy_score

from mnist_jax import evaluate, load_dataset, load_network, predict, train
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
    fields = (
        "test_loss test_accuracy val_accuracy guessing best_step steps params_sha256 data_sha256 "
        "step_sha256 seconds platform device_kind device_count process_count cpu_count settings "
        "native_compiler "
        "versions"
    )
    assert {*run.result} == {*fields.split()}
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


@pytest.mark.parametrize("left", [None, "", "first line", "half a line", "strange"])
def test_a_complete_run_gets_its_history_back(small_run, tmp_path, left):
    workdir = shutil.copytree(small_run[0], tmp_path / "run")
    path = workdir / "metrics.jsonl"
    whole = path.read_text(encoding="utf-8")
    first = whole.splitlines(keepends=True)[0]
    kept = {"first line": first, "half a line": first + whole[len(first) :][:20], "strange": "{"}
    path.unlink()
    if left is not None:
        path.write_text(kept.get(left, left), encoding="utf-8")
    train(SMALL, workdir)
    assert path.read_text(encoding="utf-8") == whole


def test_overwrite_trains_again_with_another_config_and_leaves_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with scripted():
        train(LESSON, tmp_path)
        run = train(dataclasses.replace(LESSON, seed=1), tmp_path, overwrite=True)
    assert run.result == strict_json(tmp_path / "result.json")
    assert strict_json(tmp_path / "config.json")["seed"] == 1
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_a_run_without_its_config_is_refused(small_run, tmp_path):
    lost = shutil.copytree(small_run[0], tmp_path / "no-config")
    (lost / "config.json").unlink()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"holds checkpoints but no config.json"):
            train(dataclasses.replace(SMALL, epochs=3), lost, overwrite=overwrite)
    assert (lost / "checkpoints" / "16").is_dir()


def test_overwrite_keeps_other_tools_files_and_deletes_nothing_before_the_new_run_compiles(
    small_run, tmp_path
):
    theirs = tmp_path / "theirs" / "checkpoints" / "model.pt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("precious", encoding="utf-8")
    (tmp_path / "theirs" / "config.json").write_text('{"name": "other tool"}', encoding="utf-8")
    with pytest.raises(ValueError, match="unknown config field name"):
        train(SMALL, tmp_path / "theirs", overwrite=True)
    assert theirs.read_text(encoding="utf-8") == "precious"

    ours = shutil.copytree(small_run[0], tmp_path / "ours")
    too_large = dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, kernel_size=40))
    with pytest.raises(ValueError, match="too small for a kernel of 40"):
        train(too_large, ours, overwrite=True)
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
    """The program may change its directory during training."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    with scripted():
        train(LESSON, "run", listeners=[lambda _: monkeypatch.chdir(tmp_path / "elsewhere")])
    assert (tmp_path / "run" / "result.json").exists()
    assert check_checkpoints(tmp_path / "run" / "checkpoints")[0][-1] == 24
    assert not list((tmp_path / "elsewhere").iterdir())


def test_overwrite_keeps_a_link_to_where_the_checkpoints_are(tmp_path):
    (tmp_path / "large-disk").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "large-disk")
    write_recipe(tmp_path / "run" / "config.json", LESSON)
    for _ in range(2):
        with scripted():
            train(LESSON, tmp_path / "run", overwrite=True)
        assert check_checkpoints(tmp_path / "large-disk") == ([16, 24], {})


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
