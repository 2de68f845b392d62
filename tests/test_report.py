"""Reports of real runs: what they say, that it is true, and how a browser shows them."""

import dataclasses
import html
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SMALL
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from playwright.sync_api import Browser, Page
from sklearn.metrics import classification_report, confusion_matrix

from mnist_jax import Config, import_dataset, predict, report, train
from mnist_jax.cli import _parse, main
from mnist_jax.commands import Train
from mnist_jax.config import AugmentConfig, DataConfig, ModelConfig, WatchConfig, load_config
from mnist_jax.datasets.prepare import prepared_dir
from mnist_jax.reporting.comparison import _headline
from mnist_jax.reporting.measured import Measured, RunRecord
from mnist_jax.reporting.page import readable, spelled
from mnist_jax.reporting.single import _early_stop, _what_training_figures_are
from mnist_jax.statistics import paired_interval, wilson_interval
from mnist_jax.workdir import Trained, delete_leftovers, delete_run

HOSTILE = ["<img src=x onerror=alert(1)>", "$x & <!-- 漢字 ش", "long " * 40]
VOID = {"meta", "link", "img"}


class Checker(HTMLParser):
    """Finds elements that are not closed, ids that are not unique, and what would be loaded."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.ids, self.tags, self.loads = [], Counter(), Counter(), []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags[tag] += 1
        self.ids[values.get("id")] += 1
        self.loads += [values[name] for name in ("src", "href", "xlink:href") if name in values]
        assert not [name for name in values if name.startswith("on")]
        assert tag != "img" or "alt" in values
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_page(path: Path) -> str:
    """Asserts that a page is well-formed and loads nothing; returns what it says, in one line."""
    text = path.read_text()
    found = Checker(text)
    assert text.startswith("<!doctype html>")
    del found.ids[None]
    assert {*found.ids.values()} <= {1}
    assert not found.tags["script"]
    assert all(re.match(r"#|data:", load) for load in found.loads)
    assert not re.search(r"url\((?!#)|@import", text)
    plain = re.sub(r"<style>.*?</style>|<[^>]*>", " ", text, flags=re.DOTALL)
    return " ".join(html.unescape(plain).split())


def table(text: str, caption: str) -> list[list[str]]:
    """The cells of the table with this caption."""
    (found,) = [
        part for part in re.findall(r"<table.*?</table>", text, re.DOTALL) if caption in part
    ]
    rows = re.findall(r"<tr.*?</tr>", found, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[re.sub("<[^>]*>", "", cell) for cell in row] for row in cells]


@pytest.fixture(scope="module")
def small(small_run, tmp_path_factory) -> Path:
    """The small run, in a place that can be written to."""
    return Path(shutil.copytree(small_run[0], tmp_path_factory.mktemp("report") / "small"))


@pytest.fixture(scope="module")
def own_data(tmp_path_factory) -> Iterator[Path]:
    """Datasets: colour images without meaning with hostile names; two that are easily told."""
    root = tmp_path_factory.mktemp("own")
    mnist = prepared_dir("mnist", None).parent
    (root / "data").mkdir()
    (root / "data" / mnist.name).symlink_to(mnist)  # to prepare it anew takes long
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(root / "data"))
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        rng = np.random.default_rng(0)
        for name in HOSTILE:
            folder = root / "hostile" / name.strip()
            folder.mkdir(parents=True)
            for number in range(20):
                pixels = rng.integers(0, 256, (12, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
        import_dataset("hostile", [root / "hostile"])
        images = np.repeat([[0], [255]], 64, axis=0).astype(np.uint8)
        images = np.broadcast_to(images.reshape(-1, 1, 1), (128, 8, 8))
        np.savez(root / "easy.npz", x=images, y=np.arange(128) // 64)
        import_dataset("easy", [root / "easy.npz"])
        images = rng.integers(0, 256, (3000, 8, 8), np.uint8)
        np.savez(root / "many.npz", x=images, y=np.arange(3000) % 1000)
        import_dataset("many", [root / "many.npz"])
        yield root


@pytest.fixture(scope="module")
def hostile(own_data) -> Path:
    """Colour, not square, augmented, streamed, and a network that knows nothing."""
    changes = {
        "data": DataConfig(dataset="hostile", loader="stream"),
        "augment": AugmentConfig(shift=1, mixup_alpha=0.2),
    }
    train(own_config("hostile", **changes), own_data / "runs" / "hostile")
    return own_data / "runs" / "hostile"


@pytest.fixture(scope="module")
def easy(own_data) -> Path:
    """An MLP that makes no mistakes."""
    model = ModelConfig(name="mlp", hidden_size=8)
    watch = WatchConfig(patience=1)
    train(own_config("easy", model=model, watch=watch, epochs=6), own_data / "runs" / "easy")
    return own_data / "runs" / "easy"


def own_config(dataset: str, **changes: Any) -> Config:
    config = Config(
        epochs=1,
        batch_size=16,
        data=DataConfig(dataset=dataset),
        model=ModelConfig(features=4, hidden_size=8),
    )
    return dataclasses.replace(config, **changes)


def test_the_figures_are_those_of_the_run_and_of_scikit_learn(small, mnist):
    written = report(small)
    assert written.path == small / "report.html"
    said, text = check_page(written.path), written.path.read_text()
    result = json.loads((small / "result.json").read_text())
    (found,) = written.networks
    assert found["accuracy"] == result["test_accuracy"]
    assert found["params_sha256"] == result["params_sha256"]
    assert json.loads(json.dumps(found)) == found
    errors = round(500 * (1 - result["test_accuracy"]))
    low, high = wilson_interval(500 - errors, 500)
    assert f"{result['test_accuracy']:.2%} of 500 test images are named correctly" in said
    assert f"between {low:.2%} and {high:.2%} (95% interval, for images like these" in said
    assert f"{errors} of 500" in said
    assert result["params_sha256"] in said
    chance = found["chance_calibration_error"]
    assert f"{found['expected_calibration_error']:.2%} ({chance:.2%} would be chance)" in said

    labels = mnist["test"].labels[:500]
    _, answers = predict(small, mnist["test"].images[:500])
    undefined: Any = np.nan
    expected: Any = classification_report(
        labels, answers, output_dict=True, zero_division=undefined
    )
    rows = table(text, "All classes")[1:]
    assert [row[0] for row in rows] == [*"0123456789"]
    for name, *cells in rows:
        *shares, support = expected[name].values()
        assert cells == [*(f"{share:.2%}" for share in shares), str(int(support))]
    counts = confusion_matrix(labels, answers)
    figure = text[text.index('id="confusion-') : text.index("Most frequent confusions")]
    cells = Counter(re.findall(r">([\d,]+)</text>", figure))
    cells -= Counter(map(str, range(10))) + Counter(map(str, range(10)))  # of the axes
    assert cells == Counter(str(count) for count in counts.ravel() if count)
    np.fill_diagonal(counts, 0)
    shown, answer = divmod(int(counts.argmax()), 10)
    assert f"{shown} taken for {answer} : {counts.max()} times" in said
    history = [json.loads(line) for line in (small / "metrics.jsonl").read_text().splitlines()]
    assert f"accuracy is {history[-1]['train_accuracy']:.2%} in training" in said
    assert f"mnist-jax verify --workdir {small}" in said


def test_the_command_in_the_page_is_that_of_the_run(small, hostile):
    for workdir in (small, hostile):
        text = html.unescape(report(workdir).path.read_text())
        (line,) = re.findall(r"<pre[^>]*>mnist-jax (train.*?)</pre>", text, re.DOTALL)
        command = _parse(shlex.split(line.replace("\\\n", "")))
        assert isinstance(command, Train)
        assert command.recipe == load_config(workdir / "config.json")


def test_the_same_run_gives_the_same_bytes(small, tmp_path):
    once, again = (report(small, tmp_path / name).path for name in ("a.html", "b.html"))
    assert once.read_bytes() == again.read_bytes()
    assert once.stat().st_size < 1_000_000


def test_a_run_that_is_not_finished_shows_validation(small, tmp_path):
    workdir = Path(shutil.copytree(small, tmp_path / "run"))
    (workdir / "result.json").unlink()
    history = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    (found,) = report(workdir).networks
    assert (found["split"], found["count"]) == ("validation", 256)
    assert found["accuracy"] == pytest.approx(history[-1]["val_accuracy"], abs=1e-9)
    said = check_page(workdir / "report.html")
    assert "This run is not finished" in said
    assert "of 256 validation images" in said
    assert "test accuracy" not in said
    (workdir / "metrics.jsonl").write_text("")  # stopped in its first epoch
    report(workdir)
    assert "No epoch is finished yet" in check_page(workdir / "report.html")


def run_of(config: Config, epochs: int, shown: int, *, done: bool = True) -> RunRecord:
    """A run that has a history, and no network."""
    history = [{"epoch": epoch, "step": 10 * epoch} for epoch in range(1, epochs + 1)]
    unread: Any = None
    trained = Trained(config, unread, unread, 10 * shown, unread, {})
    return RunRecord(Path("run"), trained, {"steps": 1} if done else None, history)


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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "learns, with units silenced, so they"),
        ({"model": ModelConfig(dropout_rate=0)}, "while the network learns, so they"),
        (
            {"augment": AugmentConfig(shift=1)},
            "learns, on changed images, with units silenced, so they",
        ),
        ({"label_smoothing": 0.1}, "the loss is of smoothed labels, and cannot"),
        (
            {"label_smoothing": 0.1, "augment": AugmentConfig(mixup_alpha=0.1)},
            "loss and accuracy are of mixed images, and cannot",
        ),
    ],
)
def test_what_is_said_of_training_figures_is_that_of_the_recipe(changes, said):
    found = _what_training_figures_are(Config(**changes))
    assert said in found
    assert ("cannot be compared" in found) == ("cannot" in said)


def test_the_time_is_that_of_all_epochs_however_often_it_was_stopped(small, tmp_path):
    workdir = Path(shutil.copytree(small, tmp_path / "run"))
    result = json.loads((workdir / "result.json").read_text())
    result["seconds"]["total"] = 0.25  # the last process only wrote the result
    (workdir / "result.json").write_text(json.dumps(result))
    history = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    written = report(workdir)
    expected = sum(row["seconds"] for row in history)
    assert written.networks[0]["seconds"] == pytest.approx(expected)
    assert f"training {expected:.1f} s" in check_page(written.path)
    assert "total 0." not in written.path.read_text()


def test_a_probability_below_one_is_never_all():
    assert [spelled(share) for share in (0.5, 0.9994, 0.9996, 1.0)] == [
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


def test_names_of_classes_are_text(hostile):
    said = check_page(report(hostile).path)
    assert HOSTILE[0] in said
    assert HOSTILE[1] in said
    assert "taken for" in said
    assert "What it was trained on" in said
    assert "--augment.mixup-alpha 0.2" in said
    assert "colour images of hostile (12x16 pixels, 3 classes)" in said


def test_a_network_without_mistakes(easy):
    written = report(easy)
    said = check_page(written.path)
    assert written.networks[0]["errors"] == 0
    assert "100.00% of 26 test images are named correctly" in said
    assert "None: every answer is right" in said
    assert "There are none among these 26 images" in said
    assert "This network has no convolution" in said
    assert "which was the best in validation" in said


def test_an_epoch_that_was_chosen_by_the_images_shown_is_said_to_be(easy, small, tmp_path):
    for run, chosen in ((easy, True), (small, False)):
        workdir = Path(shutil.copytree(run, tmp_path / run.name))
        (workdir / "result.json").unlink()
        said = check_page(report(workdir).path)
        assert ("The epoch was chosen by these images" in said) == chosen


@pytest.mark.usefixtures("own_data")
def test_a_thousand_classes(tmp_path):
    train(own_config("many"), tmp_path)
    written = report(tmp_path)
    said = check_page(written.path)
    assert "The 30 of 1,000 classes with the lowest F1" in said
    assert "1,000 classes" in said
    assert written.path.stat().st_size < 1_500_000


@pytest.mark.parametrize(("name", "layers"), [("resnet", 3), ("transformer", 1)])
def test_each_layer_has_its_maps(name, layers, tmp_path):
    model = ModelConfig(name=name, features=4, kernel_size=7 if name == "transformer" else 3)
    data = dataclasses.replace(SMALL.data, train_split="train[:256]", test_split="test[:100]")
    train(dataclasses.replace(SMALL, epochs=1, model=model, data=data), tmp_path)
    said = check_page(report(tmp_path).path)
    assert "Filters of the first layer" in said
    assert said.count("Feature maps of") == layers
    assert "before whatever follows" in said


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """A run on the same data as the small one."""
    workdir = tmp_path_factory.mktemp("other") / "<other>"
    train(dataclasses.replace(SMALL, seed=1, model=ModelConfig(name="mlp")), workdir)
    return workdir


def test_networks_are_compared_image_by_image(small, other, mnist, tmp_path):
    written = report([small, other], tmp_path / "page.html")
    said = check_page(written.path)
    labels = mnist["test"].labels[:500]
    answers = [predict(workdir, mnist["test"].images[:500]).classes for workdir in (small, other)]
    first, second = (found == labels for found in answers)
    low, high = paired_interval(int((first & ~second).sum()), int((second & ~first).sum()), 500)
    chance = [found["chance_calibration_error"] for found in written.networks]
    errors = [found["expected_calibration_error"] for found in written.networks]
    for error, floor in zip(errors, chance, strict=True):
        assert f"{error:.2%} ({floor:.2%})" in said
    assert "the highest test accuracy of several flatters" in said
    points = 100 * (second.mean() - first.mean())
    assert f"{points:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})" in said
    assert f"answer {(answers[0] != answers[1]).sum()} images differently" in said
    assert [row[0] for row in table(written.path.read_text(), "not the same everywhere")] == [
        "field",
        "seed",
        "model.name",
    ]
    assert len(written.networks) == 2


def answers(right: str) -> Measured:
    """Of images of class 0; a 1 in the text is a right answer."""
    found = np.array([int(letter == "0") for letter in right])
    return Measured("test", None, np.zeros_like(found), found, np.ones(len(found)))


@pytest.mark.parametrize(
    ("all_right", "said"),
    [
        ({"a": "1" * 90 + "0" * 10, "b": "1" * 100}, "b is better than a by 10.00 points (+"),
        ({"a": "10" * 50, "b": "10" * 49 + "11"}, "No difference to be seen between b and a (+1"),
        ({"a": "10" * 50, "b": "01" * 50}, "A tie: a and b are right equally often (-"),
        ({"a": "10", "b": "01", "c": "10", "d": "00"}, "A tie: a, b and c are right"),
        ({"a": "1"}, ""),
    ],
)
def test_the_headline_names_a_winner_only_where_there_is_one(all_right, said):
    measured = [(name, answers(right)) for name, right in all_right.items()]
    found = {_headline(order) for order in itertools.permutations(measured)}
    assert len(found) == 1
    assert found.pop().startswith(said)


def test_networks_of_other_training_images_are_compared_on_the_same_test(small, tmp_path):
    data = dataclasses.replace(SMALL.data, train_split="train[:640]")
    train(dataclasses.replace(SMALL, epochs=1, data=data), tmp_path / "fewer")
    said = check_page(report([small, tmp_path / "fewer"], tmp_path / "page.html").path)
    assert "other images than A" not in said
    assert "data.train_split train[:1280] train[:640]" in said
    assert "images differently" in said


def test_a_network_and_itself_do_not_differ(small, tmp_path):
    said = check_page(report([small, small], tmp_path / "page.html").path)
    assert "the recipes are the same" in said
    assert f"A tie: {small} and {small} are right equally often" in said
    assert "give the same answer for each image" in said


def test_networks_of_other_data_are_not_compared(small, easy, tmp_path):
    said = check_page(report([small, easy], tmp_path / "page.html").path)
    assert "B has other images than A" in said
    assert "No other network has the images of A" in said


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 100))
def test_paired_intervals_hold_what_they_promise(only_first, only_second, others):
    count = only_first + only_second + others
    low, high = paired_interval(only_first, only_second, count)
    assert low <= (only_second - only_first) / (count + 2) <= high
    assert paired_interval(only_second, only_first, count) == pytest.approx((-high, -low))
    if only_first == only_second:
        assert low < 0 < high


def test_a_paired_interval_covers_the_true_difference():
    rng = np.random.default_rng(0)
    probabilities = [0.03, 0.06, 0.91]  # only the first is right, only the second, or neither
    draws = rng.multinomial(200, probabilities, size=2000)
    found = [paired_interval(int(a), int(b), 200) for a, b, _ in draws]
    covered = np.mean([low <= 0.03 <= high for low, high in found])
    assert 0.93 < covered < 0.98


def test_the_command_says_where_the_page_is(small, capsys):
    assert main(["report", "--workdir", str(small)]) == 0
    verdict, place = capsys.readouterr().out.splitlines()
    (found,) = report(small).networks
    assert verdict.startswith(f"{small}: test accuracy {found['accuracy']:.2%} (95 % interval ")
    assert place.startswith(f"{small / 'report.html'}: ")
    assert main(["report", "--workdir", str(small), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"page": str(small / "report.html"), "networks": [found]}


def test_bad_places_are_refused(small, tmp_path):
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


def test_a_damaged_history_is_named(small, tmp_path):
    workdir = Path(shutil.copytree(small, tmp_path / "run"))
    first, *_ = (workdir / "metrics.jsonl").read_text().splitlines()
    row = json.loads(first)
    mad = [
        {"epoch": 10**400},
        {"epoch": 1e308},
        {"epoch": 3},
        {"val_loss": float("inf")},
        {"val_loss": float("nan")},
        {"train_loss": -1},
        {"val_accuracy": 1.5},
    ]
    rows = [json.dumps(row | {"epoch": 2} | change) for change in mad]
    for text in ("[1]", "{}", "not JSON", '{"epoch": "2"}', *rows):
        (workdir / "metrics.jsonl").write_text(f"{first}\n{text}\n")
        with pytest.raises(ValueError, match=r"metrics\.jsonl .*line 2"):
            report(workdir)


def test_a_missing_package_is_named(small, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "sklearn" else 1)
    with pytest.raises(ValueError, match="`pip install scikit-learn`"):
        report(small)


def test_a_start_does_not_wait_for_what_draws():
    code = "import sys, mnist_jax.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {"matplotlib", "jinja2", "sklearn", "fastapi", "uvicorn", "pydantic", "tensorboardX"}
    assert not slow & {*done.stdout.split()}


def test_a_report_goes_with_its_run(small, tmp_path):
    workdir = Path(shutil.copytree(small, tmp_path / "run"))
    report(workdir)
    assert not [*workdir.glob(".*.tmp")]
    other = workdir / ".report.html.1.tmp"  # of a report that is being written
    other.touch()
    delete_leftovers(workdir)
    assert other.exists()
    delete_run(workdir)
    assert not (workdir / "report.html").exists()


@pytest.fixture
def show(browser: Browser):
    """Opens a file in the browser; whatever it asks for, says or pops up is an error."""
    contexts = []

    def open_page(path: Path, **options: Any) -> Page:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: pytest.fail(message.text))
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        page.goto(path.as_uri())
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def pages(small, other, hostile, tmp_path_factory) -> list[Path]:
    """Of one run, of several, and of one with names that are long."""
    root = tmp_path_factory.mktemp("pages")
    return [
        report(small, root / "one.html").path,
        report([small, other, hostile], root / "three.html").path,
        report(hostile, root / "hostile.html").path,
    ]


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_a_page_is_never_wider_than_the_screen(pages, show, width):
    for path in pages:
        page = show(path, viewport={"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
        sizes = page.eval_on_selector_all(
            "figure > svg", "all => all.map(svg => svg.getBoundingClientRect().width)"
        )
        assert sizes
        assert all(width * 0.3 < size <= width for size in sizes)
        letters = page.eval_on_selector_all(
            "#confusion-figure_1 text, #curves-accuracy-figure_1 text",
            "all => all.map(text => text.getBoundingClientRect().height)",
        )
        assert min(letters) > 5


def test_letters_are_legible_in_the_dark(pages, show):
    page = show(pages[0], color_scheme="dark")
    ground, ink = page.evaluate(
        "(style => [style.backgroundColor, style.color])(getComputedStyle(document.body))"
    )
    assert sum(map(int, re.findall(r"\d+", ground)[:3])) < 150
    assert sum(map(int, re.findall(r"\d+", ink)[:3])) > 600
    fills = page.eval_on_selector_all(
        "figure svg text", "all => all.map(text => getComputedStyle(text).fill)"
    )
    assert {*fills} == {ink}
    backgrounds = page.eval_on_selector_all(
        "figure svg", "all => all.map(svg => getComputedStyle(svg).backgroundColor)"
    )
    assert {*backgrounds} == {"rgba(0, 0, 0, 0)"}


def test_a_name_that_turns_the_text_about_ends_with_itself(pages, show):
    page = show(pages[2])
    for part in ("strong", "h3", "tbody .name", ".pictures span"):
        found = page.eval_on_selector_all(
            part, "all => all.map(each => getComputedStyle(each).unicodeBidi)"
        )
        assert {*found} == {"isolate"}, part


def test_no_figure_is_cut_in_print(pages, show):
    page = show(pages[0], color_scheme="dark")
    page.emulate_media(media="print")
    breaks = page.eval_on_selector_all(
        "figure, .pictures li, tr", "all => all.map(each => getComputedStyle(each).breakInside)"
    )
    assert {*breaks} == {"avoid"}
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
