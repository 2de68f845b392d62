"""What a page says of several networks beside each other."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from mnist_jax.metrics import paired_interval
from mnist_jax.reporting import plots
from mnist_jax.reporting.measured import Measured, RunRecord, figures, measure
from mnist_jax.reporting.page import figure, picture, readable, spelled
from mnist_jax.workdir.hashing import data_sha256

DISAGREEMENTS = 25  # pictures


def comparison_values(runs: Sequence[RunRecord]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns the figures of each run, and what the page of their comparison is filled with.

    All are measured on the test images if every run is finished, otherwise on the validation
    images. Those whose images are the first one's are compared with it, image by image, whatever
    they were trained on.
    """
    split = "test" if all(run.result for run in runs) else "validation"
    letters = [_letter(number) for number in range(len(runs))]
    measured, data = [], []
    for run in runs:
        answers, splits = measure(run, split)
        measured.append(answers)
        data.append((run.trained.info.label_names, data_sha256({split: splits[split]})))
    networks = [figures(run, each) for run, each in zip(runs, measured, strict=True)]
    paired = [each == data[0] for each in data]
    rows = [
        found
        | {
            "letter": letter,
            "difference": _difference(measured[0], each) if same else None,
            "val_accuracy": _val_accuracy(run),
        }
        for run, found, letter, each, same in zip(
            runs, networks, letters, measured, paired, strict=True
        )
    ]
    rows[0]["difference"] = None
    histories = {
        f"{letter} {run.workdir.name}": run.history
        for letter, run in zip(letters, runs, strict=True)
        if run.history
    }
    values = {
        "split": split,
        "rows": rows,
        "headline": _headline(
            [
                (found["workdir"], each)
                for found, each, same in zip(networks, measured, paired, strict=True)
                if same
            ]
        ),
        "paired": [letter for letter, same in zip(letters, paired, strict=True) if same],
        "others": [letter for letter, same in zip(letters, paired, strict=True) if not same],
        "curves": [
            figure(
                plots.compare_curves(histories, metric),
                f"curves-{metric}",
                f"A curve a network: the {metric} in validation by epoch.",
            )
            for metric in ("accuracy", "loss")
            if histories
        ],
        "fields": _differing_fields(runs),
        "letters": letters,
        "disagreements": _disagreements(
            [each for each, same in zip(measured, paired, strict=True) if same],
            [letter for letter, same in zip(letters, paired, strict=True) if same],
            readable(runs[0].trained.info.label_names),
        ),
        "pixelated": max(runs[0].trained.info.image_shape[:2]) < 64,
    }
    return networks, values


def _letter(number: int) -> str:
    """A, B, ... Z, A1, B1, ..."""
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[number % 26] + (str(number // 26) if number > 25 else "")


def _difference(first: Measured, other: Measured) -> dict[str, float]:
    """The other's accuracy less the first's, in points, with its 95 % interval."""
    only_first = int((first.right & ~other.right).sum())
    only_other = int((other.right & ~first.right).sum())
    low, high = paired_interval(only_first, only_other, len(first.labels))
    return {
        "points": 100 * (only_other - only_first) / len(first.labels),
        "low": 100 * low,
        "high": 100 * high,
    }


def _headline(measured: Sequence[tuple[str, Measured]]) -> str:
    """Says which network is best, if the images tell; the order of the networks is no matter.

    Args:
        measured: of each network its name, and its answers for the same images.
    """
    if len(measured) < 2:
        return ""
    ordered = sorted(measured, key=lambda each: (-int(each[1].right.sum()), each[0]))
    (best, first), (second, other) = ordered[:2]
    found = _difference(other, first)
    points, size = found["points"], f"{found['low']:+.2f} to {found['high']:+.2f}"
    if found["low"] > 0:
        return f"{best} is better than {second} by {points:.2f} points ({size})."
    tied = [name for name, each in ordered if each.right.sum() == first.right.sum()]
    if len(tied) > 1:
        return f"A tie: {', '.join(tied[:-1])} and {tied[-1]} are right equally often ({size})."
    return f"No difference to be seen between {best} and {second} ({points:+.2f}, {size})."


def _val_accuracy(run: RunRecord) -> float | None:
    """That of the network shown; None where its epoch is not finished."""
    found = [row["val_accuracy"] for row in run.history if row.get("step") == run.trained.step]
    return found[0] if found else None


def _differing_fields(runs: Sequence[RunRecord]) -> list[tuple[str, list[Any]]]:
    """Each field of the config that is not the same everywhere, with its values."""
    configs = [flatten_dict(dataclasses.asdict(run.trained.config), sep=".") for run in runs]
    fields = [(name, [config[name] for config in configs]) for name in configs[0]]
    return [(name, values) for name, values in fields if len({*map(repr, values)}) > 1]


def _disagreements(
    measured: Sequence[Measured], letters: Sequence[str], names: Sequence[str]
) -> dict[str, Any]:
    """The images that the networks answer differently, those first where they are surest."""
    answers = np.stack([each.answers for each in measured])
    differing = np.flatnonzero((answers != answers[0]).any(axis=0))
    sureness = np.stack([each.confidence for each in measured]).mean(axis=0)
    shown = differing[np.argsort(-sureness[differing], kind="stable")][:DISAGREEMENTS]
    images = measured[0].images[shown]
    return {
        "count": len(differing),
        "shown": [
            {
                "picture": picture(image),
                "shown": names[int(measured[0].labels[number])],
                "answers": [
                    (
                        letter,
                        names[int(each.answers[number])],
                        spelled(float(each.confidence[number])),
                    )
                    for letter, each in zip(letters, measured, strict=True)
                ],
            }
            for number, image in zip(shown, images, strict=True)
        ],
    }
