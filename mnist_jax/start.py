"""Everything a training, or a population, needs before its first step."""

import dataclasses
import functools
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from mnist_jax.config import Config
from mnist_jax.datasets import Split, load_splits
from mnist_jax.datasets.info import describe_images
from mnist_jax.loader import steps_per_epoch
from mnist_jax.metrics import guessing
from mnist_jax.models import create_model
from mnist_jax.optimizer import create_optimizer
from mnist_jax.processes.distributed import from_first
from mnist_jax.rules import Rules, best_step, is_scheduled
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.workdir.checkpoint import check_checkpoints, read_progress, restore_state
from mnist_jax.workdir.hashing import data_sha256, tree_sha256
from mnist_jax.workdir.history import Progress
from mnist_jax.workdir.origin import Origin, check_same_run, environment
from mnist_jax.workdir.trained import load_trained
from mnist_jax.workdir.transfer import frozen_parameters, transfer

SAMPLE = 1000  # training images that are looked at for `DataInfo`


class Task(NamedTuple):
    """A config, unpacked.

    Attributes:
        splits: the data by split.
        origin: the origin of the run.
        rules: its decisions.
        model: the Linen module.
        tx: the optimizer.
        options: the other arguments of `program.compile_program`.
        guessing: what a network is to be better than, see `metrics.guessing`.
    """

    splits: dict[str, Split]
    origin: Origin
    rules: Rules
    model: nn.Module
    tx: optax.GradientTransformation
    options: dict[str, Any]
    guessing: dict[str, float]


class Start(NamedTuple):
    """What the loop begins with.

    Attributes:
        state: the training state, on the devices.
        step: the number of updates that it has seen.
        progress: the progress that belongs to it. Its origin names the network that the run began
            from, if there is one.
        messages: lines that say what was loaded and what is frozen.
    """

    state: Any
    step: int
    progress: Progress
    messages: list[str]


def create_task(config: Config) -> Task:
    """Loads the data, counts the steps and creates what trains on them.

    Raises:
        ValueError: the config does not fit the data, or JAX computes in float64.
    """
    if jax.dtypes.canonicalize_dtype(np.float64) == np.float64:
        raise ValueError(
            "JAX's 64-bit mode is on, and a training computes in float32: unset JAX_ENABLE_X64, or "
            'call jax.config.update("jax_enable_x64", False)'
        )
    splits, label_names = load_splits(**vars(config.data))
    images = splits["train"].images
    chosen = np.random.default_rng(0).permutation(len(images))[:SAMPLE]  # they may be in order
    sample = images[np.sort(chosen)]
    num_examples = len(splits["train"].labels)
    epoch_steps = steps_per_epoch(num_examples, config.batch_size)
    total_steps = config.epochs * epoch_steps
    if total_steps >= 2**31:
        raise ValueError(f"epochs must make fewer than 2**31 steps, got {total_steps:,}")
    origin = Origin(
        config=dataclasses.asdict(config),
        data_sha256=data_sha256(splits),
        data=describe_images(sample, label_names),
        examples={name: len(split.labels) for name, split in splits.items()},
        environment=environment(),
    )
    schedule = functools.partial(
        is_scheduled,
        epochs=config.epochs,
        steps_per_epoch=epoch_steps,
        chunk_steps=config.chunk_steps,
        **vars(config.checkpoint),
    )
    rules = Rules(num_examples, epoch_steps, total_steps, schedule, **vars(config.watch))
    options = {
        "seed": config.seed,
        "batch_size": config.batch_size,
        "chunk_steps": config.chunk_steps,
        **step_options(config),
    }
    parts = create_parts(config, len(label_names), total_steps)
    guessed = guessing(splits["test"].labels, len(label_names))
    return Task(splits, origin, rules, *parts, options, guessed)


def create_parts(
    config: Config, num_classes: int, num_steps: int
) -> tuple[nn.Module, optax.GradientTransformation]:
    """Creates a recipe's model, and its optimizer, whose schedule ends at `num_steps`."""
    return (
        create_model(num_classes=num_classes, **vars(config.model)),
        create_optimizer(**vars(config.optimizer), freeze=config.freeze, num_steps=num_steps),
    )


