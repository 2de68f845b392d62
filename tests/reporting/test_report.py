"""The report of a run: its figures are right, and what it says fits the run."""

import itertools
import json
import re
import shlex
import shutil
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reports import check_command, check_page, table
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


@pytest.fixture
def copied(small, tmp_path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "run"))


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
    history = read_history(small)
    best = max(history, key=lambda row: row["val_accuracy"])
    assert f"best validation accuracy {best['val_accuracy']:.2%} epoch {best['epoch']}" in said
    assert result["params_sha256"] in said
    chance = found["chance_calibration_error"]
    assert f"ECE {found['expected_calibration_error']:.2%} ECE by chance alone {chance:.2%}" in said

    labels = mnist["test"].labels[:500]
    _, answers = predict(small, mnist["test"].images[:500])
    options: Any = {"output_dict": True, "zero_division": np.nan}
    expected: Any = classification_report(labels, answers, **options)
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
    assert "epochs of 1,024 grey images (28x28 pixels, 10 classes), Adam with learning rate" in said
    last: Any = history[-1]
    train, val = (round(100 * last[f"{split}_accuracy"], 2) for split in ("train", "val"))
    gap = f"{abs(val - train):.2f} points {'higher' if val > train else 'lower'}."
    assert f"accuracy is {train:.2f}% in training and {val:.2f}% in validation, {gap}" in said
    assert f"mnist-jax verify --workdir {shlex.quote(str(small))}" in said
    check_command(small)


