"""Content of a report about one network."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax.augment import augment, mixup
from mnist_jax.config import AugmentConfig, Config, fields_with_defaults
from mnist_jax.metrics import wilson_interval
from mnist_jax.reporting import plots
from mnist_jax.reporting.calibration import BINS
from mnist_jax.reporting.filters import MOST, feature_maps, filter_sheet, first_filters, map_sheets
from mnist_jax.reporting.measured import STEP_CURVES, Measured, RunRecord, figures, measure
from mnist_jax.reporting.page import SHEET_SIDE, figure, picture, readable, spelled
from mnist_jax.reporting.pictures import data_url
from mnist_jax.steps import to_float

MISTAKES = 25  # most confident ones
OTHERS = 35  # at most, of other confusions
CONFUSIONS = 6  # in words
ROWS = 30  # classes in the table
EXAMPLES = 6  # augmented training images
PHASES = {
    "import": "import packages",
    "data": "load data",
    "compile": "compile",
    "train": "train",
    "eval": "validate and test",
    "checkpoint": "save",
}


def single_values(run: RunRecord) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns a run's figures, and the values of the template."""
    measured, splits = measure(run, run.split)
    trained, config, names = run.trained, run.trained.config, readable(run.trained.info.label_names)
    numbers = figures(run, measured)
    mistakes = _mistakes(measured, names)
    values = {
        "found": numbers,
        "result": run.result,
        "trained": trained,
        "network": f"{spelled(trained.architecture)} trained on {spelled(trained.dataset)}",
        "optimizer": spelled(config.optimizer.name),
        "epochs": len(run.history) if run.result else config.epochs,
        "examples": len(splits["train"].labels),
        "augmentations": [name for name, value in vars(config.augment).items() if value],
        "early": _early_stop(run),
        "chosen_by": config.watch.patience
        and not config.watch.monitor.startswith("train_")
        and measured.split == "validation"
        and len(run.history) > 1,
        "curves": _curves(run),
        "step_curves": [
            figure(plots.epoch_curve(run.history, name), name, f"A curve of the {said} by epoch.")
            for name, said in STEP_CURVES.items()
            if any(row.get(name) is not None for row in run.history)
        ],
        "heed": _what_training_figures_are(config),
        "comparable": not config.augment.mixup_alpha,
        "last": run.history[-1] if run.history else None,
        "best": max(run.history, key=lambda row: row["val_accuracy"], default=None),
        "confusion": _confusion(measured, names, {each["place"] for each in mistakes}),
        "classes": _classes(numbers["classes"], names),
        "num_classes": len(names),
        "reliability": _reliability(measured),
        "bins": BINS,
        "in_last_bin": measured.reliability[2][-1] / len(measured.labels),
        "mistakes": mistakes,
        "surest": MISTAKES,
        "short_names": max(map(len, names)) <= 3,
        "pixelated": max(trained.info.image_shape[:2]) < 64,
        "features": _features(run, measured, names),
        "normalised": config.model.batch_norm,
        "augmented": _augmented(config, splits["train"].images),
        "phases": _phases(run),
        "fields": fields_with_defaults(config),
        "made_with": run.result or trained.origin.environment,
        "again": _command(config),
        "verify": shlex.join(["mnist-jax", "verify", "--workdir", str(run.workdir)]),
    }
    return [numbers], values


def _early_stop(run: RunRecord) -> str:
    """Names the epoch of the network, if it may not be the last."""
    watch, epochs = run.trained.config.watch, run.trained.config.epochs
    shown = [row["epoch"] for row in run.history if row.get("step") == run.trained.step]
    if not watch.patience or not shown or len(run.history) == 1:
        return ""
    last = run.history[-1]["epoch"]
    by = "in validation" if watch.monitor == "val_accuracy" else f"by {watch.monitor}"
    kept = f"he network shown is that of epoch {shown[0]}, which was the best {by}."
    if run.result and last < epochs:
        return f"The training stopped early, after epoch {last} of {epochs}; t{kept}"
    return f"T{kept}"


def _curves(run: RunRecord) -> list[Any]:
    if not run.history:
        return []
    last: Any = run.history[-1]
    mixed, smoothed = run.trained.config.augment.mixup_alpha, run.trained.config.label_smoothing
    return [
        figure(
            plots.learning_curves(run.history, [metric], gap=gap),
            f"curves-{metric}",
            f"The {metric} by epoch; at the end {last[f'train_{metric}']:.4g} in training and "
            f"{last[f'val_{metric}']:.4g} in validation.",
        )
        for metric, gap in (("accuracy", not mixed), ("loss", not (mixed or smoothed)))
    ]


def _what_training_figures_are(config: Config) -> str:
    """Explains why training figures differ from validation ones."""
    changed = ", on changed images" if config.augment != AugmentConfig() else ""
    silenced = ", with units silenced" if config.model.dropout_rate else ""
    said = (
        f"Training figures are taken while the network learns{changed}{silenced}, so they may lie "
        "below validation."
    )
    if config.augment.mixup_alpha:
        said += " In training, loss and accuracy are of mixed images, and cannot be compared."
    elif config.label_smoothing:
        said += " In training, the loss is of smoothed labels, and cannot be compared."
    return said


