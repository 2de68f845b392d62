"""Measures a trained network."""

from pathlib import Path
from typing import Any

import jax

from mnist_jax.datasets import load_splits
from mnist_jax.loader import eval_chunks
from mnist_jax.metrics import mean_metrics
from mnist_jax.model import create_model
from mnist_jax.sharding import create_mesh, replicated, split_batch
from mnist_jax.steps import run_eval_steps
from mnist_jax.workdir import load_trained


def evaluate(
    workdir: str | Path, split: str = "test", step: int | str = "latest"
) -> dict[str, Any]:
    """Computes loss and accuracy over every example of a split of the run's own dataset.

    Args:
        workdir: a directory that `train` has written.
        split: "test", "validation" or "train" (the examples trained on).
        step: a saved step, "latest", or "best" by validation accuracy.

    Returns:
        `loss` (nats an example), `accuracy` (in [0, 1]), `count` (examples), `split` and `step`.

    Raises:
        FileNotFoundError: there is no trained network in `workdir`.
        ValueError: it has no such step or split, or cannot be read.
    """
    mesh = create_mesh()
    trained = load_trained(workdir, step, replicated(mesh))
    model = create_model(**vars(trained.config.model))
    splits = load_splits(**vars(trained.config.data))
    if split not in splits:
        raise ValueError(f"split must be one of {', '.join(splits)}, got {split!r}")
    images, labels = jax.device_put(splits[split], replicated(mesh))
    chunks = eval_chunks(
        images, labels, batch_size=trained.config.batch_size, sharding=split_batch(mesh)
    )
    sums = [run_eval_steps(trained.params, model.apply, chunk) for chunk in chunks]
    return {**mean_metrics(sums), "count": len(labels), "split": split, "step": trained.step}
