"""Times training against batch size, width, amount of data, and chunk length.

    python benchmarks/growth.py [--output DIR]

Prints tables, and writes DIR/growth.json and DIR/growth.png (default: runs/benchmark).
"""

import argparse
import dataclasses
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from machine import alternate, describe, headline
from programs import initial_state, step_rngs

from mnist_jax import Config, rng
from mnist_jax.config import DataConfig
from mnist_jax.datasets import load_splits
from mnist_jax.loader import epoch_order, train_chunks
from mnist_jax.sharding import create_mesh, replicated, split_batch
from mnist_jax.steps import run_steps

ROUNDS = 5
IMAGES = 16384  # per round: whole batches of every size
REFERENCE = Config()
# By name: values, and a function from a value to config and number of images.
GROWTHS: dict[str, tuple[tuple[int, ...], Callable[[int], tuple[Config, int]]]] = {
    "batch size": (
        (32, 64, 128, 256, 512, 1024, 2048, 4096),
        lambda n: (dataclasses.replace(REFERENCE, batch_size=n), IMAGES),
    ),
    "features": (
        (8, 16, 32, 64, 128, 256),
        lambda n: (
            dataclasses.replace(REFERENCE, model=dataclasses.replace(REFERENCE.model, features=n)),
            IMAGES if n <= 64 else 2560,
        ),
    ),
    "times MNIST": ((1, 2, 5, 10), lambda n: (REFERENCE, 48_000 * n)),
    "steps in a chunk": (
        (1, 5, 25, 75, 375),
        lambda n: (dataclasses.replace(REFERENCE, chunk_steps=n), 48_000),
    ),
}


def create_epoch(config: Config, num_images: int) -> tuple[Callable[[], Any], int]:
    """Creates a function that trains an epoch on `num_images`; also counts temporary bytes."""
    mesh = create_mesh()
    images, labels = load_splits(**vars(DataConfig()))[0]["train"]
    repeats = -(-num_images // len(labels))
    images, labels = jax.device_put(
        (jnp.tile(images, (repeats, 1, 1, 1))[:num_images], jnp.tile(labels, repeats)[:num_images]),
        replicated(mesh),
    )
    shuffle, rngs, state = jax.device_put(
        (rng.stream(0, "shuffle"), step_rngs(), initial_state(config, 1)), replicated(mesh)
    )

    def chunks() -> Iterator[Any]:
        return train_chunks(
            images,
            labels,
            epoch_order(shuffle, 0, num_images),
            chunk_steps=config.chunk_steps,
            batch_size=config.batch_size,
            sharding=split_batch(mesh),
        )

    run_chunk = jax.jit(run_steps, donate_argnums=0)
    compiled = run_chunk.lower(state, next(chunks()), rngs).compile()

    def epoch():
        nonlocal state
        for chunk in chunks():
            state, sums = run_chunk(state, chunk, rngs)
            jax.block_until_ready(sums)
        return sums

    return epoch, compiled.memory_analysis().temp_size_in_bytes


def measure(name: str) -> list[dict[str, Any]]:
    """Measures one growth: `value`, `microseconds` per image (all rounds) and `temporary_bytes`."""
    values, settings = GROWTHS[name]
    made = {value: create_epoch(*settings(value)) for value in values}
    seconds = alternate({value: epoch for value, (epoch, _) in made.items()}, ROUNDS)
    return [
        {
            "value": value,
            "images": settings(value)[1],
            "temporary_bytes": temporary,
            "microseconds": [1e6 * s / settings(value)[1] for s in seconds[value]],
        }
        for value, (_, temporary) in made.items()
    ]


def draw(results: dict[str, list[dict[str, Any]]], file: Path, title: str) -> None:
    """Draws a panel for each growth."""
    figure, panels = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for axes, (name, rows) in zip(panels.flat, results.items(), strict=True):
        values = [row["value"] for row in rows]
        medians = [statistics.median(row["microseconds"]) for row in rows]
        spread = [
            [median - min(row["microseconds"]), max(row["microseconds"]) - median]
            for median, row in zip(medians, rows, strict=True)
        ]
        axes.errorbar(values, medians, yerr=list(zip(*spread, strict=True)), marker="o", capsize=3)
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, [str(value) for value in values])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel(name)
        axes.set_ylabel("µs per image")
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Measures each growth, prints the tables and draws the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark"))
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    machine = describe()
    results = {}
    for name in GROWTHS:
        results[name] = measure(name)
        print(f"| {name} | " + " | ".join(f"{row['value']}" for row in results[name]) + " |")
        print("|---" * (len(results[name]) + 1) + "|")
        medians = [statistics.median(row["microseconds"]) for row in results[name]]
        print("| µs per image | " + " | ".join(f"{median:.1f}" for median in medians) + " |")
        memory = [f"{row['temporary_bytes'] / 2**20:.1f}" for row in results[name]]
        print("| MiB per step | " + " | ".join(memory) + " |\n", flush=True)
    print(f"Medians of {ROUNDS} rounds. {headline(machine)}")
    (output / "growth.json").write_text(json.dumps({"machine": machine, **results}, indent=1))
    draw(results, output / "growth.png", headline(machine))


if __name__ == "__main__":
    main()
