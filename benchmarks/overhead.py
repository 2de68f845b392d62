"""Times a run's start and its overhead around the compiled steps.

    python benchmarks/overhead.py           # everything
    python benchmarks/overhead.py --start   # the start only

A start is `mnist-jax train` until it writes config.json just before the first step. The first start
has an empty home directory, so it prepares the dataset and compiles. For the overhead, a run of ten
epochs alternates with the same compiled calls alone.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import headline
from markdown_table import print_table

from mnist_jax import Config, train
from mnist_jax.cli.compilation_cache import use_compilation_cache
from mnist_jax.datasets import load_splits
from mnist_jax.progress import console
from mnist_jax.workdir.files import read_json

sys.path.append(str(Path(__file__).parent / "peers"))
from mnist_jax_epochs import create

PAIRS, HOMES, LATER = 3, 3, 2
CACHES = ("XDG_CACHE_HOME", "TFDS_DATA_DIR", "JAX_COMPILATION_CACHE_DIR")


def start_up(home: str) -> dict[str, float]:
    """Starts `mnist-jax train`; returns seconds by phase until its first step."""
    env = {name: value for name, value in os.environ.items() if name not in CACHES}
    with tempfile.TemporaryDirectory() as directory:
        command = ["-m", "mnist_jax", "train", "--epochs", "1", "--workdir", directory]
        start = time.time()
        subprocess.run(
            [sys.executable, *command], check=True, capture_output=True, env=env | {"HOME": home}
        )
        until = Path(directory, "config.json").stat().st_mtime - start
        seconds = read_json(Path(directory, "result.json"))["seconds"]
    phases = {name: seconds[name] for name in ("import", "data", "compile")}
    # Before the package's first line, and for the command line.
    phases["Python"] = until - sum(phases.values())
    return phases | {"until the first step": until}


def print_starts() -> None:
    """Prints seconds of first and later starts by phase."""
    starts: dict[str, list[dict[str, float]]] = {"first": [], "later": []}
    for _ in range(HOMES):
        with tempfile.TemporaryDirectory() as home:
            starts["first"].append(start_up(home))
            starts["later"] += [start_up(home) for _ in range(LATER)]
    rows = [
        {"start": name}
        | {phase: statistics.median(run[phase] for run in runs) for phase in runs[0]}
        for name, runs in starts.items()
    ]
    print_table(rows)
    print(f"Seconds, medians of {HOMES} first and {HOMES * LATER} later starts.")
    print(f"{headline()}\n")


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", action="store_true", help="measure the start only")
    only_start = parser.parse_args().start
    print_starts()
    if only_start:
        return

    use_compilation_cache()
    config = Config()
    splits = {name: tuple(split) for name, split in load_splits(**vars(config.data))[0].items()}
    epoch, test = create(splits, 0, config)
    epoch()
    shares = []
    for _ in range(PAIRS):
        start = time.perf_counter()
        for _ in range(config.epochs):
            epoch()
        test()
        alone = time.perf_counter() - start
        with tempfile.TemporaryDirectory() as directory:
            seconds = train(config, directory, listeners=[console()]).result["seconds"]
        around = seconds["total"] - seconds["import"] - seconds["data"] - seconds["compile"]
        shares.append(around / alone - 1)
        print(f"ten epochs {around:.2f} s, the same calls alone {alone:.2f} s: {shares[-1]:+.1%}")
    print(f"Median {statistics.median(shares):+.1%} of {PAIRS} pairs. {headline()}")


if __name__ == "__main__":
    main()
