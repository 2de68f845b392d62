"""Times a population's members in turn and vectorised, beside a single training.

    python benchmarks/population.py

On a CPU `member_program.over_members` runs the members in turn; here it also vectorises them.
"""

from collections.abc import Callable
from typing import Any
from unittest import mock

from machine import alternate, headline
from markdown_table import print_table

from mnist_jax import Config
from mnist_jax.datasets import load_splits
from mnist_jax.laboratory import member_program
from mnist_jax.laboratory.member_program import compile_population
from mnist_jax.models import create_model
from mnist_jax.optimizer import create_optimizer
from mnist_jax.program import Program, StepParts, compile_program
from mnist_jax.sharding import Target

MEMBERS, ROUNDS, STEPS = (2, 4, 8), 5, 75


def main() -> None:
    """Prints a row for each way and number of members."""
    config = Config()
    splits, _ = load_splits(**vars(config.data))
    # The lowering of a CPU, also for vectorised members.
    model = create_model(num_classes=10, **vars(config.model) | {"lowering": "matmul"})
    tx = create_optimizer(**vars(config.optimizer), num_steps=STEPS)
    sizes = {"batch_size": config.batch_size, "chunk_steps": STEPS}
    runs: dict[str, Callable[[], Any]] = {}

    alone = compile_program(model, tx, splits, seed=0, **sizes)
    runs["alone"] = trained(alone, 1.0)
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
            runs[f"{count} {way}"] = trained(many, [1.0] * count)
    times = alternate(runs, ROUNDS, scale=1e3 / STEPS)
    each = {name: 1 if name == "alone" else int(name.split()[0]) for name in runs}
    rows = [
        {"members": name, "ms per member and step": [x / each[name] for x in values]}
        for name, values in times.items()
    ]
    print_table(rows)
    print(f"\nMedians (min-max) of {ROUNDS}. {headline()}")


def trained(program: Program, rate_factors: Any) -> Callable[[], Any]:
    """Creates a function that trains a chunk."""
    state, chunk = program.state, next(program.train_chunks(0, STEPS))

    def run() -> Any:
        nonlocal state
        state, sums = program.run_chunk(state, chunk, rate_factors)
        return sums

    return run


if __name__ == "__main__":
    main()
