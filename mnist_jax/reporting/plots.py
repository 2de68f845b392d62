"""Figures of a training and its network: pure functions that return Matplotlib's `Figure`.

They avoid pyplot, which keeps figures alive, and are legible for the colour blind and on phones.
`page.svg` makes them parts of a page.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # an extra, and slow
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color Universal Design", 2008, https://jfly.uni-koeln.de/color/; a page
# replaces the blue by its accent, and INK by its own.
BLUE, VERMILION = "#0072b2", "#d55e00"
# Theirs, some darker for a contrast of 3:1 on white and dark pages.
COLOURS = (BLUE, VERMILION, "#009e73", "#b8558f", "#8a6d00", "#7a7a80")
INK = "#1b1b1d"  # letters and lines
TINY = 1e-9  # smaller than any difference of accuracies
WRITTEN = 10  # classes up to which cells show counts
DIGITS = ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7))  # of a logarithmic axis, coarse or fine
LINKED = 50  # classes up to which cells are links
NAMED = 20  # classes up to which axes name each
FEW = 10  # answers; smaller bins are faint
Row = Mapping[str, Any]  # of a history
STYLE: Any = {  # of Matplotlib's rcParams
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK),
    **dict.fromkeys(("grid.color", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.linewidth", "grid.linewidth"), 0.6),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
    **dict.fromkeys(("font.size", "axes.titlesize"), 9),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    "axes.titlelocation": "left",
    "axes.formatter.useoffset": False,
    "text.parse_math": False,  # a dollar in a label is a dollar
    "grid.alpha": 0.14,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


def learning_curves(
    history: Sequence[Row], metrics: Sequence[str] = ("accuracy", "loss"), *, gap: bool = True
) -> "Figure":
    """Draws each epoch's metrics in training and validation, one panel each, and shades their gap.

    The rows have `epoch`, and `train_` and `val_` of each metric: "accuracy" (fractions), "loss"
    (nats per example). Omit the gap if they are not comparable.
    """
    with _panels(len(metrics)) as (figure, panels):
        for axes, metric in zip(panels, metrics, strict=True):
            if gap:
                names = ("epoch", f"train_{metric}", f"val_{metric}")
                epochs, train, val = ([row[name] for row in history] for name in names)
                axes.fill_between(epochs, train, val, color=INK, alpha=0.1, lw=0, label="gap")
            # Dashed for grey print.
            _curve(axes, history, f"train_{metric}", "--", color=VERMILION, label="training")
            _curve(axes, history, f"val_{metric}", color=BLUE, label="validation")
            _by_epoch(axes, metric)
            axes.legend()
    return figure


def epoch_curve(history: Sequence[Row], name: str) -> "Figure":
    """Draws a number by epoch, such as "gradient_norm"; unknown values leave gaps."""
    with _panels(1, height=1.8) as (figure, (axes,)):
        _curve(axes, history, name, color=BLUE)
        _by_epoch(axes, name.replace("_", " "))
    return figure


def compare_curves(histories: Mapping[str, Sequence[Row]], metric: str) -> "Figure":
    """Draws several trainings' validation "accuracy" or "loss" by epoch."""
    labels = [_short(name, 24).lstrip("_") for name in histories]  # legends omit those with one
    columns = 2 if max(map(len, labels)) <= 16 else 1
    height = 2.7 + 0.18 * math.ceil(len(labels) / columns)
    with _panels(1, height) as (figure, (axes,)):
        for number, (label, history) in enumerate(zip(labels, histories.values(), strict=True)):
            again, colour = divmod(number, len(COLOURS))
            style = ("-", "--", ":", "-.")[again % 4]
            _curve(axes, history, f"val_{metric}", style, color=COLOURS[colour], label=label)
        _by_epoch(axes, f"validation {metric}")
        figure.legend(loc="outside lower left", ncols=columns)  # inside, it would hide curves
    return figure


