"""Times the training steps of each recipe with and without the native kernel, alternating.

    python benchmarks/native.py

A machine without a C++ compiler uses the lowering `matmul`.
"""

import statistics
import time

import jax
import jax.numpy as jnp
from machine import describe, headline

from mnist_jax import load_dataset, rng
from mnist_jax.config import load_config
from mnist_jax.models import create_model
from mnist_jax.optimizer import create_optimizer
from mnist_jax.state import create_train_state
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


def main() -> None:
    """Prints a row for each recipe."""
    print("| recipe | batch | native, ms per step | matmul, ms per step | matmul / native |")
    print("|---|---|---|---|---|")
    for recipe, batch_size, steps in ROWS:
        config = load_config(f"configs/{recipe}.py")
        size = batch_size or config.batch_size
        images, labels = load_dataset("mnist", f"train[:{steps * size}]")
        chunk = {
            "image": jnp.asarray(images.reshape(steps, size, 28, 28, 1)),
            "label": jnp.asarray(labels.reshape(steps, size)),
            "mask": jnp.ones((steps, size), bool),
        }
        rngs = {role: rng.stream(0, role) for role in ("dropout", "augment")}
        times: dict[str, list[float]] = {"native": [], "matmul": []}
        programs = {}
        for lowering in times:
            model = create_model(num_classes=10, **vars(config.model) | {"lowering": lowering})
            tx = create_optimizer(**vars(config.optimizer), num_steps=steps)
            state = create_train_state(model, tx, rng.stream(0, "init"), (28, 28, 1))
            options = vars(config.augment)
            lowered = jax.jit(run_steps, static_argnames=[*options]).lower(
                state, chunk, rngs, **options
            )
            programs[lowering] = lowered.compile(), state
        for _ in range(ROUNDS + 1):
            for lowering, (program, state) in programs.items():
                start = time.perf_counter()
                jax.block_until_ready(program(state, chunk, rngs))
                times[lowering].append((time.perf_counter() - start) / steps * 1e3)
        timed = {lowering: values[1:] for lowering, values in times.items()}  # the first warms up
        native, matmul = (statistics.median(values) for values in timed.values())
        ratio = statistics.median(slow / fast for fast, slow in zip(*timed.values(), strict=True))
        print(f"| {recipe} | {size} | {native:.2f} | {matmul:.2f} | {ratio:.2f} |")
    print(f"\nMedians of {ROUNDS}. {headline(describe())}")


if __name__ == "__main__":
    main()
