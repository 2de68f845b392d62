"""Trains the reference recipe with many seeds and prints their test accuracies as a table.

    python benchmarks/seeds.py [--seeds 10]

Each run stays in runs/seeds/; a second call reads what is there.
"""

import argparse
import dataclasses
import datetime
import os
import platform
import statistics
from pathlib import Path

from mnist_jax import Config, train


def processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    seeds = range(parser.parse_args().seeds)
    if len(seeds) < 2:
        parser.error("--seeds must be at least 2: one run has no standard deviation")
    results = [
        train(dataclasses.replace(Config(), seed=seed), Path("runs/seeds", str(seed))).result
        for seed in seeds
    ]
    accuracies = [100 * result["test_accuracy"] for result in results]
    seconds = [result["seconds"]["train"] + result["seconds"]["eval"] for result in results]
    versions = results[-1]["versions"]
    print()
    print("| seed | " + " | ".join(map(str, seeds)) + " |")
    print("|---" * (len(seeds) + 1) + "|")
    print("| test accuracy, % | " + " | ".join(f"{value:.2f}" for value in accuracies) + " |")
    print()
    print(
        f"Mean {statistics.mean(accuracies):.2f} %, standard deviation "
        f"{statistics.stdev(accuracies):.2f} points; ten epochs with validation take "
        f"{statistics.median(seconds):.1f} s (median). "
        f"{processor()}, {os.cpu_count()} cores, Python {versions['python']}, jax "
        f"{versions['jax']}, {datetime.datetime.now(datetime.UTC).date()}."
    )


if __name__ == "__main__":
    main()
