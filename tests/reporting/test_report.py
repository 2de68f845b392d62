"""The report of a run: its figures are right, and what it says fits the run."""

import dataclasses
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reports import check_command, check_page, table
from reports import small as small
from sklearn.metrics import classification_report, confusion_matrix

from mnist_jax import Config, predict, report
from mnist_jax.cli.main import main
from mnist_jax.config import AugmentConfig, ModelConfig, WatchConfig
from mnist_jax.metrics import wilson_interval
from mnist_jax.reporting import measured as measured_module
from mnist_jax.reporting.measured import Measured, RunRecord, measure, read_run
from mnist_jax.reporting.page import in_percent, readable
from mnist_jax.reporting.single import _confusion, _early_stop, _what_training_figures_are
from mnist_jax.workdir.history import read_history, write_history
from mnist_jax.workdir.run import delete_leftovers, delete_run
from mnist_jax.workdir.trained import Trained


def test_reported_figures_are_those_of_the_run_and_of_scikit_learn(small, mnist):
    written = report(small)
    assert written.path == small / "report.html"
    said, text = check_page(written.path), written.path.read_text(encoding="utf-8")
    result = json.loads((small / "result.json").read_text(encoding="utf-8"))
    (found,) = written.networks
    assert found["accuracy"] == result["test_accuracy"]
    assert found["params_sha256"] == result["params_sha256"]
    assert json.loads(json.dumps(found)) == found
    errors = round(500 * (1 - result["test_accuracy"]))
    low, high = wilson_interval(500 - errors, 500)
    assert f"Test accuracy {result['test_accuracy']:.2%} With 95% confidence" in said
    assert f"between {low:.2%} and {high:.2%}" in said
    assert f"wrong answers {errors} of 500" in said
    best = max(read_history(small), key=lambda row: row["val_accuracy"])
    card = f"best validation accuracy {best['val_accuracy']:.2%} epoch {best['epoch']}"
    assert card in said
    assert result["params_sha256"] in said
    chance = found["chance_calibration_error"]
    error = found["expected_calibration_error"]
    assert f"ECE {error:.2%} ECE by chance alone {chance:.2%}" in said

    labels = mnist["test"].labels[:500]
    _, answers = predict(small, mnist["test"].images[:500])
    undefined: Any = np.nan
    expected: Any = classification_report(
        labels, answers, output_dict=True, zero_division=undefined
    )
    rows = table(text, "All classes")[1:]
    assert [row[0] for row in rows] == [*"0123456789"]
    for (name, *cells), row in zip(rows, found["classes"], strict=True):
        *shares, support = expected[name].values()
        assert cells == [*(f"{share:.2%}" for share in shares), str(int(support))]
        assert [*row.values()] == [name, *shares, support]
    counts = confusion_matrix(labels, answers)
    figure = text[text.index('id="confusion-') : text.index("Most frequent confusions")]
    cells = Counter(re.findall(r">(\d+)</text>", figure))
    cells -= Counter(map(str, range(10))) + Counter(map(str, range(10)))  # of the axes
    assert cells == Counter(str(count) for count in counts.ravel() if count)
    np.fill_diagonal(counts, 0)
    shown, answer = divmod(int(counts.argmax()), 10)
    assert f"{shown} classified as {answer} : {counts.max()} times" in said
    links = {tuple(map(int, pair)) for pair in re.findall(r'href="#confusion-(\d)-(\d)"', figure)}
    assert links == {*zip(*(axis.tolist() for axis in counts.nonzero()), strict=True)}
    assert f"<title>{shown} classified as {answer}: {counts.max()}</title>" in figure
    history = read_history(small)
    assert "epochs of 1,024 grey images (28x28 pixels, 10 classes), Adam with learning rate" in said
    train, val = (round(100 * history[-1][f"{split}_accuracy"], 2) for split in ("train", "val"))
    gap = f"{abs(val - train):.2f} points {'higher' if val > train else 'lower'}."
    assert f"accuracy is {train:.2f}% in training and {val:.2f}% in validation, {gap}" in said
    assert f"mnist-jax verify --workdir {shlex.quote(str(small))}" in said
    check_command(small)


