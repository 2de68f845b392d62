"""What a training begins with, or a population of them: data, steps, checkpoints, parameters."""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from mnist_jax.checkpoint import check_checkpoints, read_progress
from mnist_jax.config import Config
from mnist_jax.datasets import DataInfo, Split, load_splits
from mnist_jax.environment import environment
from mnist_jax.handwriting import drawing_box
from mnist_jax.hashing import data_sha256, tree_sha256
from mnist_jax.loader import steps_per_epoch
from mnist_jax.metrics import mean_metrics
from mnist_jax.retention import is_scheduled
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.state import TrainState
from mnist_jax.transfer import frozen_parameters, transfer
from mnist_jax.workdir import check_same_run, load_trained

Row = dict[str, Any]

SAMPLE = 1000  # images that tell how the training images are drawn

# Of a run: the rows of its epochs; of an unfinished epoch, the sums and the seconds.
BEGINNING = {"history": [], "sums": [], "seconds": 0.0}


class Task(NamedTuple):
    """What a config asks for.

    Attributes:
        splits: images and labels of "train", "validation" and "test".
        info: what the network has to know of them.
        origin: what a checkpoint must have been made of, for a run to go on from it.
        steps_per_epoch: the last batch may be padded.
        total_steps: of all epochs.
        scheduled: step -> whether there is to be a checkpoint.
    """

    splits: dict[str, Split]
    info: DataInfo
    origin: dict[str, Any]
    steps_per_epoch: int
    total_steps: int
    scheduled: Callable[[int], bool]


def create_task(config: Config) -> Task:
    """Loads the data and counts the steps; ValueError where the config and the data do not fit."""
    splits, label_names = load_splits(**vars(config.data))
    images = splits["train"].images
    sample = images[np.arange(min(len(images), SAMPLE))]
    info = DataInfo(tuple(images.shape[1:]), label_names, drawing_box(sample))
    num_steps = steps_per_epoch(len(splits["train"].labels), config.batch_size)
    total_steps = config.epochs * num_steps
    if total_steps >= 2**31:
        raise ValueError(f"epochs must make fewer than 2**31 steps, got {total_steps:,}")
    origin = {
        "config": dataclasses.asdict(config),
        "data_sha256": data_sha256(splits),
        "data": info._asdict(),
        "examples": {name: len(split.labels) for name, split in splits.items()},
        "environment": environment(),
    }
    scheduled = functools.partial(
        is_scheduled,
        epochs=config.epochs,
        steps_per_epoch=num_steps,
        chunk_steps=config.chunk_steps,
        **vars(config.checkpoint),
    )
    return Task(splits, info, origin, num_steps, total_steps, scheduled)


def how_to_go_on(total_steps: int, overwrite: bool) -> str:
    """What a stopped run tells, with a place for the step that it has saved."""
    again = f"the same command again{', without --overwrite,' if overwrite else ''}"
    return f" after step {{}} of {total_steps}, which is saved; run {again} to go on"


def progress_bar(step: int, total_steps: int) -> tqdm:
    """A bar on a terminal, nothing elsewhere: steps, rate, time left."""
    return tqdm(
        total=total_steps,
        initial=step,
        unit=" steps",
        leave=False,
        disable=None,
        dynamic_ncols=True,
        bar_format="{percentage:3.0f}% {bar} {n}/{total}, {rate_fmt}, {remaining} left{postfix}",
    )


def show_accuracies(bar: tqdm, history: list[Row], sums: list[Any]) -> None:
    """Shows beside the bar the training accuracy of a chunk, and the last validation accuracy.

    Args:
        bar: of `progress_bar`.
        history: a row an epoch.
        sums: of the epoch's chunks so far; the last one may still be computed, and is not asked.
    """
    if bar.disable:
        return
    shown = []
    if len(sums) > 1:
        shown.append(f"train {mean_metrics([sums[-2]])['accuracy']:.1%}")
    if history:
        shown.append(f"validation {history[-1]['val_accuracy']:.1%}")
    bar.set_postfix_str(", ".join(shown), refresh=False)


def step_options(config: Config) -> dict[str, Any]:
    """What `steps.train_step` is told of a config."""
    return {
        "ema_decay": config.ema_decay,
        "freeze": config.freeze,
        "precision": config.precision,
        "label_smoothing": config.label_smoothing,
        **vars(config.augment),
    }


def last_checkpoint(
    checkpoints: Path, origin: dict[str, Any]
) -> tuple[list[int], set[int], dict[str, Any]]:
    """Returns the sound steps, the damaged ones, and the progress saved with the last sound one.

    Raises ValueError where that is of another run, see `workdir.check_same_run`.
    """
    saved, damaged = check_checkpoints(checkpoints)
    for line in damaged.values():
        warnings.warn(line, stacklevel=5)
    if not saved:
        return [], {*damaged}, BEGINNING
    progress = read_progress(checkpoints, saved[-1])
    check_same_run(progress["origin"], origin, checkpoints)
    return saved, {*damaged}, progress


def transferred(
    states: list[TrainState], config: Config, workdir: Path
) -> tuple[list[TrainState], str]:
    """Returns the states with the parameters of the network that `config.init_from` names.

    It tells which layers are loaded, made anew and left out.

    Args:
        states: of one architecture, initialised.
        config: names the source, and what is to be frozen.
        workdir: where the states are to be trained.

    Returns:
        The states, and the SHA-256 of the source's variables.

    Raises:
        FileNotFoundError: there is no trained network in the source.
        ValueError: the source lies in the workdir, does not fit, or does not have what is frozen.
    """
    source = Path(config.init_from)
    if source.resolve().is_relative_to(workdir.resolve()):
        raise ValueError(
            f"init_from is {source}, in the workdir itself, which would lose it: give another "
            "--workdir"
        )
    trained = load_trained(source, "latest", replicated(create_mesh())).variables
    found = [transfer(state.variables, trained) for state in states]
    remade = {name.split("/")[0] for name in frozen_parameters(states[0].params, config.freeze)}
    remade &= {*found[0].remade}
    if remade:
        raise ValueError(
            f"freeze: {config.freeze!r} would keep {', '.join(sorted(remade))} as drawn at random: "
            f"{source} has nothing that fits there"
        )
    for what, layers in (
        ("loaded", found[0].loaded),
        ("made anew", found[0].remade),
        ("left out", found[0].left_out),
    ):
        if layers:
            print(f"{what}, of {source}: {', '.join(layers)}")
    states = [
        state.replace(
            **new.variables, average=jax.tree.map(jnp.copy, new.variables) if state.average else {}
        )
        for state, new in zip(states, found, strict=True)
    ]
    return states, tree_sha256(trained)