def confusion(counts: Any, label_names: Sequence[str]) -> "Figure":
    """Draws a confusion matrix.

    The counts, int [K, K], are by true class and answer; SciPy's sparse arrays save memory. Right
    answers and mistakes have scales of their own; the mistakes' is logarithmic, to show rare ones.
    Of many names only some appear. Up to `LINKED` classes, cells link to "#TRUE-ANSWER", two
    indices, for `page.figure` to resolve.
    """
    from matplotlib.collections import PolyCollection
    from scipy.sparse import csr_array

    counts = csr_array(counts)
    classes = counts.shape[0]
    side = max(0.96, classes / 110)  # keeps cells of a thousand classes visible
    filled: Any = counts.tocoo()
    rows, columns, values = filled.row, filled.col, filled.data
    wrong = rows != columns
    scale = np.log1p(max([1, *values[wrong]]))
    shares = counts.diagonal() / counts.sum(axis=1).clip(min=1)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * side / 2
    with _panels(1, height=4.0 if classes <= WRITTEN else 4.4) as (figure, (axes,)):
        for part, colour, strength in (
            (~wrong, BLUE, 0.08 + 0.3 * shares[rows]),
            (wrong, VERMILION, 0.15 + 0.6 * np.log1p(values) / scale),
        ):
            cells = [*(np.stack([columns, rows], 1)[part][:, None] + corners)]
            fills = [(colour, float(alpha)) for alpha in strength[part]]
            # One picture is smaller than thousands of cells.
            many = len(cells) > 3000
            drawn = PolyCollection(cells, facecolors=fills, lw=0, rasterized=many)
            if classes <= LINKED:
                pairs = zip(rows[part], columns[part], strict=True)
                drawn.set_urls([f"#{row}-{column}" for row, column in pairs])
            axes.add_collection(drawn)
        if classes <= WRITTEN:
            for row, column, count in zip(rows, columns, values, strict=True):
                axes.text(column, row, f"{count}", ha="center", va="center")
        shown = range(0, classes, math.ceil(classes / NAMED))
        names = [_short(label_names[number], 14) for number in shown]
        upright = max(map(len, names)) * len(names) > 40
        axes.set_xticks(shown, names, rotation=90 if upright else 0)
        axes.set_yticks(shown, names)
        axes.set(xlim=(-0.5, classes - 0.5), ylim=(classes - 0.5, -0.5), aspect="equal")
        axes.set(xlabel="answer", ylabel="true class")
        axes.grid(visible=False)
        axes.spines[:].set(visible=True, alpha=0.3)
    return figure


