"""The results of `epochs.py` as a Markdown table, its footer, and a plot.

`records` are the peers' records by name, see `epochs.Peer`; `unit` is an "epoch" or a whole
"training".
"""

import statistics
from pathlib import Path
from typing import Any

from machine import headline
from matplotlib.figure import Figure

OURS = "mnist_jax"


def timed(record: dict[str, Any], key: str = "seconds") -> list[float]:
    """Returns a figure for each timed round; none for a peer that failed."""
    return [] if record["error"] else [epoch[key] for epoch in record["epochs"][1:]]


def ratios(records: dict[str, Any], name: str) -> list[float]:
    """Returns the peer's seconds over this project's, round by round."""
    ours = timed(records[OURS]) if OURS in records else []
    return [a / b for a, b in zip(timed(records[name]), ours, strict=False)]


def spread(values: list[float], digits: int = 2) -> str:
    """Returns "median (min-max)"."""
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def table(records: dict[str, Any], unit: str) -> list[str]:
    """Returns the lines of a Markdown table with a row per peer."""
    rows = [
        f"| peer | versions | start, first {unit}, s | {unit}, s | steps/s | times mnist_jax "
        "| test accuracy, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, record in records.items():
        if record["error"]:
            rows.append(f"| {name} | {record['error']} | | | | | |")
            continue
        versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
        first, *_, last = record["epochs"]
        seconds, times = timed(record), ratios(records, name)
        cells = [
            name,
            versions,
            f"{record['start_seconds']:.1f}, {first['seconds']:.1f}",
            spread(seconds),
            f"{last['steps'] / statistics.median(seconds):.0f}",
            "1" if name == OURS else spread(times) if times else "",
            accuracy([100 * value for value in record["test_accuracies"]]),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def accuracy(values: list[float]) -> str:
    """Formats one accuracy, or several as mean, deviation and the number that reach 99 %."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    reached = sum(value >= 99 for value in values)
    return (
        f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}, "
        f"{reached} of {len(values)} reach 99"
    )


def footer(
    records: dict[str, Any], unit: str, floor: dict[str, Any], machine: dict[str, Any]
) -> list[str]:
    """Returns the lines below the table: its meaning, the floor, the machine."""
    rounds = max(len(timed(record)) for record in records.values())
    lines = [
        f"Median (least-most) of {rounds} rounds after the first; each {unit} with its validation. "
        "Times mnist_jax: the peer's seconds over this project's, round by round."
    ]
    for name, record in records.items():
        if not record["error"] and "train_seconds" in record["epochs"][0]:
            alone = spread(timed(record, "train_seconds"))
            lines.append(f"Without the validation, {name} takes {alone} s.")
    rates = floor["matmul_rates"]
    size = max(rates, key=rates.get)
    lines.append(
        f"A step of mnist_jax is {floor['flops'] / 1e6:.0f} MFLOP of arithmetic, "
        f"{floor['floor_ms']:.2f} ms at the rate of this machine's best float32 matrix product "
        f"({rates[size] / 1e9:.0f} GFLOP/s, {size} x {size})."
    )
    if "step_ms" in floor:
        lines[-1] += (
            f" It takes {floor['step_ms']:.2f} ms, {floor['step_ms'] / floor['floor_ms']:.1f} "
            "times as long."
        )
    lines.append(
        f"{headline(machine)} {machine['platform']}, load average {machine['load']:.2f} at the "
        "start."
    )
    return lines


def plot(records: dict[str, Any], unit: str, machine: dict[str, Any], path: Path) -> None:
    """Draws each peer's median time as a bar, and each timed round as a dot."""
    finished = [name for name in records if timed(records[name])]
    finished.sort(key=lambda name: statistics.median(timed(records[name])))
    figure = Figure(figsize=(8, 1.5 + 0.5 * len(finished)), layout="constrained")
    axes = figure.subplots()
    for y, name in enumerate(finished):
        seconds, times = timed(records[name]), ratios(records, name)
        median = statistics.median(seconds)
        color = "#c8553d" if name == OURS else "#8fa6b5"
        axes.barh(y, median, height=0.6, color=color)
        axes.scatter(seconds, [y] * len(seconds), s=14, color="#22333b", alpha=0.45, linewidth=0)
        label = f"{median:.2f} s"
        if times and name != OURS:
            label += f"  ({statistics.median(times):.1f} times)"
        end = (max(seconds), y)
        axes.annotate(label, end, (8, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(finished)), finished)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"bar: median, dots: rounds. {headline(machine)}", loc="left", fontsize=8)
    axes.set_title(f"MNIST: seconds for one {unit} with its validation", loc="left", weight="bold")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(path, dpi=150)
