"""This project: an epoch by the calls of `mnist_jax/loop.py`, without checkpoints and history.

    python mnist_jax_epochs.py DATA.npz CONFIG [--whole]

With `--whole` an epoch is all epochs of the recipe, validated once.
"""

import functools
import sys
import time

import jax
from protocol import Data, Peer, serve

import mnist_jax
from mnist_jax.config import Config, load_config
from mnist_jax.datasets.arrays import check_parts
from mnist_jax.datasets.info import DataInfo
from mnist_jax.loader import steps_per_epoch
from mnist_jax.metrics import mean_metrics
from mnist_jax.parts import NONE
from mnist_jax.program import compile_training
from mnist_jax.start import create_build, numbers


def create(data: Data, seed: int, config: Config, epochs: int = 1) -> Peer:
    """Compiles the recipe; `epoch()` trains `epochs` of it, then validates."""
    num_steps = steps_per_epoch(len(data["train"][1]), config.batch_size)
    splits = check_parts(data)
    info = DataInfo(splits["train"].images.shape[1:], tuple("0123456789"))
    program = compile_training(
        create_build(config, NONE, info, config.epochs * num_steps),
        numbers(config, NONE),
        splits,
        seed=seed,
        batch_size=config.batch_size,
        chunk_steps=config.chunk_steps,
    )
    state, step = program.state, 0

    def epoch():
        nonlocal state, step
        start = time.perf_counter()
        for _ in range(epochs):
            sums = []
            for chunk in program.train_chunks(step, step + num_steps):
                state, chunk_sums = program.run_chunk(state, chunk, 1.0)
                jax.block_until_ready(sums[-1:])
                sums.append(chunk_sums)
            mean_metrics(sums)
            step += num_steps
        seconds = time.perf_counter() - start
        return {
            "steps": epochs * num_steps,
            "train_seconds": seconds,
            "val_accuracy": accuracy("validation"),
        }

    def accuracy(split: str) -> float:
        return program.measure(state, split)["accuracy"]

    return epoch, lambda: accuracy("test")


if __name__ == "__main__":
    recipe = load_config(sys.argv[2])
    together = recipe.epochs if "--whole" in sys.argv else 1
    serve(functools.partial(create, config=recipe, epochs=together), mnist_jax, jax)
