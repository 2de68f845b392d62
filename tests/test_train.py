import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import SMALL
from sklearn.metrics import accuracy_score

from mnist_jax import evaluate, load_dataset, predict, train
from mnist_jax.config import DataConfig, OptimizerConfig
from mnist_jax.hashing import tree_sha256
from mnist_jax.loader import epoch_order
from mnist_jax.train import PHASES


def read_rows(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def without_times(rows: Iterable[dict]) -> list[dict]:
    times = {"seconds", "examples_per_second"}
    return [{name: row[name] for name in row if name not in times} for row in rows]


def test_a_work_directory_holds_what_the_design_says(small_run):
    workdir, run = small_run
    assert sorted(path.name for path in workdir.iterdir()) == [
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "result.json",
    ]
    assert json.loads((workdir / "config.json").read_text()) == dataclasses.asdict(SMALL)
    assert json.loads((workdir / "result.json").read_text()) == run.result
    assert read_rows(workdir) == run.history
    assert set(run.result) == {
        "test_loss",
        "test_accuracy",
        "val_accuracy",
        "best_step",
        "steps",
        "params_sha256",
        "data_sha256",
        "seconds",
        "platform",
        "device_count",
        "versions",
    }
    assert (run.result["steps"], run.result["platform"]) == (16, "cpu")
    assert run.result["val_accuracy"] == run.history[-1]["val_accuracy"]
    assert run.result["params_sha256"] == tree_sha256(run.state.params)
    assert [(row["epoch"], row["step"]) for row in run.history] == [(1, 8), (2, 16)]
    for row in run.history:
        assert row["examples_per_second"] * row["seconds"] == pytest.approx(1024)


def test_seconds_add_up(small_run):
    seconds = small_run[1].result["seconds"]
    assert tuple(seconds) == PHASES
    assert all(value > 0 for value in seconds.values())
    total = seconds["total"]
    assert 0.8 * total < sum(seconds.values()) - total <= total


def test_it_learns(small_run):
    history = small_run[1].history
    assert history[1]["train_loss"] < history[0]["train_loss"] < np.log(10)
    assert history[1]["val_accuracy"] > 0.6


def test_best_step_is_the_newest_of_the_best(small_run):
    _, run = small_run
    best = max(run.history, key=lambda row: (row["val_accuracy"], row["step"]))
    assert run.result["best_step"] == best["step"]


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(small_run, tmp_path):
    _, run = small_run
    again = train(SMALL, tmp_path / "again")
    other = train(dataclasses.replace(SMALL, seed=1), tmp_path / "other")
    assert again.result["params_sha256"] == run.result["params_sha256"]
    assert without_times(again.history) == without_times(run.history)
    assert other.result["params_sha256"] != run.result["params_sha256"]
    assert other.result["data_sha256"] == run.result["data_sha256"]


def test_chunk_steps_do_not_change_the_data(small_run, tmp_path):
    _, run = small_run
    coarse = train(dataclasses.replace(SMALL, chunk_steps=3), tmp_path)  # 3 + 3 + 2 steps an epoch
    for ours, theirs in zip(coarse.history, run.history, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
        assert ours["step"] == theirs["step"]


def test_killed_after_two_of_four_epochs_and_continued_gives_the_same_bits(tmp_path):
    # Enough steps that the kill hits the third or the fourth epoch, whatever the machine.
    options = ["--epochs", "4", "--data.train-split", "train[:16000]", "--chunk-steps", "10"]
    command = [sys.executable, "-m", "mnist_jax", "train", *options, "--workdir"]
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    subprocess.run([*command, str(undisturbed)], check=True, capture_output=True)

    with subprocess.Popen([*command, str(disturbed)], stdout=subprocess.PIPE) as victim:
        while not (disturbed / "metrics.jsonl").exists() or len(read_rows(disturbed)) < 2:
            assert victim.poll() is None, "it finished before it could be killed"
            time.sleep(0.005)
        victim.send_signal(signal.SIGKILL)
    assert not (disturbed / "result.json").exists()
    continued = subprocess.run(
        [*command, str(disturbed)], check=True, capture_output=True, text=True
    )
    assert continued.stdout.startswith("continuing after epoch ")
    assert "epoch 1/4" not in continued.stdout
    assert continued.stderr == ""

    results = [json.loads((path / "result.json").read_text()) for path in (undisturbed, disturbed)]
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]
    assert without_times(read_rows(undisturbed)) == without_times(read_rows(disturbed))


def test_a_complete_run_is_said_to_be_complete_and_left_alone(small_run, capsys):
    workdir, run = small_run
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    again = train(SMALL, workdir)
    assert "is complete: test accuracy" in capsys.readouterr().out
    assert (again.history, again.result) == (run.history, run.result)
    assert tree_sha256(again.state) == tree_sha256(run.state)
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}


def test_another_config_is_refused_and_overwrite_starts_anew(tmp_path):
    config = dataclasses.replace(SMALL, epochs=1)
    train(config, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    other = dataclasses.replace(config, optimizer=OptimizerConfig(learning_rate=0.01))
    with pytest.raises(
        ValueError, match=r"another config \(optimizer.learning_rate is 0.001, not 0.01\)"
    ):
        train(other, tmp_path)
    run = train(other, tmp_path, overwrite=True)
    assert run.result == json.loads((tmp_path / "result.json").read_text())
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path):
    config = dataclasses.replace(SMALL, optimizer=OptimizerConfig(learning_rate=1e30))
    with pytest.raises(FloatingPointError, match="training diverged in epoch 1"):
        train(config, tmp_path)
    assert not (tmp_path / "result.json").exists()
    assert not list((tmp_path / "checkpoints").glob("[0-9]*"))


