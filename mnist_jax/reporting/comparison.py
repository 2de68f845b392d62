"""Content of a comparison of several networks."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np

from mnist_jax.config import completed
from mnist_jax.metrics import paired_interval
from mnist_jax.reporting import plots
from mnist_jax.reporting.measured import Measured, RunRecord, figures, measure
from mnist_jax.reporting.page import figure, listed, picture, readable
from mnist_jax.workdir.hashing import data_sha256

DISAGREEMENTS = 25  # pictures


def comparison_values(runs: Sequence[RunRecord]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns each run's figures, and the values of the template.

    All are measured on the test images if every run has measured its test, otherwise on the
    validation images. Validation ranks them. Those with the first one's images are compared with
    it, image by image.
    """
    split = "test" if all(run.split == "test" for run in runs) else "validation"
    numbers = range(len(runs))  # A, B, ... Z, A1, B1, ...
    letters = [ascii_uppercase[n % 26] + (str(n // 26) if n > 25 else "") for n in numbers]
    networks, rows, judged, tasks = [], [], [], []
    names = [f"{letter} ({name})" for letter, name in zip(letters, _tails(runs), strict=True)]
    paired: dict[str, Measured] = {}  # answers for A's images
    histories = {}
    for letter, name, run in zip(letters, names, runs, strict=True):
        measured, splits = measure(run, split)
        validated = measured if split == "validation" else measure(run, "validation")[0]
        shown, judge = (
            (run.trained.info.label_names, data_sha256({"": splits[each]}))
            for each in (split, "validation")
        )
        tasks.append((shown, judge))
        if shown == tasks[0][0]:
            paired[letter] = measured
        if judge == tasks[0][1]:
            tested = paired.get(letter) if split == "test" else None
            judged.append((name, validated, tested))
        networks.append(figures(run, measured))
        row = {
            "letter": letter,
            "name": name,
            "epochs": len(run.history),
            "num_train": len(splits["train"].labels),
            "difference": _difference(paired["A"], measured) if rows and letter in paired else None,
            "val_accuracy": float(validated.right.mean()),
        }
        rows.append(networks[-1] | row)
        if run.history:
            histories[name] = run.history
    ranked = sorted(rows, key=lambda row: (row["letter"] not in paired, -row["val_accuracy"]))
    headline, detail = _headline(judged)
    info = runs[0].trained.info
    configs = [completed(dataclasses.asdict(run.trained.config)) for run in runs]
    values = {
        "split": split,
        "rows": ranked,
        "headline": headline,
        "detail": detail,
        "paired": [*paired],
        "others": [letter for letter in letters if letter not in paired],
        "curves": [
            figure(
                plots.compare_curves(histories, metric),
                f"curves-{metric}",
                f"Each network's validation {metric} by epoch.",
            )
            for metric in ("accuracy", "loss")
            if histories
        ],
        "fields": [
            (name, [config[name] for config in configs])
            for name in configs[0]
            if len({repr(config[name]) for config in configs}) > 1
        ],
        "letters": letters,
        "disagreements": _disagreements(paired, readable(info.label_names)),
        "pixelated": max(info.image_shape[:2]) < 64,
    }
    return networks, values


def _tails(runs: Sequence[RunRecord]) -> list[str]:
    """Returns the workdirs' paths without their common directories, or "FIELD=" of members."""
    paths = [re.split("(?<=[/=])", run.workdir.absolute().as_posix()) for run in runs]
    common = 0
    while len({path[common] for path in paths}) == 1 and common < min(map(len, paths)) - 1:
        common += 1
    return readable("".join(path[common:]) for path in paths)


def _difference(first: Measured, other: Measured) -> tuple[float, float, float]:
    """The other's accuracy less the first's, with its 95 % interval, in points."""
    only_first = int((first.right & ~other.right).sum())
    only_other = int((other.right & ~first.right).sum())
    low, high = paired_interval(only_first, only_other, len(first.labels))
    return 100 * (only_other - only_first) / len(first.labels), 100 * low, 100 * high


def _headline(measured: Sequence[tuple[str, Measured, Measured | None]]) -> tuple[str, str]:
    """Names the network that is best in validation, if the difference is detectable.

    Each entry is a name, the answers for the same validation images, and those for the same test
    images or None. Their order has no effect. Returns headline and detail.
    """
    if len(measured) < 2:
        return "No verdict: the networks were validated on different images", ""
    ordered = sorted(measured, key=lambda each: (-int(each[1].right.sum()), each[0]))
    (best, first, first_test), (second, other, other_test) = ordered[:2]
    points, low, high = _difference(other, first)
    detail = f"{best} minus {second}, validation accuracy in points with the 95% interval: "
    detail += f"{points:+.2f} ({low:+.2f} to {high:+.2f})"
    if first_test and other_test:
        tested = _difference(other_test, first_test)
        detail += "; on the test images {:+.2f} ({:+.2f} to {:+.2f})".format(*tested)
    tied = [name for name, each, _ in ordered if each.right.sum() == first.right.sum()]
    if low > 0:
        headline = f"{best} is better than {second} by {points:.2f} points in validation"
    elif len(tied) > 1:
        headline = f"A tie: {listed(tied)} are right equally often in validation"
    else:
        headline = f"No detectable difference between {best} and {second} in validation"
    return headline, f"{detail}."


def _disagreements(paired: Mapping[str, Measured], names: Sequence[str]) -> dict[str, Any]:
    """Returns the images with different answers, the surest first.

    `paired` has the answers for the same images by letter of the network; `names` are the classes.
    """
    first = paired["A"]
    answers = np.stack([measured.answers for measured in paired.values()])
    differing = np.flatnonzero((answers != answers[0]).any(axis=0))
    sureness = np.stack([measured.confidence for measured in paired.values()]).mean(axis=0)
    shown = differing[np.argsort(-sureness[differing], kind="stable")][:DISAGREEMENTS]
    return {
        "count": len(differing),
        "shown": [
            {
                "picture": picture(image),
                "shown": names[int(first.labels[number])],
                "answers": [
                    (letter, *each.answer(number, names)) for letter, each in paired.items()
                ],
            }
            for number, image in zip(shown, first.images[shown], strict=True)
        ],
    }
