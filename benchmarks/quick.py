"""Compares one training step with a plain Flax step, in one process, in under two minutes.

    python benchmarks/quick.py

XLA's counts are the same on every run, so `make check` fails if arithmetic or memory traffic exceed
their limits. The times are not checked, since other load would change them.
"""

import statistics
import sys
from pathlib import Path

import jax
import numpy as np
from flax.training.train_state import TrainState
from machine import alternate, headline
from programs import initial_state, mnist_chunk, step_rngs

from mnist_jax import Config, rng
from mnist_jax.native import library
from mnist_jax.reporting.summary import step_flops
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
    """Returns XLA's counts of a program: FLOPs, and bytes accessed and of temporary memory."""
    cost = compiled.cost_analysis()
    return {
        "FLOPs": cost["flops"],
        "bytes accessed": cost["bytes accessed"],
        "temporary memory": compiled.memory_analysis().temp_size_in_bytes,
    }


def main() -> int:
    """Prints counts and times; returns 1 if a count is above its limit."""
    config = Config()
    chunk, rngs = mnist_chunk(STEPS, config.batch_size), step_rngs()
    run_chunk = jax.jit(run_steps, donate_argnums=0)
    state = initial_state(config, STEPS)
    scaled = np.asarray(chunk["image"], np.float32) / 255
    batches = [*zip(scaled, np.asarray(chunk["label"]), strict=True)]
    plain_model = plain_flax.CNN()
    variables = plain_model.init(rng.stream(0, "init"), scaled[0, :1], train=False)
    plain_state = TrainState.create(
        apply_fn=plain_model.apply, params=variables["params"], tx=state.tx
    )

    first = jax.tree.map(lambda x: x[0], chunk)
    ours = counts(jax.jit(train_step).lower(state, first, rngs).compile())
    plain = counts(plain_flax.train_step.lower(plain_state, *batches[0], rngs["dropout"]).compile())
    needed = step_flops(state.apply_fn.model, (28, 28, 1), config.batch_size)

    def run_ours():
        nonlocal state
        state, sums = run_chunk(state, chunk, rngs)
        return sums

    def run_plain():
        nonlocal plain_state
        for batch in batches:
            plain_state, loss = plain_flax.train_step(plain_state, *batch, rngs["dropout"])
        return loss

    times = alternate({"ours": run_ours, "plain": run_plain}, ROUNDS, scale=1e3 / STEPS)
    mine, theirs = (statistics.median(values) for values in times.values())
    ratios = sorted(b / a for a, b in zip(times["ours"], times["plain"], strict=True))

    shares = {name: ours[name] / plain[name] for name in ours} | {"FLOPs": ours["FLOPs"] / needed}
    print(
        f"a step: {mine:.2f} ms; plain Flax {theirs:.1f} ms: {statistics.median(ratios):.1f} times"
    )
    print(f"({ratios[0]:.1f} to {ratios[-1]:.1f} in {ROUNDS} pairs). {headline()}")
    failed, lowering = False, "matmul" if library.load().problem else "native"
    print(f"lowering: {lowering}")
    for name, limit in LIMITS[lowering].items():
        # The limits are for a CPU: other devices use another lowering.
        failed |= shares[name] > limit and jax.default_backend() == "cpu"
        of = "what the network needs" if name == "FLOPs" else "plain Flax's"
        verdict = "ABOVE the limit of" if shares[name] > limit else "limit"
        print(f"{name}: {ours[name] / 1e6:,.1f} M, {shares[name]:.2f} of {of}; {verdict} {limit}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
