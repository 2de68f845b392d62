"""A page about a trained network, or a comparison of several: one file, without a network."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from mnist_jax import plots
from mnist_jax.augment import augment, mixup
from mnist_jax.calibration import BINS
from mnist_jax.config import AugmentConfig, Config
from mnist_jax.extras import require
from mnist_jax.features import feature_maps, first_filters
from mnist_jax.history import atomic_file
from mnist_jax.pictures import visible
from mnist_jax.reporting.comparison import comparison_values
from mnist_jax.reporting.measured import (
    Measured,
    RunRecord,
    figures,
    measure,
    phase_seconds,
    read_run,
    verdict,
)
from mnist_jax.reporting.page import figure, picture, render

MISTAKES = 25  # pictures of the most confident ones
CONFUSIONS = 6  # pairs of classes that are said in words
ROWS = 30  # classes in a table; of more, those found worst
MAPS = 32  # filters, and feature maps of a layer, that are shown
EXAMPLES = 6  # training images that are shown augmented


class Report(NamedTuple):
    """A page that was written.

    Attributes:
        path: the file.
        verdict: a line a network: its accuracy with the interval.
        networks: of each what the line says and more, as `json` can hold it, see
            `measured.figures`.
    """

    path: Path
    verdict: str
    networks: list[dict[str, Any]]


def report(workdirs: str | Path | Sequence[str | Path], output: str | Path | None = None) -> Report:
    """Writes a page about a trained network, or about several beside each other.

    It shows the test images; of a run that is not finished, the validation images, so that the
    test split stays unseen until the end. The same runs give the same bytes.

    Args:
        workdirs: a directory that `train` has written, or several.
        output: an .html file (default: report.html in the workdir; of several, comparison.html).

    Raises:
        FileNotFoundError: there is no trained network, or no directory for the output.
        ValueError: a run cannot be read, its data are others now, or a package is missing.
        OSError: the page cannot be written.
    """
    require("a report", "jinja2", "matplotlib", "sklearn", extra="report")
    paths = [workdirs] if isinstance(workdirs, str | Path) else [*workdirs]
    if not paths:
        raise ValueError("workdir must be a directory, or several, got none")
    if output is None:
        target = Path(paths[0], "report.html") if len(paths) == 1 else Path("comparison.html")
    else:
        target = Path(output)
    if target.suffix != ".html":
        raise ValueError(f"--output must end in .html, got {str(output)!r}")
    runs = [read_run(path) for path in paths]
    if not target.parent.is_dir():
        raise FileNotFoundError(f"--output: there is no directory {target.parent}")
    if len(runs) == 1:
        template, (networks, values) = "report.html", _single_values(runs[0])
    else:
        template, (networks, values) = "comparison.html", comparison_values(runs)
    page = render(template, **values)
    with atomic_file(target) as file:
        file.write(page)
    return Report(target, "\n".join(map(verdict, networks)), networks)


def _single_values(run: RunRecord) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns the figures of a run, and what its page is filled with."""
    measured, splits = measure(run, "test" if run.result else "validation")
    names = run.trained.info.label_names
    found = figures(run, measured)
    made_with = run.result or run.trained.origin["environment"]
    versions = made_with.get("versions")
    values = {
        "found": found,
        "result": run.result,
        "made": _how_it_was_made(run, found["parameters"], len(splits["train"].labels)),
        "early": _early_stop(run),
        "curves": _curves(run),
        "last": run.history[-1] if run.history else None,
        "confusion": _confusion(measured, names),
        "classes": _classes(measured, names),
        "num_classes": len(names),
        "reliability": figure(
            plots.reliability(*measured.reliability),
            "reliability",
            "A curve: how often the network was right, by the probability of its answer.",
        ),
        "bins": BINS,
        "mistakes": _mistakes(measured, names),
        "short_names": max(map(len, names)) <= 3,
        "pixelated": max(run.trained.info.image_shape[:2]) < 64,
        "maps": _maps(run, measured, names),
        "augmented": _augmented(run.trained.config, splits["train"].images),
        "phases": _phases(run),
        "config": _config_rows(run.trained.config),
        "environment": {
            name: made_with.get(name)
            for name in ("platform", "device_kind", "device_count", "cpu_count")
        },
        "versions": versions if isinstance(versions, dict) else {},
        "again": _command(run.trained.config),
        "verify": shlex.join(["mnist-jax", "verify", "--workdir", str(run.workdir)]),
    }
    return [found], values


def _how_it_was_made(run: RunRecord, parameters: int, examples: int) -> str:
    config, info = run.trained.config, run.trained.info
    height, width, channels = info.image_shape
    epochs = len(run.history) if run.result else config.epochs
    kind = {1: "grey ", 3: "colour "}.get(channels, "")
    changed = [name for name, value in vars(config.augment).items() if value]
    augmented = f", changed at random each time ({', '.join(changed)})" if changed else ""
    begun = f", beginning from {config.init_from}" if config.init_from else ""
    return (
        f"A {config.model.name} of {parameters:,} parameters, "
        f"{'trained' if run.result else 'being trained'} for {epochs} "
        f"{'epoch' if epochs == 1 else 'epochs'} on {examples:,} {kind}images of "
        f"{config.data.dataset} ({height}x{width} pixels, {len(info.label_names):,} classes)"
        f"{augmented}, in batches of {config.batch_size} by {config.optimizer.name} with a "
        f"learning rate of {config.optimizer.learning_rate:g} ({config.optimizer.schedule}) and "
        f"seed {config.seed}{begun}."
    )