def step_options(config: Config) -> dict[str, Any]:
    """Returns the options of `steps.train_step` that a config sets."""
    return {
        "ema_decay": config.ema_decay,
        "freeze": config.freeze,
        "precision": config.precision,
        "label_smoothing": config.label_smoothing,
        **vars(config.augment),
    }


def last_checkpoint(
    checkpoints: Path, origin: Origin, *, keeps_best: Any = None
) -> tuple[list[int], Progress]:
    """Returns the sound steps up to the one to resume from, and the progress saved with it.

    Args:
        checkpoints: the directory of the checkpoints.
        origin: the origin of the run.
        keeps_best: the schedule of a run whose best checkpoint counts. If that one is damaged or
            gone, the run resumes from the one before it and so makes it again.

    Raises:
        ValueError: the checkpoints belong to another run, as `check_same_run` finds.
    """
    steps, values = from_first(lambda: _last_checkpoint(checkpoints, origin, keeps_best))
    progress = Progress.from_json(values)
    # The environment is this process's; what the run began from is remembered.
    origin = origin._replace(init_sha256=progress.origin.init_sha256)
    return steps, progress._replace(origin=origin)


def _last_checkpoint(
    checkpoints: Path, origin: Origin, keeps_best: Any
) -> tuple[list[int], dict[str, Any]]:
    saved, damaged = check_checkpoints(checkpoints)
    for line in damaged.values():
        warnings.warn(line, stacklevel=2)
    beginning = Progress(origin)
    if not saved:
        return [], beginning.to_json()
    progress = read_progress(checkpoints, saved[-1])
    check_same_run(progress.origin, origin, checkpoints)
    best = best_step(progress.history, keeps_best) if keeps_best else None
    if best and best not in saved:
        # It may be gone where the run was extended: its last epoch was scheduled then, and better.
        saved = [step for step in saved if step < best]
        progress = read_progress(checkpoints, saved[-1]) if saved else beginning
    return saved, progress.to_json()


def initial_state(
    program: Any,
    workdir: Path,
    saved: list[int],
    progress: Progress,
    *,
    init_from: str,
    freeze: str,
    members: bool = False,
) -> Start:
    """Returns the beginning: a saved state, one made from a trained network, or an initialised one.

    Args:
        program: the compiled program, which has the initialised state and places others.
        workdir: the directory of the run.
        saved: the steps of its sound checkpoints.
        progress: the progress saved with the last of them, or that of a new run.
        init_from: the config's field: the workdir of a network to begin from, or "".
        freeze: the config's field: the patterns of frozen parameters.
        members: True for the state of a population.

    Raises:
        FileNotFoundError: there is no trained network in the source.
        ValueError: a checkpoint is of another model; or the source lies in the workdir, does not
            fit, or does not have what is frozen.
    """
    frozen = frozen_parameters(program.state.params, freeze)
    messages = [f"frozen: {', '.join(frozen)}"] if frozen else []
    if saved:
        shapes = jax.eval_shape(program.collect, program.state)
        whole = replicated(create_mesh())
        state = restore_state(workdir / "checkpoints", saved[-1], shapes, whole)
        return Start(program.place(state), saved[-1], progress, [])
    if not init_from:
        return Start(program.state, 0, progress, messages)
    source = Path(init_from)
    if source.resolve().is_relative_to(workdir.resolve()):
        raise ValueError(
            f"init_from is {source}, in the workdir itself, which would lose it: give another "
            "--workdir"
        )
    trained = load_trained(source, "latest").variables
    state = program.collect(program.state)
    begun = transfer(state.variables, trained, members=members)
    remade = {*begun.remade} & {name.split("/")[0] for name in frozen}
    if remade:
        raise ValueError(
            f"freeze: {freeze!r} would keep {', '.join(sorted(remade))} as drawn at random: "
            f"{source} has nothing that fits there"
        )
    average = jax.tree.map(jnp.copy, begun.variables) if state.average else {}
    state = program.place(state.replace(**begun.variables, average=average))
    layers = {"loaded": begun.loaded, "made anew": begun.remade, "left out": begun.left_out}
    told = [f"{what}, of {source}: {', '.join(names)}" for what, names in layers.items() if names]
    origin = progress.origin._replace(init_sha256=tree_sha256(trained))
    return Start(state, 0, progress._replace(origin=origin), [*told, *messages])
