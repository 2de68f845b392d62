"""Compares the loaders on MNIST, once and ten times over: time, waits, and memory.

    python benchmarks/stream.py

Trainings with both loaders alternate, in separate processes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from machine import headline
from markdown_table import print_table

from mnist_jax.datasets import load_dataset
from mnist_jax.datasets.importing import import_dataset

LOADERS = ("memory", "stream")
EPOCHS = {"mnist": 4, "mnist_10": 2}  # the first one is not counted
FIGURES = {"s/epoch": "seconds", "waited, s": "input_seconds", "memory, MB": "megabytes"}
RUN = """
import json, sys
from mnist_jax import Config, train
from mnist_jax.cli.compilation_cache import use_compilation_cache
from mnist_jax.config import DataConfig
use_compilation_cache()
name, loader, epochs, workdir = sys.argv[1:]
data = DataConfig(dataset=name, loader=loader)
run = train(Config(epochs=int(epochs), data=data), workdir)
rows = run.history[1:]
# getrusage would include the parent's memory.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({
    "sha256": run.result["params_sha256"],
    "seconds": min(row["seconds"] for row in rows),
    "input_seconds": sum(row["input_seconds"] for row in rows) / len(rows),
    "megabytes": peak // 1024,
}))
"""


def measure(name: str, loader: str) -> dict[str, float]:
    """Trains in a separate process."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-c", RUN, name, loader, str(EPOCHS[name]), workdir]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(name: str, rounds: int) -> list[dict[str, Any]]:
    """Returns a row per loader of a dataset."""
    for loader in LOADERS:
        measure(name, loader)  # fills the caches
    pairs = [
        {loader: measure(name, loader) for loader in LOADERS}
        for _ in range(rounds if name == "mnist" else 1)
    ]
    assert len({run["sha256"] for pair in pairs for run in pair.values()}) == 1
    rows = []
    for loader in LOADERS:
        ratios = [pair[loader]["seconds"] / pair["memory"]["seconds"] for pair in pairs]
        figures = {
            column: statistics.median(pair[loader][key] for pair in pairs)
            for column, key in FIGURES.items()
        }
        ratio = {"times memory loader": statistics.median(ratios)}
        rows.append({"dataset": name, "loader": loader} | figures | ratio)
    return rows


def main() -> None:
    """Prints a row per dataset and loader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=5, help="for MNIST once; ten times over has one"
    )
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as directory:
        os.environ |= {"TFDS_DATA_DIR": directory, "XDG_CACHE_HOME": f"{directory}/cache"}
        arrays = {}
        for split in ("train", "test"):
            images, labels = load_dataset("mnist", split)
            times = 10 if split == "train" else 1
            arrays |= {f"x_{split}": np.tile(images, (times, 1, 1, 1))}
            arrays |= {f"y_{split}": np.tile(labels, times)}
        source = Path(directory, "mnist_10.npz")
        np.savez(source, **arrays)
        del arrays
        import_dataset("mnist_10", [source])
        source.unlink()
        print(headline())
        print_table(row for name in EPOCHS for row in compare(name, rounds))


if __name__ == "__main__":
    main()