def _early_stop(run: RunRecord) -> str:
    """Says which epoch's network this is, where it is not the last one of the recipe."""
    patience, epochs = run.trained.config.watch.patience, run.trained.config.epochs
    shown = [row["epoch"] for row in run.history if row.get("step") == run.trained.step]
    if not patience or not shown:
        return ""
    ended = f"stopped early, after epoch {run.history[-1]['epoch']} of {epochs}"
    kept = f"the network shown is that of epoch {shown[0]}, which was the best in validation"
    return f"The training {ended}; {kept}." if run.result else f"{kept[0].upper()}{kept[1:]}."


def _curves(run: RunRecord) -> list[Any]:
    if not run.history:
        return []
    last = run.history[-1]
    return [
        figure(
            plots.learning_curves(run.history, [metric]),
            f"curves-{metric}",
            f"Curves of the {metric} by epoch; after the last one {last[f'train_{metric}']:.4g} in "
            f"training and {last[f'val_{metric}']:.4g} in validation.",
        )
        for metric in ("accuracy", "loss")
    ]


def _confusion(measured: Measured, names: Sequence[str]) -> dict[str, Any]:
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(measured.labels, measured.answers, labels=range(len(names)))
    mistakes = np.where(np.eye(len(names), dtype=bool), 0, counts)
    most = np.argsort(-mistakes, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [divmod(int(place), len(names)) for place in most if mistakes.flat[place]]
    description = "A table of colours: which class was taken for which, and how often."
    return {
        "figure": figure(plots.confusion(counts, names), "confusion", description),
        "most": [(names[true], names[said], int(counts[true, said])) for true, said in pairs],
    }


def _classes(measured: Measured, names: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class; of many classes, of those with the lowest F1."""
    from sklearn.metrics import precision_recall_fscore_support

    undefined: Any = np.nan  # of a class without an example, or without an answer
    scores: Any = precision_recall_fscore_support(
        measured.labels, measured.answers, labels=range(len(names)), zero_division=undefined
    )
    precision, recall, f1, support = scores
    shown = range(len(names)) if len(names) <= ROWS else np.argsort(f1, kind="stable")[:ROWS]
    return [
        {
            "name": names[int(number)],
            "precision": _percent(precision[number]),
            "recall": _percent(recall[number]),
            "f1": _percent(f1[number]),
            "support": int(support[number]),
        }
        for number in shown
    ]


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{share:.2%}"


def _mistakes(measured: Measured, names: Sequence[str]) -> list[dict[str, Any]]:
    wrong = np.flatnonzero(~measured.right)
    worst = wrong[np.argsort(-measured.confidence[wrong], kind="stable")][:MISTAKES]
    return [
        {
            "picture": picture(image),
            "shown": names[int(measured.labels[number])],
            "answer": names[int(measured.answers[number])],
            "probability": f"{measured.confidence[number]:.1%}",
        }
        for number, image in zip(worst, measured.images[worst], strict=True)
    ]


def _maps(run: RunRecord, measured: Measured, names: Sequence[str]) -> dict[str, Any] | None:
    """Filters, and what they find on the first image; None where there is no convolution."""
    trained = run.trained
    filters = first_filters(trained.variables)
    if filters is None:
        return None
    image = measured.images[np.arange(1)]
    maps = feature_maps(trained.model, trained.variables, jnp.asarray(image, jnp.float32) / 255)
    return {
        "image": picture(image[0]),
        "label": names[int(measured.labels[0])],
        "filters": [picture(each) for each in visible(np.asarray(filters)[:MAPS], signed=True)],
        "layers": [
            {
                "name": name,
                "count": found.shape[-1],
                "size": f"{found.shape[1]}x{found.shape[2]}",
                "maps": [
                    picture(each[..., None])
                    for each in visible(np.asarray(found[0, ..., :MAPS])).transpose(2, 0, 1)
                ],
            }
            for name, found in maps.items()
        ],
    }


def _augmented(config: Config, images: Any) -> list[list[str]]:
    """Some training images, and below them what the network was given in their place."""
    options = dict(vars(config.augment))
    if config.augment == AugmentConfig():
        return []
    alpha = options.pop("mixup_alpha")
    originals = images[np.arange(min(EXAMPLES, len(images)))]
    rows = [originals]
    for number in range(3):
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        changed = augment(jnp.asarray(originals, jnp.float32) / 255, key, **options)
        changed = mixup(changed, jnp.ones(len(originals), bool), key, alpha=alpha)
        rows.append(np.round(np.asarray(changed) * 255).clip(0, 255).astype(np.uint8))
    return [[picture(image) for image in row] for row in rows]


def _phases(run: RunRecord) -> Any:
    seconds = phase_seconds(run)
    if not seconds:
        return None
    said = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    return figure(plots.phases(seconds), "phases", f"Bars: {said}.")


def _config_rows(config: Config) -> list[tuple[str, Any, Any]]:
    """Each field with its value and, where it differs, the default; None where it does not."""
    values, defaults = (
        flatten_dict(dataclasses.asdict(each), sep=".") for each in (config, Config())
    )
    return [
        (name, value, defaults[name] if value != defaults[name] else None)
        for name, value in values.items()
    ]


def _command(config: Config) -> str:
    """The command that trains by this config, an option a line."""
    words = ["mnist-jax train"]
    for name, value, default in _config_rows(config):
        if default is not None:
            option = "--" + name.replace("_", "-")
            words.append(option if value is True else f"{option} {shlex.quote(str(value))}")
    return " \\\n  ".join([*words, "--workdir runs/again"])
