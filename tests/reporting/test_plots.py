"""Figures of any history, any number of classes and any names, as parts of a page."""

import itertools
import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.sparse import csr_array

from mnist_jax.reporting import plots
from mnist_jax.reporting.page import svg

SVG = "{http://www.w3.org/2000/svg}"


def history(epochs: int) -> list[dict[str, Any]]:
    losses = [{"epoch": n, "train_loss": 1 / n, "val_loss": 1.1 / n} for n in range(1, epochs + 1)]
    accuracies = accuracy_history(*((1 - 0.3 / n, 1 - 0.4 / n) for n in range(1, epochs + 1)))
    return [loss | accuracy for loss, accuracy in zip(losses, accuracies, strict=True)]


def accuracy_history(*accuracies: tuple[float, float]) -> list[dict[str, Any]]:
    """Makes the rows of epochs with these training and validation accuracies."""
    names = ("epoch", "train_accuracy", "val_accuracy")
    return [dict(zip(names, (n, *both), strict=True)) for n, both in enumerate(accuracies, 1)]


def texts(figure: Figure) -> list[str]:
    root = ET.fromstring(svg(figure, "f"))
    return ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]


def curve(figure: Figure, label: str, panel: int = 0) -> list[float]:
    (line,) = [line for line in figure.axes[panel].lines if line.get_label() == label]
    return np.asarray(line.get_ydata()).tolist()


@pytest.mark.parametrize("epochs", [1, 2, 50])
def test_learning_curves_are_the_history(epochs):
    rows = history(epochs)
    figure = plots.learning_curves(rows)
    words = {"accuracy", "loss", "training", "validation", "gap", "epoch"}
    assert words <= {*texts(figure)}
    for panel, metric in enumerate(("accuracy", "loss")):
        assert curve(figure, "training", panel) == [row[f"train_{metric}"] for row in rows]
        assert curve(figure, "validation", panel) == [row[f"val_{metric}"] for row in rows]
        ticks = [label.get_text() for label in figure.axes[panel].get_xticklabels()]
        assert {"." in tick for tick in ticks} == {False}  # epochs are whole


def test_curves_differ_in_grey_print_and_the_gap_is_shaded_on_request():
    axes = plots.learning_curves(history(3), ["loss"]).axes[0]
    assert [line.get_linestyle() for line in axes.lines] == ["--", "-"]
    assert len(axes.collections) == 1
    assert not plots.learning_curves(history(3), ["loss"], gap=False).axes[0].collections


def test_a_curve_has_a_gap_where_the_number_is_not_known():
    rows = [{"epoch": 1}, {"epoch": 2, "gradient_norm": None}, {"epoch": 3, "gradient_norm": 2.5}]
    figure = plots.epoch_curve(rows, "gradient_norm")
    (line,) = figure.axes[0].lines
    np.testing.assert_array_equal(np.asarray(line.get_ydata()), [np.nan, np.nan, 2.5])
    assert {"gradient norm", "epoch"} <= {*texts(figure)}


def test_a_learning_rate_is_drawn_from_zero_on():
    rows = [{"epoch": epoch, "learning_rate": 1e-3 * (3 - epoch)} for epoch in (1, 2, 3)]
    axes = plots.epoch_curve(rows, "learning_rate").axes[0]
    assert (axes.get_yscale(), axes.get_ylim()[0]) == ("linear", 0)


def accuracy_axes(*accuracies: tuple[float, float]) -> Any:
    figure = plots.learning_curves(accuracy_history(*accuracies), ["accuracy"])
    figure.canvas.draw()
    return figure.axes[0]


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 2), min_size=1, max_size=30))
def test_curves_of_any_accuracy_lie_within_their_axes(accuracies):
    axes = accuracy_axes(*accuracies)
    low, high = axes.get_ylim()
    for line in axes.lines:
        assert np.isfinite(axes.transData.transform(line.get_xydata())).all()
        values = np.asarray(line.get_ydata())
        assert ((low <= values) & (values <= high)).all()


