"""The time of a population's members in turn and vectorised, beside a single training.

    python benchmarks/population.py

Milliseconds per member and step of the reference network, in alternating rounds. On a CPU
`member_program.over_members` runs the members in turn; here it also vectorises them.
"""

import statistics
import time
from collections.abc import Callable
from unittest import mock

import jax
from machine import describe, headline

from mnist_jax import Config
from mnist_jax.datasets import load_splits
from mnist_jax.laboratory import member_program
from mnist_jax.laboratory.member_program import compile_population
from mnist_jax.models import create_model
from mnist_jax.optimizer import create_optimizer
from mnist_jax.program import StepParts, compile_program
from mnist_jax.sharding import Target

MEMBERS, ROUNDS, STEPS = (2, 4, 8), 5, 75


def main() -> None:
    """Prints a row for each way."""
    config = Config()
    splits, _ = load_splits(**vars(config.data))
    # The lowering of a CPU, also for vectorised members.
    model = create_model(num_classes=10, **vars(config.model) | {"lowering": "matmul"})
    tx = create_optimizer(**vars(config.optimizer), num_steps=STEPS)
    sizes = {"batch_size": config.batch_size, "chunk_steps": STEPS}
    runs: dict[str, Callable[[], float]] = {}

    alone = compile_program(model, tx, splits, seed=0, **sizes)
    runs["alone"] = timed(alone.state, next(alone.train_chunks(0, STEPS)), alone.run_chunk, 1.0, 1)
    for count in MEMBERS:
        for way, platform in (("in turn", "cpu"), ("vectorised", "gpu")):
            there = Target(platform, 1)
            with mock.patch.object(member_program, "target", lambda there=there: there):
                many = compile_population(
                    lambda _: StepParts(model, tx, {}),
                    splits,
                    seeds=range(count),
                    values={},
                    averaged=False,
                    **sizes,
                )
            chunk, scales = next(many.train_chunks(0, STEPS)), [1.0] * count
            runs[f"{count} {way}"] = timed(many.state, chunk, many.run_chunk, scales, count)
    rounds = [{name: run() for name, run in runs.items()} for _ in range(ROUNDS + 1)][1:]
    print("| members | ms per member and step |\n|---|---|")
    for name in runs:
        print(f"| {name} | {statistics.median(found[name] for found in rounds):.2f} |")
    print(f"\nMedians of {ROUNDS}. {headline(describe())}")


def timed(state, chunk, run_chunk, scales, count: int) -> Callable[[], float]:
    """Returns a function that trains a chunk and returns milliseconds per member and step."""

    def run() -> float:
        nonlocal state
        start = time.perf_counter()
        state, sums = run_chunk(state, chunk, scales)
        jax.block_until_ready(sums)
        return 1e3 * (time.perf_counter() - start) / STEPS / count

    return run


if __name__ == "__main__":
    main()
