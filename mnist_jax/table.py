"""A small table of a run, for notebooks."""

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 240, 80  # pixels of the curves
COLORS = {"train_accuracy": "#888", "val_accuracy": "#07c"}


def run_table(figures: Mapping[str, float], history: Sequence[Any]) -> str:
    """Draws figures (fractions) and the epochs' accuracies as HTML."""
    cells = "".join(f"<th>{name}</th><td>{value:.2%}</td>" for name, value in figures.items())
    curves = {name: [float(row[name]) for row in history] for name in COLORS}
    low = min(value for values in curves.values() for value in values)
    scale = HEIGHT / max(1 - low, 1e-6)
    lines = "".join(
        f'<polyline fill="none" stroke="{COLORS[name]}" points="'
        + " ".join(
            f"{WIDTH * number / max(1, len(values) - 1):.1f},{scale * (1 - value):.1f}"
            for number, value in enumerate(values)
        )
        + f'"/><circle r="2" fill="{COLORS[name]}" cx="{WIDTH if len(values) > 1 else 0}" '
        + f'cy="{scale * (1 - values[-1]):.1f}"/>'  # the only mark of a single epoch
        for name, values in curves.items()
    )
    return (
        f"<table><tr>{cells}</tr></table>"
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img">'
        f"<title>accuracy by epoch: training grey, validation blue</title>{lines}</svg>"
    )