def test_the_confusion_of_ten_thousand_classes_is_not_held_as_a_table():
    """A table would take 800 MB."""
    labels = np.random.default_rng(0).integers(0, 10_000, 2000)
    labels[:5] = [1, 1, 1, 2, 3]
    answers = np.array([7, 7, 9999, 0, 3, *labels[5:]])
    measured = Measured("test", np.zeros((2000, 1, 1, 1)), labels, answers, np.ones(2000))
    tracemalloc.start()
    shown = _confusion(measured, [f"class {number}" for number in range(10_000)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    most = [("class 1", "class 7", 2), ("class 1", "class 9999", 1), ("class 2", "class 0", 1)]
    assert [each[:3] for each in shown["most"]] == most
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


def test_the_report_of_an_unfinished_run_shows_validation(copied):
    (copied / "result.json").unlink()
    (found,) = report(copied).networks
    assert (found["split"], found["count"]) == ("validation", 256)
    accuracy = read_history(copied)[-1]["val_accuracy"]
    assert found["accuracy"] == pytest.approx(accuracy, abs=1e-9)
    said = check_page(copied / "report.html")
    for part in ("This run is not finished", "Validation accuracy", "of 256"):
        assert part in said
    assert "test accuracy" not in said
    (copied / "metrics.jsonl").write_text("", encoding="utf-8")  # stopped in its first epoch
    report(copied)
    assert "No epoch is finished yet" in check_page(copied / "report.html")


BEST = "he network shown is that of epoch 2, which was the best in validation."
EARLY = [
    (1, 3, True, f"T{BEST}"),
    (1, 9, True, f"The training stopped early, after epoch 3 of 9; t{BEST}"),
    (1, 9, False, f"T{BEST}"),
    (1, 1, True, ""),
    (0, 3, True, ""),
]


@pytest.mark.parametrize(("patience", "epochs", "done", "said"), EARLY)
def test_a_report_says_if_a_run_stopped_early_and_which_epoch_it_shows(
    patience, epochs, done, said
):
    config = Config(epochs=epochs, watch=WatchConfig(patience=patience))
    trained_epochs = min(epochs, 3)
    rows: Any = [{"epoch": n, "step": 10 * n} for n in range(1, trained_epochs + 1)]
    unread: Any = None
    trained = Trained(config, unread, unread, 20 if said else 10 * trained_epochs, unread)
    result: Any = {"steps": 1} if done else None
    assert _early_stop(RunRecord(trained, result, rows)) == said


CHANGED, MIXED = AugmentConfig(shift=1), AugmentConfig(mixup_alpha=0.1)
RECIPES = {
    "learns, with units silenced, so they": {},
    "while the network learns, so they": {"model": ModelConfig(dropout_rate=0)},
    "learns, on changed images, with units silenced, so they": {"augment": CHANGED},
    "the loss is of smoothed labels, and cannot": {"label_smoothing": 0.1},
    "loss and accuracy are of mixed images, and cannot": {"label_smoothing": 0.1, "augment": MIXED},
}


@pytest.mark.parametrize("said", RECIPES)
def test_a_report_describes_training_figures_by_the_recipe(said):
    found = _what_training_figures_are(Config(**RECIPES[said]))
    assert said in found
    assert ("cannot be compared" in found) == ("cannot" in said)


def test_the_time_reported_is_that_of_all_epochs_however_often_the_run_was_stopped(copied):
    result = json.loads((copied / "result.json").read_text(encoding="utf-8"))
    result["seconds"]["total"] = 0.25  # the last process only wrote the result
    (copied / "result.json").write_text(json.dumps(result), encoding="utf-8")
    written = report(copied)
    expected = sum(row["seconds"] for row in read_history(copied))
    assert written.networks[0]["seconds"] == pytest.approx(expected)
    said = check_page(written.path)
    assert f"time of all epochs {expected:.1f} s" in said
    bars = [s for name, s in result["seconds"].items() if name != "total"]
    assert f"finished the run: {sum(bars):.2f} s in all" in said
    assert f"All epochs of the run took {expected:.1f} s: training" in said


def test_learning_rate_and_gradient_norm_are_shown_where_the_history_has_them(copied):
    rows: Any = read_history(copied)
    for left_out in ([], ["learning rate"], ["learning rate", "gradient norm"]):
        for row, name in itertools.product(rows, left_out):
            row.pop(name.replace(" ", "_"), None)
        write_history(copied, rows)
        path = report(copied).path
        text = path.read_text(encoding="utf-8")
        for name in ("learning rate", "gradient norm"):
            assert (f"A curve of the {name} by epoch" in text) == (name not in left_out)
        assert ("before any clipping" in check_page(path)) == (len(left_out) < 2)


def test_a_probability_below_one_is_never_all():
    shown = [in_percent(share) for share in (0.5, 0.9994, 0.9996, 1.0)]
    assert shown == ["50.0%", "99.9%", ">99.9%", "100.0%"]


def test_a_name_that_shows_nothing_shows_its_escapes():
    names = ["a", "\u200b", "\u202eb", " \t", ""]
    assert readable(names) == ["a", "\\u200b", "\u202eb", "(blank)", "(blank)"]
    first, second = readable([f"{'a' * 50} {end}" for end in ("left", "right")])
    assert (len(first), first[-5:], second[-6:]) == (32, " left", " right")


def test_the_report_command_says_where_the_page_is(small, capsys):
    assert main(["report", "--workdir", str(small)]) == 0
    verdict, last = capsys.readouterr().out.splitlines()
    (found,) = report(small).networks
    assert verdict.startswith(f"{small}: test accuracy {found['accuracy']:.2%} (95 % interval ")
    assert last == f"next: open {small / 'report.html'} in a browser"
    assert main(["report", "--workdir", str(small), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"page": str(small / "report.html"), "networks": [found]}


def test_a_comparison_prints_its_verdict(small, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["report", str(small), str(small), "--output", str(page)]) == 0
    *accuracies, headline, detail, last = capsys.readouterr().out.splitlines()
    assert len(accuracies) == 2
    assert headline.startswith("A tie: ")
    assert "in points with the 95% interval: +0.00 (-" in detail
    assert last == f"next: open {page} in a browser"


def test_bad_places_of_reports_are_refused(small, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.html"):
        report(small, tmp_path / "page.txt")
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        report(small, tmp_path / "no" / "page.html")
    with pytest.raises(FileNotFoundError, match="no trained network"):
        report(tmp_path)
    with pytest.raises(ValueError, match="or several, got none"):
        report([])
    assert not [*tmp_path.iterdir()]


MAD = [
    *({"epoch": epoch} for epoch in (10**400, 1e308, 3)),
    *({"val_loss": float("inf")}, {"val_loss": float("nan")}, {"train_loss": -1}),
    *({"val_accuracy": 1.5}, {"gradient_norm": 1e308}, {"learning_rate": "fast"}),
]


def test_a_damaged_history_is_named_by_report(copied):
    first, *_ = (copied / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.dumps(json.loads(first) | {"epoch": 2} | change) for change in MAD]
    for text in ("[1]", "{}", "not JSON", '{"epoch": "2"}', *rows):
        (copied / "metrics.jsonl").write_text(f"{first}\n{text}\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"metrics\.jsonl .*line 2"):
            report(copied)


def test_a_package_missing_for_reports_is_named(small, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "sklearn" else 1)
    with pytest.raises(ValueError, match="`pip install scikit-learn`"):
        report(small)


def test_a_report_is_deleted_with_its_run(copied):
    report(copied)
    assert not [*copied.glob(".*.tmp")]
    other = copied / ".report.html.1.tmp"  # of a report that is being written
    other.touch()
    delete_leftovers(copied)
    assert other.exists()
    delete_run(copied)
    assert not (copied / "report.html").exists()
