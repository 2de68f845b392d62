"""The cost of streaming, whose memory does not grow with the data.

    python benchmarks/stream.py

Trains on MNIST once and ten times over, with both loaders alternating in separate processes. Prints
seconds per epoch, seconds waited for images, and the largest resident memory.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from machine import describe, headline

from mnist_jax.datasets import load_dataset
from mnist_jax.datasets.importing import import_dataset

EPOCHS = {"mnist": 4, "mnist_10": 2}  # the first one is not counted
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
# Not getrusage, which includes the memory of the parent process.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({
    "sha256": run.result["params_sha256"],
    "seconds": min(row["seconds"] for row in rows),
    "input_seconds": sum(row["input_seconds"] for row in rows) / len(rows),
    "megabytes": peak // 1024,
}))
"""


def measure(name: str, loader: str) -> dict[str, float]:
    """Trains in a separate process; returns its figures."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-c", RUN, name, loader, str(EPOCHS[name]), workdir]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Prints a row for each dataset and loader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of MNIST; ten times it runs once")
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
        print(headline(describe()))
        print("| dataset | loader | s/epoch | waited, s | memory, MB | times memory loader |")
        print("|---|---|---|---|---|---|")
        for name in EPOCHS:
            for loader in ("memory", "stream"):
                measure(name, loader)  # fills the caches
            pairs = [
                {loader: measure(name, loader) for loader in ("memory", "stream")}
                for _ in range(rounds if name == "mnist" else 1)
            ]
            ratios = [pair["stream"]["seconds"] / pair["memory"]["seconds"] for pair in pairs]
            assert len({run["sha256"] for pair in pairs for run in pair.values()}) == 1
            for loader in ("memory", "stream"):
                seconds, waited, megabytes = (
                    statistics.median(pair[loader][key] for pair in pairs)
                    for key in ("seconds", "input_seconds", "megabytes")
                )
                ratio = statistics.median(ratios) if loader == "stream" else 1
                row = f"{seconds:.2f} | {waited:.3f} | {megabytes:.0f} | {ratio:.2f}"
                print(f"| {name} | {loader} | {row} |")


if __name__ == "__main__":
    main()