def test_the_confusion_of_ten_thousand_classes_is_not_held_as_a_table():
    """All its cells would take 800 MB."""
    labels = np.random.default_rng(0).integers(0, 10_000, 2000)
    answers = labels.copy()
    answers[:5] = labels[:5] = [1, 1, 1, 2, 3]
    answers[:5] = [7, 7, 9999, 0, 3]
    measured = Measured("test", np.zeros((2000, 1, 1, 1)), labels, answers, np.ones(2000))
    tracemalloc.start()
    shown = _confusion(measured, [f"class {number}" for number in range(10_000)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert shown["most"] == [
        ("class 1", "class 7", 2, ""),
        ("class 1", "class 9999", 1, ""),
        ("class 2", "class 0", 1, ""),
    ]
    assert peak < 100_000_000


def test_a_network_of_many_classes_answers_some_images_at_a_time(small, monkeypatch):
    run = read_run(small)
    expected, _ = measure(run, "test")
    monkeypatch.setattr(measured_module, "PROBABILITIES", 1300)  # of 500 images, a batch of 128
    found, _ = measure(run, "test")
    np.testing.assert_array_equal(found.answers, expected.answers)
    np.testing.assert_allclose(found.confidence, expected.confidence, rtol=1e-6)


@pytest.mark.slow
def test_two_reports_of_a_run_have_the_same_bytes(small, tmp_path):
    once, again = (report(small, tmp_path / name).path for name in ("a.html", "b.html"))
    assert once.read_bytes() == again.read_bytes()
    assert once.stat().st_size < 1_000_000


def test_the_report_of_an_unfinished_run_shows_validation(small, tmp_path):
    workdir = Path(shutil.copytree(small, tmp_path / "run"))
    (workdir / "result.json").unlink()
    history = read_history(workdir)
    (found,) = report(workdir).networks
    assert (found["split"], found["count"]) == ("validation", 256)
    assert found["accuracy"] == pytest.approx(history[-1]["val_accuracy"], abs=1e-9)
    said = check_page(workdir / "report.html")
    assert "This run is not finished" in said
    assert "Validation accuracy" in said
    assert "of 256" in said
    assert "test accuracy" not in said
    (workdir / "metrics.jsonl").write_text("", encoding="utf-8")  # stopped in its first epoch
    report(workdir)
    assert "No epoch is finished yet" in check_page(workdir / "report.html")


def run_of(config: Config, epochs: int, shown: int, *, done: bool = True) -> RunRecord:
    """A run that has a history, and no network."""
    history: Any = [{"epoch": epoch, "step": 10 * epoch} for epoch in range(1, epochs + 1)]
    unread: Any = None
    result: Any = {"steps": 1} if done else None
    trained = Trained(config, unread, unread, 10 * shown, unread)
    return RunRecord(trained, result, history)


def test_a_run_through_all_epochs_has_not_stopped_early():
    config = Config(epochs=3, watch=WatchConfig(patience=1))
    best = "he network shown is that of epoch 2, which was the best in validation."
    assert _early_stop(run_of(config, 3, 2)) == f"T{best}"
    stopped = dataclasses.replace(config, epochs=9)
    assert (
        _early_stop(run_of(stopped, 3, 2))
        == f"The training stopped early, after epoch 3 of 9; t{best}"
    )
    assert _early_stop(run_of(stopped, 3, 2, done=False)) == f"T{best}"
    assert _early_stop(run_of(dataclasses.replace(config, epochs=1), 1, 1)) == ""
    assert _early_stop(run_of(Config(epochs=3), 3, 3)) == ""


def test_a_report_describes_training_figures_by_the_recipe(subtests):
    smoothed = {"label_smoothing": 0.1}
    cases = [
        ({}, "learns, with units silenced, so they"),
        ({"model": ModelConfig(dropout_rate=0)}, "while the network learns, so they"),
        (
            {"augment": AugmentConfig(shift=1)},
            "learns, on changed images, with units silenced, so they",
        ),
        (smoothed, "the loss is of smoothed labels, and cannot"),
        (
            smoothed | {"augment": AugmentConfig(mixup_alpha=0.1)},
            "loss and accuracy are of mixed images, and cannot",
        ),
    ]
    for changes, said in cases:
        with subtests.test(msg=said):
            found = _what_training_figures_are(Config(**changes))
            assert said in found
            assert ("cannot be compared" in found) == ("cannot" in said)


def test_the_time_reported_is_that_of_all_epochs_however_often_the_run_was_stopped(small, tmp_path):
    workdir = Path(shutil.copytree(small, tmp_path / "run"))
    result = json.loads((workdir / "result.json").read_text(encoding="utf-8"))
    result["seconds"]["total"] = 0.25  # the last process only wrote the result
    (workdir / "result.json").write_text(json.dumps(result), encoding="utf-8")
    history = read_history(workdir)
    written = report(workdir)
    expected = sum(row["seconds"] for row in history)
    assert written.networks[0]["seconds"] == pytest.approx(expected)
    said = check_page(written.path)
    assert f"time of all epochs {expected:.1f} s" in said
    bars = [s for name, s in result["seconds"].items() if name != "total"]
    assert f"finished the run: {sum(bars):.2f} s in all" in said
    assert f"All epochs of the run took {expected:.1f} s: training" in said


def test_learning_rate_and_gradient_norm_are_shown_where_the_history_has_them(small, tmp_path):
    workdir = Path(shutil.copytree(small, tmp_path / "run"))
    rows: Any = read_history(workdir)
    for left_out in ([], ["learning rate"], ["learning rate", "gradient norm"]):
        for row, name in itertools.product(rows, left_out):
            row.pop(name.replace(" ", "_"), None)
        write_history(workdir, rows)
        written = report(workdir)
        text = written.path.read_text(encoding="utf-8")
        for name in ("learning rate", "gradient norm"):
            assert (f"A curve of the {name} by epoch" in text) == (name not in left_out)
        assert ("before any clipping" in check_page(written.path)) == (len(left_out) < 2)


def test_a_probability_below_one_is_never_all():
    assert [in_percent(share) for share in (0.5, 0.9994, 0.9996, 1.0)] == [
        "50.0%",
        "99.9%",
        ">99.9%",
        "100.0%",
    ]


def test_a_name_that_shows_nothing_shows_its_escapes():
    names = ["a", "\u200b", "\u202eb", " \t", ""]
    assert readable(names) == ["a", "\\u200b", "\u202eb", "(blank)", "(blank)"]
    first, second = readable([f"{'a' * 50} {end}" for end in ("left", "right")])
    assert (len(first), first[-5:], second[-6:]) == (32, " left", " right")


def test_the_report_command_says_where_the_page_is(small, capsys):
    assert main(["report", "--workdir", str(small)]) == 0
    verdict, place = capsys.readouterr().out.splitlines()
    (found,) = report(small).networks
    assert verdict.startswith(f"{small}: test accuracy {found['accuracy']:.2%} (95 % interval ")
    assert place.startswith(f"{small / 'report.html'}: ")
    assert main(["report", "--workdir", str(small), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"page": str(small / "report.html"), "networks": [found]}


def test_bad_places_of_reports_are_refused(small, tmp_path):
    for output, message in (
        (tmp_path / "page.txt", "must end in .html"),
        (tmp_path / "no" / "page.html", "there is no directory"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            report(small, output)
    with pytest.raises(FileNotFoundError, match="no trained network"):
        report(tmp_path)
    with pytest.raises(ValueError, match="or several, got none"):
        report([])
    assert not [*tmp_path.iterdir()]


def test_a_damaged_history_is_named_by_report(small, tmp_path):
    workdir = Path(shutil.copytree(small, tmp_path / "run"))
    first, *_ = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    row = json.loads(first)
    mad = [
        {"epoch": 10**400},
        {"epoch": 1e308},
        {"epoch": 3},
        {"val_loss": float("inf")},
        {"val_loss": float("nan")},
        {"train_loss": -1},
        {"val_accuracy": 1.5},
        {"gradient_norm": 1e308},
        {"learning_rate": "fast"},
    ]
    rows = [json.dumps(row | {"epoch": 2} | change) for change in mad]
    for text in ("[1]", "{}", "not JSON", '{"epoch": "2"}', *rows):
        (workdir / "metrics.jsonl").write_text(f"{first}\n{text}\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"metrics\.jsonl .*line 2"):
            report(workdir)


def test_a_package_missing_for_reports_is_named(small, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "sklearn" else 1)
    with pytest.raises(ValueError, match="`pip install scikit-learn`"):
        report(small)


def test_a_start_does_not_wait_for_what_draws():
    code = "import sys, mnist_jax.cli.main, mnist_jax.reporting.plots; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {"matplotlib", "jinja2", "sklearn", "fastapi", "uvicorn", "pydantic", "tensorboardX"}
    assert not slow & {*done.stdout.split()}


def test_a_report_is_deleted_with_its_run(small, tmp_path):
    workdir = Path(shutil.copytree(small, tmp_path / "run"))
    report(workdir)
    assert not [*workdir.glob(".*.tmp")]
    other = workdir / ".report.html.1.tmp"  # of a report that is being written
    other.touch()
    delete_leftovers(workdir)
    assert other.exists()
    delete_run(workdir)
    assert not (workdir / "report.html").exists()
