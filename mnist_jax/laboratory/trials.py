"""The trials of a sweep as a table and as Optuna's figures."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_jax.workdir.files import atomic_file

if TYPE_CHECKING:  # an extra
    from optuna import Study
    from optuna.trial import FrozenTrial

FIGURES = {
    "optimization history": "plot_optimization_history",
    "parameter importances": "plot_param_importances",
    "slices": "plot_slice",
    "parallel coordinates": "plot_parallel_coordinate",
    "validation accuracy by epoch": "plot_intermediate_values",
}


def format_trials(trials: list[FrozenTrial]) -> str:
    """Formats trials as a table, with a column for each parameter."""
    names = list(trials[0].params)
    rows = [["trial", "accuracy", "epochs", *names]]
    for trial in trials:
        epochs = str(trial.last_step or 0) + (" (pruned)" if trial.state.name == "PRUNED" else "")
        values = [short(trial.params[name]) for name in names]
        rows.append([str(trial.number), f"{trial.value or 0.0:.2%}", epochs, *values])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def short(value: Any) -> str:
    """Formats a value for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def draw_figures(study: Study, directory: Path) -> list[str]:
    """Writes Optuna's figures as one page; returns lines about it and missing ones."""
    if not importlib.util.find_spec("plotly"):
        return ["no plots; they need plotly: `pip install plotly`"]
    import optuna

    lines, parts = [], []
    for title, function in FIGURES.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # warns of empty figures
                figure = getattr(optuna.visualization, function)(study)
        except (UserWarning, ValueError, RuntimeError) as error:
            lines.append(f"no plot of the {title}: {error}")
        else:
            figure.update_layout(title=title)
            parts.append(figure.to_html(full_html=False, include_plotlyjs=not parts))
    page = f'<!doctype html><meta charset="utf-8"><title>sweep</title>{"".join(parts)}\n'
    directory.mkdir(exist_ok=True)
    with atomic_file(directory / "sweep.html") as file:
        file.write(page.encode())
    return [*lines, f"plots: {directory / 'sweep.html'}"]
