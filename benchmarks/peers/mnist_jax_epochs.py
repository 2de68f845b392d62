"""This project: an epoch by the calls that `mnist_jax/train.py` makes for one.

    python mnist_jax_epochs.py DATA.npz CONFIG [--whole]

With `--whole` an epoch is all epochs of the recipe, and validation comes once, after the last.
Checkpoints and the history are left out, as the peers write none.
"""

import functools
import sys
import time

import jax
from protocol import Data, Peer, serve

import mnist_jax
from mnist_jax import rng
from mnist_jax.config import Config, load_config
from mnist_jax.loader import epoch_order, eval_chunks, steps_per_epoch, train_chunks
from mnist_jax.metrics import mean_metrics
from mnist_jax.model import create_model
from mnist_jax.optimizer import create_optimizer
from mnist_jax.sharding import create_mesh, replicated, split_batch
from mnist_jax.state import create_train_state
from mnist_jax.steps import run_eval_steps, run_steps


def create(data: Data, seed: int, config: Config, epochs: int = 1) -> Peer:
    """Compiles the chunks of the recipe; `epoch()` will train `epochs` of them, then validate."""
    mesh = create_mesh()
    data = jax.block_until_ready(jax.device_put(data, replicated(mesh)))
    num_examples, *image_shape = data["train"][0].shape
    num_steps = steps_per_epoch(num_examples, config.batch_size)
    init_rng, shuffle_rng, dropout_rng = jax.device_put(
        [rng.stream(seed, role) for role in ("init", "shuffle", "dropout")], replicated(mesh)
    )
    model = create_model(**vars(config.model))
    tx = create_optimizer(**vars(config.optimizer), num_steps=config.epochs * num_steps)
    state = create_train_state(model, tx, init_rng, tuple(image_shape))
    state = jax.device_put(state, replicated(mesh))

    layout = {"batch_size": config.batch_size, "sharding": split_batch(mesh)}
    chunks_of = functools.partial(
        train_chunks, *data["train"], chunk_steps=config.chunk_steps, **layout
    )
    order = epoch_order(shuffle_rng, 0, num_examples)
    by_size = {len(chunk["label"]): chunk for chunk in chunks_of(order)}  # one or two
    run_chunk = {
        size: run_steps.lower(state, chunk, dropout_rng).compile()
        for size, chunk in by_size.items()
    }
    validation = list(eval_chunks(*data["validation"], **layout))
    run_eval_chunk = run_eval_steps.lower(state.params, state.apply_fn, validation[0]).compile()

    def epoch():
        nonlocal state
        start = time.perf_counter()
        for _ in range(epochs):
            sums = []
            order = epoch_order(shuffle_rng, int(state.step) // num_steps, num_examples)
            for chunk in chunks_of(order):
                state, chunk_sums = run_chunk[len(chunk["label"])](state, chunk, dropout_rng)
                jax.block_until_ready(sums[-1:])
                sums.append(chunk_sums)
            mean_metrics(sums)
        seconds = time.perf_counter() - start
        return {
            "steps": epochs * num_steps,
            "train_seconds": seconds,
            "val_accuracy": accuracy(validation),
        }

    def accuracy(chunks):
        return mean_metrics(run_eval_chunk(state.params, chunk) for chunk in chunks)["accuracy"]

    return epoch, lambda: accuracy(eval_chunks(*data["test"], **layout))


if __name__ == "__main__":
    recipe = load_config(sys.argv[2])
    together = recipe.epochs if "--whole" in sys.argv else 1
    serve(functools.partial(create, config=recipe, epochs=together), mnist_jax, jax)
