"""Where the time of a run goes besides compiled steps: the start, and what surrounds the steps.

    python benchmarks/overhead.py

The start is that of `mnist-jax train` in a process of its own, with warm caches. For the rest, a
run of ten epochs and the same compiled calls alone are taken in turn in one process.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe, headline

from mnist_jax import Config, train
from mnist_jax.cli.compilation_cache import use_compilation_cache
from mnist_jax.console import console
from mnist_jax.datasets import load_splits
from mnist_jax.workdir.files import read_json

sys.path.append(str(Path(__file__).parent / "peers"))
from mnist_jax_epochs import create

PAIRS, STARTS = 3, 6


def start_up() -> dict[str, float]:
    """Starts `mnist-jax train` for one epoch; returns seconds by phase until its first step."""
    with tempfile.TemporaryDirectory() as directory:
        command = ["-m", "mnist_jax", "train", "--epochs", "1", "--workdir", directory]
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        wall = time.perf_counter() - start
        result = read_json(Path(directory, "result.json"))
    seconds = result["seconds"]
    phases = {name: seconds[name] for name in ("import", "data", "compile")}
    # The interpreter before the package's first line, and its end.
    phases["Python"] = wall - seconds["total"]
    return phases | {"until the first step": sum(phases.values())}


def main() -> None:
    """Prints both tables."""
    runs = [start_up() for _ in range(STARTS)][1:]  # the first one fills the caches
    print("| " + " | ".join(runs[0]) + " |\n" + "|---" * len(runs[0]) + "|")
    print("| " + " | ".join(f"{statistics.median(r[n] for r in runs):.2f}" for n in runs[0]) + " |")
    print(f"Seconds, medians of {len(runs)} starts.\n")

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
    print(f"Median {statistics.median(shares):+.1%} of {PAIRS} pairs. {headline(describe())}")


if __name__ == "__main__":
    main()
