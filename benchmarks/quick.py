"""Compares one training step with a plain Flax step, in one process, in under two minutes.

    python benchmarks/quick.py

XLA's counts are the same on every run, so `make check` fails if arithmetic or memory traffic rise
above their limits. The times are printed and not checked, since other load would change them.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.training.train_state import TrainState
from machine import describe, headline

from mnist_jax import Config, load_dataset, rng
from mnist_jax.models import create_model
from mnist_jax.native import library
from mnist_jax.optimizer import create_optimizer
from mnist_jax.reporting.summary import step_flops
from mnist_jax.state import create_train_state
from mnist_jax.steps import run_steps, train_step

sys.path.append(str(Path(__file__).parent / "peers"))
import plain_flax

STEPS, ROUNDS = 25, 9
# Limits of a step's counts: FLOPs relative to the arithmetic that the network needs, the others to
# plain Flax. XLA knows the native kernel's arrays, not its arithmetic.
LIMITS = {
    "native": {"FLOPs": 0.75, "bytes accessed": 0.12, "temporary memory": 0.1},
    "matmul": {"FLOPs": 1.4, "bytes accessed": 0.4, "temporary memory": 0.25},
}


def counts(compiled: jax.stages.Compiled) -> dict[str, float]:
    """Returns XLA's counts of a program: FLOPs, bytes accessed, bytes of temporary memory."""
    cost = compiled.cost_analysis()
    return {
        "FLOPs": cost["flops"],
        "bytes accessed": cost["bytes accessed"],
        "temporary memory": compiled.memory_analysis().temp_size_in_bytes,
    }


def main() -> int:
    """Prints counts and times; returns 1 if a count is above its limit."""
    config = Config()
    size = config.batch_size
    images, labels = load_dataset("mnist", "train[:3200]")
    chunk = {
        "image": jnp.asarray(images.reshape(STEPS, size, 28, 28, 1)),
        "label": jnp.asarray(labels.reshape(STEPS, size)),
        "mask": jnp.ones((STEPS, size), bool),
    }
    rngs = {role: rng.stream(0, role) for role in ("dropout", "augment")}
    run_chunk = jax.jit(run_steps, donate_argnums=0)
    model = create_model(num_classes=10, **vars(config.model))
    tx = create_optimizer(**vars(config.optimizer), num_steps=STEPS)
    state = create_train_state(model, tx, rng.stream(0, "init"), (28, 28, 1))
    plain_model = plain_flax.CNN()
    plain_state = TrainState.create(
        apply_fn=plain_model.apply,
        params=plain_model.init(rng.stream(0, "init"), jnp.zeros((1, 28, 28, 1)), train=False)[
            "params"
        ],
        tx=tx,
    )
    scaled = images.astype(np.float32) / 255
    batches = [
        (scaled[start : start + size], labels[start : start + size])
        for start in range(0, len(images), size)
    ]

    first = jax.tree.map(lambda x: x[0], chunk)
    ours = counts(jax.jit(train_step).lower(state, first, rngs).compile())
    plain = counts(plain_flax.train_step.lower(plain_state, *batches[0], rngs["dropout"]).compile())
    needed = step_flops(model, (28, 28, 1), size)

    def run_ours():
        nonlocal state
        state, sums = run_chunk(state, chunk, rngs)
        jax.block_until_ready(sums)

    def run_plain():
        nonlocal plain_state
        for batch in batches:
            plain_state, loss = plain_flax.train_step(plain_state, *batch, rngs["dropout"])
        jax.block_until_ready(loss)

    run_ours()
    run_plain()
    seconds = [(timed(run_ours), timed(run_plain)) for _ in range(ROUNDS)]
    ratios = sorted(theirs / mine for mine, theirs in seconds)
    mine, theirs = (
        statistics.median(column) / STEPS * 1e3 for column in zip(*seconds, strict=True)
    )

    shares = {name: ours[name] / plain[name] for name in ours} | {"FLOPs": ours["FLOPs"] / needed}
    print(
        f"a step: {mine:.2f} ms; plain Flax {theirs:.1f} ms: {statistics.median(ratios):.1f} times"
    )
    print(f"({ratios[0]:.1f} to {ratios[-1]:.1f} in {ROUNDS} pairs). {headline(describe())}")
    failed, lowering = False, "matmul" if library.load().problem else "native"
    print(f"lowering: {lowering}")
    for name, limit in LIMITS[lowering].items():
        # The limits are for a CPU: other devices use another lowering.
        failed |= shares[name] > limit and jax.default_backend() == "cpu"
        of = "what the network needs" if name == "FLOPs" else "plain Flax's"
        verdict = "ABOVE the limit of" if shares[name] > limit else "limit"
        print(f"{name}: {ours[name] / 1e6:,.1f} M, {shares[name]:.2f} of {of}; {verdict} {limit}")
    return int(failed)


def timed(run: Callable[[], None]) -> float:
    """Returns the seconds of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
