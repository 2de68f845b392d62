"""The results of `epochs.py` as a Markdown table and a plot.

`records` are the peers' records by name, see `epochs.Peer`; `unit` is "epoch" or "training".
"""

import statistics
from pathlib import Path
from typing import Any

from machine import headline
from matplotlib.figure import Figure

OURS = "mnist_jax"


def timed(record: dict[str, Any], key: str = "seconds") -> list[float]:
    """Returns a figure per timed round; none after an error."""
    return [] if record["error"] else [epoch[key] for epoch in record["epochs"][1:]]


def ratios(records: dict[str, Any], name: str) -> list[float]:
    """Returns a peer's seconds over this project's, round by round."""
    ours = timed(records[OURS]) if OURS in records else []
    return [a / b for a, b in zip(timed(records[name]), ours, strict=False)]


def spread(values: list[float], digits: int = 2) -> str:
    """Formats values as "median (min-max)"."""
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def rows(records: dict[str, Any], unit: str) -> list[dict[str, Any]]:
    """Returns a table's cells by column, with a row per peer."""
    found = []
    for name, record in records.items():
        if record["error"]:
            found.append({"peer": name, "versions": record["error"]})
            continue
        first, *_, last = record["epochs"]
        seconds, times = timed(record), ratios(records, name)
        row = {
            "peer": name,
            "versions": ", ".join(f"{k} {v}" for k, v in record["versions"].items()),
            f"start, first {unit}, s": f"{record['start_seconds']:.1f}, {first['seconds']:.1f}",
            f"{unit}, s": spread(seconds),
            "steps/s": f"{last['steps'] / statistics.median(seconds):.0f}",
            "times mnist_jax": "1" if name == OURS else spread(times) if times else "",
            "test accuracy, %": accuracy([100 * value for value in record["test_accuracies"]]),
        }
        found.append(row)
    return found


def accuracy(values: list[float]) -> str:
    """Formats one accuracy, or several as mean, deviation and number above 99 %."""
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
    """Returns the lines below the table."""
    rounds = max(len(timed(record)) for record in records.values())
    lines = [
        f"Median (min-max) of {rounds} rounds after the first; each {unit} with its validation. "
        "Times mnist_jax: ratio of seconds within a round."
    ]
    for name, record in records.items():
        if not record["error"] and "train_seconds" in record["epochs"][0]:
            alone = spread(timed(record, "train_seconds"))
            lines.append(f"Without the validation, {name} takes {alone} s.")
    rates = floor["matmul_rates"]
    size = max(rates, key=rates.get)
    lines.append(
        f"A step of mnist_jax has {floor['flops'] / 1e6:.0f} MFLOP, {floor['floor_ms']:.2f} ms at "
        f"the rate of the best float32 matrix product ({rates[size] / 1e9:.0f} GFLOP/s, "
        f"{size} x {size})."
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
    """Draws each peer's median as a bar, and its rounds as dots."""
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
