"""Times the training steps of each recipe with and without the native kernel, alternating.

    python benchmarks/native.py

A machine without a C++ compiler uses the lowering `matmul`.
"""

import functools
import statistics
from typing import Any

import jax
from machine import alternate, headline
from markdown_table import print_table
from programs import initial_state, mnist_chunk, step_rngs

from mnist_jax.config import load_config
from mnist_jax.steps import run_steps

# recipe, batch size (None: its own), steps per call
ROWS = [
    ("default", None, 25),
    ("default", 512, 8),
    ("fast", None, 25),
    ("deep_cnn", None, 5),
    ("accurate", None, 2),
    ("resnet", None, 4),
]
ROUNDS = 15


def measure(recipe: str, batch_size: int | None, steps: int) -> dict[str, Any]:
    """Times the steps of a recipe."""
    config = load_config(f"configs/{recipe}.py")
    size = batch_size or config.batch_size
    chunk, rngs, options = mnist_chunk(steps, size), step_rngs(), vars(config.augment)
    run, programs = jax.jit(run_steps, static_argnames=[*options]), {}
    for lowering in ("native", "matmul"):
        state = initial_state(config, steps, lowering=lowering)
        compiled = run.lower(state, chunk, rngs, **options).compile()
        programs[lowering] = functools.partial(compiled, state, chunk, rngs)
    times = alternate(programs, ROUNDS, scale=1e3 / steps)
    ratios = [slow / fast for fast, slow in zip(*times.values(), strict=True)]
    medians = {f"{name}, ms per step": statistics.median(times[name]) for name in times}
    ratio = {"matmul / native": statistics.median(ratios)}
    return {"recipe": recipe, "batch": size} | medians | ratio


def main() -> None:
    """Prints a row for each recipe."""
    print_table(measure(*row) for row in ROWS)
    print(f"\nMedians of {ROUNDS}. {headline()}")


if __name__ == "__main__":
    main()