def test_the_last_epochs_of_curves_are_legible():
    """The step from 99% to 99.5% is over a tenth of the height, however bad the first epoch."""
    accuracies = [0.3, 0.9, 0.99, 0.995]
    axes = accuracy_axes(*((value, value) for value in accuracies))
    points = axes.transData.transform([(1, value) for value in accuracies])
    heights = axes.transAxes.inverted().transform(points)[:, 1]
    assert heights[3] - heights[2] > 0.1
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert {"90%", "99%", "99.5%"} <= {*names}


@given(st.floats(0.1, 0.999))
def test_an_accuracy_axis_has_a_number_above_the_last_point(best):
    axes = accuracy_axes((0.05, 0.1), (0.05, best))
    ticks = [tick for tick in axes.get_yticks() if tick <= axes.get_ylim()[1]]
    assert max(ticks) >= best - 1e-9


def luminance(colour: str) -> float:
    """https://www.w3.org/TR/WCAG21/#dfn-relative-luminance"""
    parts = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_lines_of_figures_stand_out_from_the_page():
    on_dark = [each for each in plots.COLOURS if each != plots.BLUE]  # blue becomes the accent
    for ground, colours in {"#ffffff": plots.COLOURS, "#151517": on_dark}.items():
        for colour in colours:
            dark, light = sorted([luminance(colour), luminance(ground)])
            assert (light + 0.05) / (dark + 0.05) >= 3, (ground, colour)


def test_each_training_has_a_curve_and_a_name():
    histories = {f"_run {number}": history(number + 1) for number in range(8)}
    figure = plots.compare_curves(histories, "loss")
    for name, rows in histories.items():
        assert curve(figure, name.lstrip("_")) == [row["val_loss"] for row in rows]
    styles = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(styles) == 8


def test_a_legend_of_long_names_stays_within_its_figure(subtests):
    for length in (3, 16, 17, 60):
        with subtests.test(msg=f"{length} letters"):
            names = [f"{number}{'n' * (length - 1)}" for number in range(4)]
            figure = plots.compare_curves({name: history(2) for name in names}, "accuracy")
            figure.draw_without_rendering()
            (legend,) = figure.legends
            assert legend.get_window_extent().x1 <= figure.bbox.x1


def test_counts_of_a_confusion_stand_in_their_cells():
    counts = np.array([[1200, 0, 3], [0, 45, 0], [7, 0, 6]])
    figure = plots.confusion(counts, ["a", "b", "c"])
    places = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    assert places == {"1200": (0, 0), "3": (2, 0), "45": (1, 1), "7": (0, 2), "6": (2, 2)}


@pytest.mark.parametrize("classes", [2, 10, 47, 1000])
def test_a_confusion_of_any_number_of_classes_is_readable(classes):
    rng = np.random.default_rng(0)
    counts = np.diag(rng.integers(0, 50, classes))  # some classes have no example
    np.add.at(counts, tuple(rng.integers(0, classes, (2, 5 * classes))), 1)
    names = [f"class {number}" for number in range(classes)]
    figure = plots.confusion(counts, names)
    drawn = svg(figure, "f")
    assert svg(plots.confusion(csr_array(counts), names), "f") == drawn
    assert len(drawn) < 600_000
    axes = figure.axes[0]
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert len(shown) <= plots.NAMED
    assert shown[:2] == ["class 0", f"class {-(-classes // plots.NAMED)}"]
    cells = [path for part in axes.collections for path in part.get_paths()]
    assert len(cells) == np.count_nonzero(counts)
    narrowest = min(np.ptp(np.asarray(path.vertices)[:, 0]) for path in cells)
    assert narrowest / classes * 390 * 0.8 >= 2  # pixels of a mistake, on a phone


def test_reliability_leaves_out_empty_bins():
    accuracy, counts = np.array([np.nan, 0.5, 0.75, 1]), np.array([0, 2, 4, 19])
    intervals = np.array([[0, 1], [0.1, 0.9], [0.3, 0.95], [0.7, 1]])
    figure = plots.reliability(np.array([np.nan, 0.4, 0.7, 0.99]), accuracy, counts, intervals)
    assert curve(figure, "network") == [1]
    assert curve(figure, "fewer than 10 answers") == [0.5, 0.75]
    few = [line.get_alpha() for line in figure.axes[0].lines if "few" in str(line.get_label())]
    assert few == [0.3]
    collections: Any = figure.axes[0].collections
    reached = [path.vertices[:, 1] for bars in collections for path in bars.get_paths()]
    np.testing.assert_allclose(reached, intervals[[3, 1, 2]])
    assert [bar.get_height() for bar in figure.axes[1].patches] == [0, 2, 4, 19]  # type: ignore[attr-defined]