def reliability(
    confidence: np.ndarray, accuracy: np.ndarray, counts: np.ndarray, intervals: np.ndarray
) -> "Figure":
    """Draws a reliability diagram, with a histogram of the counts below.

    The arguments are each bin's mean probability, fraction of right answers and count, [B], and
    bounds of the true fraction, [B, 2]. Empty bins are omitted, those under `FEW` answers faint.
    """
    from matplotlib.ticker import PercentFormatter

    alphas = np.where(counts < FEW, 0.3, 1.0)
    with _panels(1, height=1.9, rows=2, ratios=(3, 1)) as (figure, (axes, below)):
        axes.plot([0, 1], [0, 1], color=INK, lw=1, ls=(0, (3, 3)), label="perfect")
        for alpha, label in ((1, "network"), (0.3, f"fewer than {FEW} answers")):
            some = np.flatnonzero((counts > 0) & (alphas == alpha))
            sure, right, (low, high) = confidence[some], accuracy[some], intervals[some].T
            lengths = np.stack([right - low, high - right]).clip(min=0)
            style: Any = {"color": BLUE, "alpha": alpha}
            axes.errorbar(sure, right, lengths, fmt="none", elinewidth=1.2, **style)
            if len(some):
                axes.plot(sure, right, "o", ms=4.5, label=label, clip_on=False, **style)
        middles = (np.arange(len(counts)) + 0.5) / len(counts)
        bars = below.bar(middles, counts, 0.8 / len(counts), color=BLUE, log=True)
        for bar, alpha in zip(bars, alphas, strict=True):
            bar.set_alpha(alpha)
        axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", yticks=np.linspace(0, 1, 6))
        below.set(xlim=(0, 1), ylim=(0.5, 2 * max(counts)), xlabel="probability of the answer")
        below.set_ylabel("answers")
        digits = len(str(max(counts)))
        below.set_yticks([10**power for power in range(0, digits, max(1, digits // 2))])
        below.minorticks_off()
        figure.legend(loc="outside upper left", ncols=2)
        axes.tick_params(labelbottom=False)
        for axis in (axes.yaxis, below.xaxis):
            axis.set_major_formatter(PercentFormatter(1))
        below.yaxis.set_major_formatter("{x:,g}")
    return figure


def phases(seconds: Mapping[str, float]) -> "Figure":
    """Draws times by phase as bars."""
    with _panels(1, height=0.6 + 0.24 * len(seconds)) as (figure, (axes,)):
        bars = axes.barh([*seconds], [*seconds.values()], color=BLUE, alpha=0.75, height=0.6)
        axes.bar_label(bars, fmt="%.2f s", padding=4)
        axes.set_xlim(0, 1.3 * max(*seconds.values(), 1e-9))
        axes.invert_yaxis()
        axes.xaxis.set_visible(False)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
    return figure


def picture_grid(
    pictures: np.ndarray, titles: Sequence[str] | None = None, columns: int = 5
) -> "Figure":
    """Draws pictures, uint8 [N, H, W, C], C = 1 or 3, N > 0, in rows, with titles above."""
    columns = min(columns, len(pictures))
    height = 0.95 * (pictures.shape[1] / pictures.shape[2] + (0.4 if titles else 0.05))
    titles = [_short(title, 24) for title in titles or [""] * len(pictures)]
    width = max(0.95, 0.08 * max(map(len, titles)))  # keeps titles apart
    rows = math.ceil(len(pictures) / columns)
    with _panels(columns, height, width=width, rows=rows) as (figure, panels):
        for axes in panels:
            axes.set_axis_off()
        for axes, picture, title in zip(panels, pictures, titles, strict=False):
            # As colours, grey images are not rescaled.
            axes.imshow(np.broadcast_to(picture, (*picture.shape[:2], 3)), interpolation="nearest")
            axes.set_title(title, loc="center", fontsize=8, pad=3)
    return figure


@contextlib.contextmanager
def _panels(
    columns: int,
    height: float = 2.7,
    *,
    width: float = 4.0,
    rows: int = 1,
    ratios: Sequence[float] | None = None,
) -> Iterator[tuple["Figure", "list[Axes]"]]:
    """Yields a figure in the common style and its panels; `ratios` are the rows' heights.

    On a phone, 358 pixels inside, letters of a panel of 4 inches have 11 pixels.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, height_ratios=ratios)
        yield figure, [*panels.flat]


def _curve(axes: "Axes", history: Sequence[Row], name: str, style: str = "-", **line: Any) -> None:
    values = np.array([row.get(name) for row in history], float)  # NaN if unknown
    marker = "o" if len(history) < 20 else ""  # shows a single epoch
    axes.plot([row["epoch"] for row in history], values, style, marker=marker, ms=3, **line)


def _by_epoch(axes: "Axes", title: str) -> None:
    """Names the axes, and scales them so the first epochs do not flatten the last."""
    from matplotlib.ticker import MaxNLocator

    epochs, values = np.concatenate([line.get_xydata() for line in axes.lines]).T
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len({*epochs}) == 1:
        axes.set_xlim(epochs[0] - 0.6, epochs[0] + 0.6)
    if title.endswith("accuracy"):
        _by_error(axes, values)
    elif title == "learning rate":  # some schedules end at 0
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:g}")
    elif np.nanmin(values) > 0:
        axes.set_yscale("log")
        _label(axes)


def _by_error(axes: "Axes", accuracies: np.ndarray) -> None:
    """Makes the axis logarithmic in the errors: 90% to 99% is as far as 99% to 99.9%.

    If some accuracy is 100%, a small number is added to each error.
    """
    errors = 1 - accuracies
    least = float(errors.min(initial=1, where=errors > TINY))
    added = 0.0 if errors.min() > TINY else least / 2
    if np.ptp(errors) > TINY:
        axes.set_yscale(
            "function",
            functions=(
                lambda shares: -np.log10((1 - shares + added).clip(min=1e-12)),
                lambda scaled: 1 + added - 10.0**-scaled,
            ),
        )
    elif added:
        axes.set_ylim(0.9, 1.003)
    rounded = [digit * 10.0**power for power in range(-9, 1) for digit in DIGITS[0]]
    ceiling = max((error for error in rounded if error <= least), default=least)
    axes.set_ylim(top=max(axes.get_ylim()[1], 0 if added else 1 - ceiling))  # a tick above the last
    _label(axes, lambda error: 1 - error if error >= ceiling else 1.0, "%")


def _label(axes: "Axes", height: Callable[[float], float] = float, unit: str = "") -> None:
    """Labels the axis with round numbers in `unit` ("" or "%"); if too few fit, others.

    `height` maps a round number to its value on the axis.
    """
    from matplotlib.ticker import AutoLocator

    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(AutoLocator())
    for digits in DIGITS:
        heights = {height(digit * 10.0**power) for power in range(-9, 9) for digit in digits}
        seen = sorted(each for each in heights if low <= each <= high)
        if len(seen) > 2:
            axes.set_yticks(seen)
            break
    factor = 100 if unit else 1
    axes.yaxis.set_major_formatter(lambda value, _: f"{factor * value:.6g}{unit}")
    axes.minorticks_off()


def _short(text: str, length: int) -> str:
    """Shortens text to one line of `length` characters, in its middle."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(text) <= length:
        return text
    return f"{text[: length // 2]}…{text[len(text) - (length - 1) // 2 :]}"