def _confusion(
    measured: Measured, names: Sequence[str], places: Collection[str] = ()
) -> dict[str, Any]:
    """Draws the matrix; `places` are the confusions, "TRUE-ANSWER", with a picture."""
    from scipy.sparse import csr_array

    ones, pairs = np.ones(len(measured.labels), int), (measured.labels, measured.answers)
    counts = csr_array((ones, pairs), shape=(len(names), len(names)))
    counts.sum_duplicates()
    cells: Any = counts.tocoo()
    found = [*zip(*(part.tolist() for part in (cells.row, cells.col, cells.data)), strict=True)]
    mistakes = sorted((-count, true, said) for true, said, count in found if true != said)
    tips = {
        f"{true}-{said}": (
            f"{names[true]} classified as {names[said]}: {count:,}",
            f"{true}-{said}" in places,
        )
        for true, said, count in (found if len(names) <= plots.LINKED else ())
    }
    description = "Number of images by true class and answer."
    return {
        "figure": figure(plots.confusion(counts, names), "confusion", description, tips),
        "most": [
            (names[true], names[said], -n, f"{true}-{said}" if f"{true}-{said}" in places else "")
            for n, true, said in mistakes[:CONFUSIONS]
        ],
    }


def _classes(figures: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the table's rows; of many classes, those with the lowest F1."""
    rows = [{**row, "short": name} for row, name in zip(figures, names, strict=True)]
    if len(rows) > ROWS:
        rows.sort(key=lambda row: 1 if row["f1"] is None else row["f1"])
    return rows[:ROWS]


def _reliability(measured: Measured) -> Any:
    confidence, accuracy, counts = measured.reliability
    right = np.nan_to_num(accuracy * counts).round().astype(int).tolist()
    pairs = zip(right, counts.tolist(), strict=True)
    intervals = [wilson_interval(some, count) if count else (0.0, 1.0) for some, count in pairs]
    drawn = plots.reliability(confidence, accuracy, counts, np.array(intervals))
    said = "Dots: accuracy by the probability of the answer. Bars: the number of answers."
    return figure(drawn, "reliability", said)


def _mistakes(measured: Measured, names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the most confident mistakes, then that of each other confusion.

    The first of each confusion has a `place`, "TRUE-ANSWER", to link to.
    """
    wrong = np.flatnonzero(~measured.right)
    wrong = wrong[np.argsort(-measured.confidence[wrong], kind="stable")]
    pairs = np.stack([measured.labels[wrong], measured.answers[wrong]], axis=1)
    _, firsts = np.unique(pairs, axis=0, return_index=True)
    others = sorted({*firsts.tolist()} - {*range(MISTAKES)})
    shown = [*range(min(MISTAKES, len(wrong))), *others][: MISTAKES + OTHERS]
    images = measured.images[wrong[shown]] if shown else ()
    mistakes = []
    for number, image in zip(shown, images, strict=True):
        answer, probability = measured.answer(int(wrong[number]), names)
        mistakes.append(
            {
                "picture": picture(image),
                "shown": names[int(measured.labels[wrong[number]])],
                "place": "{}-{}".format(*pairs[number]) if number in firsts else "",
                "answer": answer,
                "probability": probability,
            }
        )
    return mistakes


def _features(run: RunRecord, measured: Measured, names: Sequence[str]) -> dict[str, Any] | None:
    """Filters, and their maps of the first image; None without a convolution."""
    trained = run.trained
    filters = first_filters(trained.model, trained.variables, trained.info.image_shape)
    if filters is None:
        return None
    image = measured.images[np.arange(1)]
    maps = feature_maps(trained.model, trained.variables, to_float(jnp.asarray(image)))
    sheets = [
        ("Filters of the first layer", data_url(filter_sheet(filters, clear=True)), len(filters))
    ]
    for name, sheet in map_sheets(maps).items():
        sheets.append((f"Feature maps of {name}", picture(sheet, SHEET_SIDE), maps[name].shape[-1]))
    return {
        "image": picture(image[0]),
        "label": names[int(measured.labels[0])],
        "sheets": [
            {
                "title": title + (f", the first {MOST} of {count}" if count > MOST else ""),
                "picture": drawn,
            }
            for title, drawn, count in sheets
        ],
    }


def _augmented(config: Config, images: Any) -> list[list[str]]:
    """A row of training images, and rows of variants."""
    if config.augment == AugmentConfig():
        return []
    options = dict(vars(config.augment))
    alpha = options.pop("mixup_alpha")
    rows = [images[np.arange(min(EXAMPLES, len(images)))]]
    for number in range(3):
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        changed = augment(to_float(jnp.asarray(rows[0])), key, **options)
        changed = mixup(changed, jnp.ones(len(changed), bool), key, alpha=alpha)
        rows.append(np.asarray(changed).clip(0, 1))
    return [[picture(image) for image in row] for row in rows]


def _phases(run: RunRecord) -> dict[str, Any]:
    """Draws times by phase; {} for an unfinished run."""
    recorded = run.result["seconds"] if run.result else {}
    seconds = {PHASES.get(name, name): s for name, s in recorded.items() if name != "total"}
    said = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    if not seconds:
        return {}
    drawn = figure(plots.phases(seconds), "phases", f"Bars: {said}.")
    return {"figure": drawn, "total": sum(seconds.values())}


def _command(config: Config) -> str:
    """Writes the command for a config, an option a line."""
    words = ["mnist-jax train"]
    for name, (value, default) in fields_with_defaults(config).items():
        if value != default:
            option = "--" + name.replace("_", "-")
            words.append(option if value is True else f"{option} {shlex.quote(str(value))}")
    return " \\\n  ".join([*words, "--workdir runs/again"])
