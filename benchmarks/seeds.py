"""Trains a recipe with many seeds and prints their test accuracies as a table.

    python benchmarks/seeds.py [--config configs/default.py] [--seeds 10]

Each run stays in runs/seeds/; a second call reads what is there.
"""

import argparse
import dataclasses
import statistics
from pathlib import Path

from machine import describe, headline
from scipy import stats

from mnist_jax import train
from mnist_jax.compilation_cache import use_compilation_cache
from mnist_jax.config import load_config


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/default.py"))
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error("--seeds must be at least 2: one run has no standard deviation")
    use_compilation_cache()
    config = load_config(args.config)
    results = [
        train(
            dataclasses.replace(config, seed=seed), Path("runs/seeds", args.config.stem, str(seed))
        ).result
        for seed in range(args.seeds)
    ]
    accuracies = [100 * result["test_accuracy"] for result in results]
    mean, error = statistics.mean(accuracies), stats.sem(accuracies)
    low, high = stats.t.interval(0.95, len(accuracies) - 1, mean, error)
    print("\nTest accuracy, %, of the seeds in turn:")
    print(", ".join(f"{accuracy:.2f}" for accuracy in accuracies))
    print(
        f"Mean {mean:.3f} % (95 % interval {low:.3f} to {high:.3f}), standard deviation "
        f"{statistics.stdev(accuracies):.2f} points."
    )
    for phase in ("train", "eval", "total"):
        seconds = statistics.median(result["seconds"][phase] for result in results)
        print(f"{phase}: {seconds:.1f} s (median)")
    print(headline(describe() | {"versions": results[-1]["versions"]}))


if __name__ == "__main__":
    main()
