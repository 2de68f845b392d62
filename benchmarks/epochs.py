"""Times epochs of this project and its peers, alternating an epoch each.

    python benchmarks/epochs.py [--epochs 10] [--peers NAME ...] [--output runs/benchmark]
    python benchmarks/epochs.py --recipe fast

Every peer is a separate process that trains the same network by the same recipe on the same images,
written the usual way for its library; see `peers/protocol.py`. A round is an epoch of each, so
other load affects all of them. The first round compiles and is not timed. With the fast recipe a
round is a whole training of a new network, with a validation and a test.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from machine import describe, matmul_rates
from markdown_table import print_table
from report import OURS, footer, plot, rows, timed

from mnist_jax.config import Config, load_config
from mnist_jax.datasets import load_splits
from mnist_jax.models import create_model
from mnist_jax.reporting.summary import step_flops


class Command(NamedTuple):
    """A peer's script in `peers/`, its options and environment variables."""

    script: str
    options: tuple[str, ...] = ()
    env: Mapping[str, str] | None = None


class Recipe(NamedTuple):
    """A comparison of whole trainings, or of epochs."""

    config: str
    whole: bool
    peers: dict[str, Command]


RECIPES = {
    "reference": Recipe(
        config="configs/default.py",
        whole=False,
        peers={
            OURS: Command("mnist_jax_epochs.py", ("configs/default.py",)),
            "keras_tensorflow": Command("keras_notebook.py", env={"KERAS_BACKEND": "tensorflow"}),
            "keras_jax": Command("keras_notebook.py", env={"KERAS_BACKEND": "jax"}),
            "pytorch": Command("pytorch.py"),
            "pytorch_compile": Command("pytorch.py", ("--compile",)),
            "plain_flax": Command("plain_flax.py"),
        },
    ),
    "fast": Recipe(
        config="configs/fast.py",
        whole=True,
        peers={
            OURS: Command("mnist_jax_epochs.py", ("configs/fast.py", "--whole")),
            "pytorch": Command("fast_pytorch.py"),
        },
    ),
}


class Peer:
    """A peer's process, and its answers in `record`; an error is final."""

    def __init__(self, command: Command, data: Path, log: Path):
        start = time.perf_counter()
        script = Path(__file__).parent / "peers" / command.script
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, script, data, *command.options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w", encoding="utf-8"),
            text=True,
            env=os.environ | (command.env or {}),
        )
        self.record: dict[str, Any] = {"error": None, "epochs": [], "test_accuracies": []}
        ready = self._answer()
        self.record |= {"start_seconds": time.perf_counter() - start, **ready}

    def ask(self, word: str) -> dict[str, Any]:
        """Sends a command and returns the answer, {} if the peer has failed."""
        if self.record["error"]:
            return {}
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()
        return self._answer()

    def train_epoch(self) -> None:
        """Trains an epoch with validation."""
        if answer := self.ask("epoch"):
            self.record["epochs"].append(answer)

    def test(self) -> None:
        """Scores the test images."""
        if answer := self.ask("test"):
            self.record["test_accuracies"].append(answer["test_accuracy"])

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        last = self.log.read_text().strip().split("\n")[-1]
        missing = last.startswith("ModuleNotFoundError")
        self.record["error"] = "not installed" if missing else f"failed (exit {code}): {last}"
        return {}


def main() -> None:
    """Runs the rounds, prints a table and writes epochs.json and .png, or trainings."""
    args, recipe, config = parse_arguments()
    machine = describe()
    rates = matmul_rates()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as processes:
        data = Path(folder, "data.npz")
        write_data(config, data)
        peers = {}
        for name in args.peers:
            peers[name] = Peer(recipe.peers[name], data, Path(folder, f"{name}.log"))
            processes.enter_context(peers[name].process)
        run_rounds(peers, args.epochs, recipe.whole)
    records = {name: peer.record for name, peer in peers.items()}
    later = matmul_rates()
    floor = step_floor(config, records, {n: max(rates[n], later[n]) for n in rates})

    unit = "training" if recipe.whole else "epoch"
    print_table(rows(records, unit))
    print("", *footer(records, unit, floor, machine), sep="\n")
    args.output.mkdir(parents=True, exist_ok=True)
    report = {"recipe": args.recipe, "machine": machine, "peers": records, "floor": floor}
    (args.output / f"{unit}s.json").write_text(json.dumps(report, indent=2) + "\n")
    plot(records, unit, machine, args.output / f"{unit}s.png")


def parse_arguments() -> tuple[argparse.Namespace, Recipe, Config]:
    """Reads the command line and its recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", choices=RECIPES, default="reference")
    parser.add_argument("--epochs", type=int, default=10, help="rounds; the first is not timed")
    parser.add_argument("--peers", nargs="+", metavar="NAME", help="default: all of the recipe")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark"), metavar="DIR")
    args = parser.parse_args()
    recipe = RECIPES[args.recipe]
    args.peers = args.peers or list(recipe.peers)
    unknown = [name for name in args.peers if name not in recipe.peers]
    if unknown:
        parser.error(f"no peer {', '.join(unknown)}; expected some of {', '.join(recipe.peers)}")
    if args.epochs < 2:
        parser.error("--epochs must be at least 2: the first is not timed")
    try:
        return args, recipe, load_config(recipe.config)
    except (OSError, ValueError) as error:
        parser.error(str(error))


def write_data(config: Config, path: Path) -> None:
    """Writes the recipe's images and labels for all peers."""
    splits, _ = load_splits(**vars(config.data))
    arrays = {f"{name}_images": split.images for name, split in splits.items()}
    arrays |= {f"{name}_labels": split.labels for name, split in splits.items()}
    np.savez(path, **arrays)


def run_rounds(peers: dict[str, Peer], rounds: int, whole: bool) -> None:
    """Trains the peers in turn, and tests them."""
    for number in range(rounds):
        for name, peer in peers.items():
            if whole and number:
                peer.ask("reset")
            peer.train_epoch()
            if whole:
                peer.test()
            done = peer.record["error"] or f"{peer.record['epochs'][-1]['seconds']:.2f} s"
            print(f"round {number + 1} of {rounds}: {name} {done}", file=sys.stderr)
    if not whole:
        for peer in peers.values():
            peer.test()


def step_floor(config: Config, records: dict[str, Any], rates: dict[int, float]) -> dict[str, Any]:
    """Compares a training step with its arithmetic.

    Returns:
        `flops` of a step; `matmul_rates` in FLOP/s, by size; `floor_ms`, a step's time at the best
        of them; and, if measured, `step_ms`, the median without validation.
    """
    flops = step_flops(
        create_model(num_classes=10, **vars(config.model)), (28, 28, 1), config.batch_size
    )
    floor = {
        "flops": flops,
        "matmul_rates": rates,
        "floor_ms": 1000 * flops / max(rates.values()),
    }
    if OURS in records and not records[OURS]["error"]:
        steps = records[OURS]["epochs"][-1]["steps"]
        floor["step_ms"] = 1000 * statistics.median(timed(records[OURS], "train_seconds")) / steps
    return floor


if __name__ == "__main__":
    main()
