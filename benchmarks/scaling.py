"""Times training steps on increasing numbers of devices or processes, and compares losses.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --processes 1 2 4

Weak scaling gives every device a batch of 128, strong scaling divides one batch of 128. Rows
alternate. Without GPUs the devices are fake and SHARE THE CORES of one processor: their times show
the overhead of sharding, not a speedup. The same holds for processes, with a device each, joined as
by `mnist-jax train --distributed...`: on a CPU they sum over Gloo.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from machine import headline
from markdown_table import print_table

from mnist_jax import Config, load_dataset
from mnist_jax.models import create_model
from mnist_jax.optimizer import create_optimizer
from mnist_jax.processes.group import joined
from mnist_jax.program import compile_program

BATCH, STEPS, ROUNDS = 128, 5, 5


class Row(NamedTuple):
    """A row: number of devices, global batch size, number of processes."""

    devices: int
    batch_size: int
    processes: int = 1


def train_rounds(row: Row) -> None:
    """Trains a chunk per line on stdin; prints seconds, losses and devices."""
    config = Config()
    images, labels = load_dataset("mnist", f"train[:{8 * BATCH * STEPS}]")
    few = images[:BATCH], labels[:BATCH]
    program = compile_program(
        create_model(num_classes=10, **vars(config.model)),
        create_optimizer(**vars(config.optimizer), num_steps=STEPS * ROUNDS),
        {"train": (images, labels), "validation": few, "test": few},
        seed=0,
        batch_size=row.batch_size,
        chunk_steps=STEPS,
    )
    state, chunks = program.state, program.train_chunks(0, 10**6)
    for _ in sys.stdin:
        start = time.perf_counter()
        state, sums = program.run_chunk(state, next(chunks), 1.0)
        losses = np.asarray(sums["loss_sum"]) / np.asarray(sums["count"])
        found = [time.perf_counter() - start, losses.tolist(), jax.device_count()]
        print(json.dumps([*found, jax.default_backend()]), flush=True)


def start(row: Row) -> list[subprocess.Popen[str]]:
    """Starts a row's processes."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        coordinator = f"localhost:{found.getsockname()[1]}"
    command = [sys.executable, __file__, "--row", *map(str, row), coordinator]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    each, processes = row.devices // row.processes, []
    for process in range(row.processes):
        gpus = map(str, range(process * each, (process + 1) * each))
        env = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={each}"}
        env |= {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
        processes.append(subprocess.Popen([*command, str(process)], env=os.environ | env, **pipes))
    return processes


def turn(processes: list[subprocess.Popen[str]]) -> Any:
    """Trains a chunk in a row's processes; returns the slowest one's output."""
    for process in processes:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("\n")
            process.stdin.flush()
    lines = [process.stdout.readline() for process in processes]
    if not all(lines):
        raise SystemExit("error: a process ended, see above")
    return max(map(json.loads, lines))


def main() -> None:
    """Prints a row per number of devices or processes and kind of scaling."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--processes", type=int, nargs="+")
    parser.add_argument("--row", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        *row, coordinator, process = args.row
        row = Row(*map(int, row))
        with joined(coordinator, row.processes, int(process)):
            return train_rounds(row)
    counts = args.processes or args.devices
    sizes = [(n, size) for n in counts for size in (BATCH * n, BATCH)]
    rows = [Row(n, size, n if args.processes else 1) for n, size in dict.fromkeys(sizes)]
    groups = {row: start(row) for row in rows}
    try:
        rounds = [{row: turn(groups[row]) for row in rows} for _ in range(ROUNDS + 1)]
    finally:
        processes = [process for group in groups.values() for process in group]
        for process in processes:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # ends the process
        for process in processes:
            process.wait()

    def rate(row: Row) -> float:
        seconds = statistics.median(found[row][0] for found in rounds[1:])
        return STEPS * row.batch_size / seconds

    def losses(row: Row) -> np.ndarray:
        return np.concatenate([found[row][1] for found in rounds])

    what = "processes" if args.processes else "devices"
    how = ", joined by jax.distributed, a device each" if args.processes else " of one process"
    print(f"Steps of the reference network in float32, on {what}{how}.\n")
    lines = []
    for name, one in (("weak", rows[0]), ("strong", Row(1, BATCH))):
        for row in rows:
            devices, size, _ = row
            if size != (BATCH * devices if name == "weak" else BATCH):
                continue
            lines.append({"scaling": name, what: devices, "global batch": size})
            if rounds[0][row][2] != devices:
                lines[-1]["images/s"] = "too few devices"
                continue
            speed = rate(row) / rate(one)
            lines[-1] |= {"images/s": rate(row), "times one": speed, "efficiency": speed / devices}
            if size == BATCH:
                difference = np.abs(losses(row) / losses(one) - 1).max()
                lines[-1]["loss difference"] = f"{difference:.0e}"
    print_table(lines)
    print(f"\nMedians of {ROUNDS} rounds of {STEPS} steps. {headline()}")
    if {found[3] for found in rounds[0].values()} == {"cpu"}:
        print("All share one processor: this shows the overhead of sharding, not a speedup.")
    return None


if __name__ == "__main__":
    main()