def test_a_last_update_that_is_not_finite_is_not_saved(tmp_path):
    """The training losses are from before the updates: with one step an epoch they look well."""
    data = DataConfig(train_split="train[:100]", test_split="test[:100]")
    optimizer = OptimizerConfig(learning_rate=1e30)
    config = dataclasses.replace(SMALL, epochs=1, data=data, optimizer=optimizer)
    with pytest.raises(FloatingPointError, match="training diverged in epoch 1"):
        train(config, tmp_path)
    assert not (tmp_path / "result.json").exists()
    assert not list((tmp_path / "checkpoints").glob("[0-9]*"))


def test_a_run_that_has_lost_a_part_is_refused(small_run, tmp_path):
    lost = shutil.copytree(small_run[0], tmp_path / "no-checkpoint")
    shutil.rmtree(lost / "checkpoints" / "16")
    with pytest.raises(ValueError, match="holds no step 16"):
        train(SMALL, lost)
    lost = shutil.copytree(small_run[0], tmp_path / "no-config")
    (lost / "config.json").unlink()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"holds checkpoints/ but no config.json"):
            train(dataclasses.replace(SMALL, epochs=3), lost, overwrite=overwrite)
    assert (lost / "checkpoints" / "16").is_dir()


def test_overwrite_deletes_no_other_tools_files_and_nothing_before_it_is_sure(small_run, tmp_path):
    theirs = tmp_path / "theirs" / "checkpoints" / "model.pt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("precious")
    (tmp_path / "theirs" / "config.json").write_text('{"name": "other tool"}')
    with pytest.raises(ValueError, match="unknown config field name"):
        train(SMALL, tmp_path / "theirs", overwrite=True)
    assert theirs.read_text() == "precious"

    ours = shutil.copytree(small_run[0], tmp_path / "ours")
    too_large = dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, kernel_size=40))
    with pytest.raises(ValueError, match="too small for a kernel of 40"):
        train(too_large, ours, overwrite=True)
    assert evaluate(ours)["accuracy"] == small_run[1].result["test_accuracy"]


def test_every_epoch_has_its_own_order(tmp_path, monkeypatch):
    orders = []

    def recorded(*args):
        orders.append(epoch_order(*args).tolist())
        return jax.numpy.asarray(orders[-1], jax.numpy.int32)

    monkeypatch.setattr(sys.modules["mnist_jax.train"], "epoch_order", recorded)
    train(SMALL, tmp_path)
    assert len({tuple(order) for order in orders}) == SMALL.epochs


def test_labels_beyond_the_classes_are_refused(tmp_path):
    config = dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, num_classes=5))
    with pytest.raises(
        ValueError, match=r"labels are 0 to 9, but model.num_classes is 5: set it to 10"
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_each_step_function_is_compiled_once(tmp_path, caplog):
    jax.clear_caches()
    with jax.log_compiles():
        train(dataclasses.replace(SMALL, epochs=3), tmp_path)
    compiled = re.findall(r"Finished XLA compilation of (?:jit\()?(\w+)", caplog.text)
    assert compiled.count("run_steps") == 1
    assert compiled.count("run_eval_steps") == 1  # validation and test have different lengths
    assert compiled.count("epoch_order") == 1


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


def test_evaluate_finds_the_best_and_every_split(small_run):
    workdir, run = small_run
    best = max(run.history, key=lambda row: (row["val_accuracy"], row["step"]))
    found = evaluate(workdir, "validation", step="best")
    assert (found["accuracy"], found["loss"]) == (best["val_accuracy"], best["val_loss"])
    assert evaluate(workdir, "train")["count"] == 1024


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 28, 28), np.float32), r"must be uint8 \[N, H, W, C\], .* got float32"),
        (np.zeros((0, 28, 28, 1), np.uint8), "N at least 1"),
        (np.zeros((2, 20, 28, 1), np.uint8), r"another shape than \[20, 28, 1\]"),
        ([[1, 2], [3, 4]], "must be uint8"),
    ],
)
def test_predict_refuses_what_does_not_fit(small_run, images, message):
    with pytest.raises(ValueError, match=message):
        predict(small_run[0], images)


def test_eight_devices_agree_with_one(tmp_path):
    """Data-parallel over 8 fake devices; batches of 100 do not divide by 8."""
    code = (
        "import sys; sys.path.insert(0, 'tests'); import dataclasses, jax, conftest, mnist_jax;"
        "config = dataclasses.replace(conftest.SMALL, batch_size=100);"
        "run = mnist_jax.train(config, sys.argv[1]);"
        "assert all(x.is_fully_replicated for x in jax.tree.leaves(run.state.params))"
    )
    histories = {}
    for devices in (1, 8):
        flags = f"--xla_force_host_platform_device_count={devices}"
        workdir = tmp_path / str(devices)
        subprocess.run(
            [sys.executable, "-c", code, str(workdir)],
            env=os.environ | {"XLA_FLAGS": flags},
            check=True,
            capture_output=True,
        )
        assert json.loads((workdir / "result.json").read_text())["device_count"] == devices
        histories[devices] = read_rows(workdir)
    for one, eight in zip(histories[1], histories[8], strict=True):
        assert eight["train_loss"] == pytest.approx(one["train_loss"], rel=1e-3)
        assert eight["val_accuracy"] == pytest.approx(one["val_accuracy"], abs=0.01)
