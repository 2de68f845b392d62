"""Measures the effect of single changes of the reference recipe, seed by seed.

    python benchmarks/advice.py [--seeds 5]

A row has the mean difference to the reference recipe over pairs of runs with the same seed, its
95 % interval (paired t), and the median ratio of the times. Choose by the validation column. A
second call reads the runs in runs/advice/.
"""

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

from machine import headline

from mnist_jax import Config, compare, train
from mnist_jax.cli.compilation_cache import use_compilation_cache
from mnist_jax.config import load_config, replace_fields
from mnist_jax.progress import console

AFFINE = {
    "augment.shift": 2.0,
    "augment.rotation": 10.0,
    "augment.scale": 0.1,
    "augment.shear": 6.0,
}
# By name: fields of the reference recipe, or another recipe.
CHANGES: dict[str, dict[str, Any] | str] = {
    "kernels of 5x5": {"model.kernel_size": 5},
    "twice the filters": {"model.features": 64},
    "a second convolution": {"model.depth": 2},
    "average pooling": {"model.pool": "mean"},
    "stride in place of pooling": {"model.pool": "stride"},
    "batch normalisation": {"model.batch_norm": True},
    "no dropout": {"model.dropout_rate": 0.0},
    "architecture: deep_cnn": "deep_cnn",
    "architecture: resnet": "resnet",
    "architecture: mlp": "mlp",
    "architecture: transformer": "transformer",
    "sgd, rate 0.03": {
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 0.03,
    },
    "muon": {"optimizer.name": "muon"},
    "adamw, decay 0.1": {"optimizer.name": "adamw", "optimizer.weight_decay": 0.1},
    "cosine schedule": {"optimizer.schedule": "cosine"},
    "one cycle, rate 0.003": {
        "optimizer.schedule": "one_cycle",
        "optimizer.learning_rate": 0.003,
    },
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "running mean (EMA 0.999)": {"ema_decay": 0.999},
    "early stopping, patience 3": {"watch.patience": 3},
    "plateau, patience 1": {"watch.plateau_patience": 1},
    "shift": {"augment.shift": 2.0},
    "rotation": {"augment.rotation": 10.0},
    "elastic": {"augment.elastic": 1.0},
    "cutout": {"augment.cutout": 8},
    "mixup": {"augment.mixup_alpha": 0.2},
    "shift, rotation, scale and shear": AFFINE,
    "the same, batch norm, cosine": AFFINE
    | {"model.batch_norm": True, "optimizer.schedule": "cosine"},
}


def config_of(change: dict[str, Any] | str) -> Config:
    """Returns the recipe with a change."""
    if isinstance(change, str):
        return load_config(f"configs/{change}.py")
    return replace_fields(Config(), change)


def row(name: str, reference: list[dict[str, Any]], changed: list[dict[str, Any]]) -> str:
    """Formats results in the order of the seeds as a row."""
    found = compare(as_population(reference), as_population(changed))
    points = [
        f"{100 * found[key]['difference']:+.2f} ± {100 * found[key]['half_width']:.2f}"
        for key in ("val_accuracy", "test_accuracy")
    ]
    ratios = [seconds(b) / seconds(a) for a, b in zip(reference, changed, strict=True)]
    return f"| {name} | {' | '.join(points)} | {statistics.median(ratios):.1f} |"


def as_population(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Converts results in the order of the seeds for `compare`."""
    names = ("val_accuracy", "test_accuracy")
    lists = {name: [result[name] for result in results] for name in names}
    return {"seeds": list(range(len(results))), "values": {}, **lists}


def seconds(result: dict[str, Any]) -> float:
    """Returns the seconds of training and validation."""
    return result["seconds"]["train"] + result["seconds"]["eval"]


def main() -> None:
    """Trains all changes in turn, seed after seed, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    if seeds < 2:
        parser.error("--seeds must be at least 2: one pair has no interval")
    use_compilation_cache()
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in ("reference", *CHANGES)}
    for seed in range(seeds):
        for name, found in results.items():
            config = dataclasses.replace(config_of(CHANGES.get(name, {})), seed=seed)
            directory = Path("runs/advice", name.replace(" ", "-").replace(",", ""), str(seed))
            found.append(train(config, directory, listeners=[console()]).result)
    reference = results.pop("reference")
    means = as_population(reference)
    val, test = (100 * statistics.mean(means[f"{key}_accuracy"]) for key in ("val", "test"))
    print("\n| one change | validation, points | test, points | time |")
    print("|---|---|---|---|")
    print(f"| none: the reference recipe | {val:.2f} % | {test:.2f} % | 1 |")
    for name, found in results.items():
        print(row(name, reference, found))
    print(f"\n{seeds} seeds; ± is the 95 % interval. {headline()}")


if __name__ == "__main__":
    main()