def test_the_counts_of_a_calibration_have_an_axis_of_few_numbers(subtests):
    one = np.ones(1)
    for count, written in ((1, ["1"]), (99, ["1", "10"]), (9834, ["1", "100"])):
        with subtests.test(msg=f"{count} answers"):
            figure = plots.reliability(one, one, np.array([count]), np.array([[0.5, 1]]))
            figure.canvas.draw()
            assert [text.get_text() for text in figure.axes[1].get_yticklabels()] == written
            assert texts(figure).count("20%") == 2  # of the two accuracies' axes, each once


def test_every_phase_is_a_bar():
    figure = plots.phases({"import": 1.0, "train": 8.25, "eval": 0.0})
    assert [bar.get_width() for bar in figure.axes[0].patches] == [1.0, 8.25, 0.0]  # type: ignore[attr-defined]
    assert {"import", "train", "8.25 s"} <= {*texts(figure)}


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_keep_their_pixels_and_titles(channels):
    pictures = np.random.default_rng(0).integers(0, 256, (7, 5, 4, channels), np.uint8)
    figure = plots.picture_grid(pictures, [*"abcdefg"], columns=3)
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert (np.array(shown) == np.broadcast_to(pictures, (7, 5, 4, 3))).all()
    assert [*filter(None, texts(figure))] == [*"abcdefg"]


def test_titles_of_pictures_do_not_touch():
    figure = plots.picture_grid(np.zeros((10, 28, 28, 1), np.uint8), ["8, not 0 (>99.9%)"] * 10)
    figure.draw_without_rendering()
    titles = [axes.title.get_window_extent() for axes in figure.axes]
    gaps = [right.x0 - left.x1 for left, right in itertools.pairwise(titles[:5])]
    assert min(gaps) > 15
    above = figure.axes[0].get_window_extent().y0 - titles[5].y1
    below = titles[5].y0 - figure.axes[5].get_window_extent().y1
    assert above > 2 * below > 0  # a title belongs to the picture below it


def test_long_names_in_figures_keep_their_ends():
    names = [f"{'a' * 50} {end}" for end in ("left", "right")]
    axes = plots.confusion(np.ones((2, 2), int), names).axes[0]
    first, second = [label.get_text() for label in axes.get_yticklabels()]
    assert (first[-4:], second[-5:]) == ("left", "right")
    assert len(first) == len(second) == 14


NAMES = ["</svg><script>alert(1)</script>", "$x", "漢字 ش", "x" * 500, "a\nb\0", "--><b>"]


def test_names_in_figures_are_text_whatever_they_hold():
    figures = [
        plots.confusion(np.ones((6, 6), int), NAMES),
        plots.compare_curves({name: history(2) for name in NAMES}, "loss"),
        plots.picture_grid(np.zeros((6, 2, 2, 1), np.uint8), NAMES),
    ]
    for figure in figures:
        assert not re.search("<script|<b>|<!--", svg(figure, "f"))
        shown = texts(figure)
        assert {"$x", "漢字 ش", "a b"} <= {*shown}
        assert max(map(len, shown)) <= 30


def test_a_figure_fits_into_any_page():
    """It has unique ids, the page's colour and font, and loads nothing."""
    once, again = (svg(plots.learning_curves(history(3)), "curves") for _ in range(2))
    assert once == again
    root = ET.fromstring(once)
    assert "width" not in root.attrib
    ids = {element.attrib["id"] for element in root.iter() if "id" in element.attrib}
    assert {name[:7] for name in ids} == {"curves-"}
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', once)
    assert {*filter(None, sum(used, ()))} <= ids
    assert plots.INK not in once
    assert once.count(plots.BLUE) == once.count(f"var(--accent, {plots.BLUE})") > 0
    assert "currentColor" in once
    assert not re.search(r'font:|font-family|(href|src)="(?!#)', once)
