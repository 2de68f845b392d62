"""Everything a training, or a population, needs before its first step."""

import collections
import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from mnist_jax.config import AugmentConfig, Config, completed
from mnist_jax.datasets import Split, load_splits
from mnist_jax.datasets.arrays import check_labels
from mnist_jax.datasets.info import DataInfo, describe_images
from mnist_jax.forward import Forward, check_module
from mnist_jax.loader import steps_per_epoch
from mnist_jax.metrics import check_functions, guessing
from mnist_jax.models import create_model
from mnist_jax.native import library
from mnist_jax.optimizer import create_optimizer, keep_frozen, rate_schedule
from mnist_jax.parts import (
    NONE,
    Parts,
    own_model,
    own_optimizer,
    own_sha256,
)
from mnist_jax.processes.distributed import from_first
from mnist_jax.program import Build, StepParts
from mnist_jax.rules import Rules, is_scheduled
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.workdir.checkpoint import check_checkpoints, read_progress, restore_state
from mnist_jax.workdir.hashing import data_sha256, tree_sha256
from mnist_jax.workdir.history import Progress, check_monitors
from mnist_jax.workdir.origin import (
    Origin,
    check_own,
    check_same_run,
    check_same_step,
    environment,
    is_here,
    may_use_kernel,
)
from mnist_jax.workdir.trained import load_variables
from mnist_jax.workdir.transfer import frozen_parameters, transfer

SAMPLE = 1000  # training images that `DataInfo` is measured on
SMALL_BATCH = 1024  # a batch of a recipe may be larger than a small dataset; more is a slip

# The numbers of a config that are arguments of its compiled program: recipes that differ only in
# these share the program. A Python 0 leaves the computation that the number controls out of it.
NUMBERS = (
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "model.dropout_rate",
    "label_smoothing",
    "ema_decay",
    *(f"augment.{name}" for name, kind in get_type_hints(AugmentConfig).items() if kind is float),
)


class Task(NamedTuple):
    """A config, unpacked.

    Attributes:
        splits: the data by split.
        origin: the origin of the run.
        rules: its decisions.
        build: a function from `numbers` to the parts of a step, see `program.Build`.
        numbers: the values of `NUMBERS`, by name.
        layout: the other arguments of `program.compile_training`.
        parts: the user's own parts.
        guessing: the loss and accuracy of guessing, see `metrics.guessing`; None without a test.
    """

    splits: dict[str, Split]
    origin: Origin
    rules: Rules
    build: Build
    numbers: dict[str, float]
    layout: dict[str, int]
    parts: Parts
    guessing: dict[str, float] | None


class Start(NamedTuple):
    """The beginning of the loop.

    Attributes:
        state: the training state, on the devices.
        step: the number of updates behind it.
        progress: the progress that belongs to it. Its origin names the network that the run was
            initialised from, if there is one.
        messages: lines about the loaded and the frozen parameters.
    """

    state: Any
    step: int
    progress: Progress
    messages: list[str]


def create_task(config: Config, parts: Parts = NONE) -> Task:
    """Loads the data, counts the steps and creates the parts of the training.

    Args:
        config: the recipe.
        parts: the user's own parts, in place of the config's.

    Raises:
        ValueError: the config or a part does not fit the data, or the config watches a metric that
            the history will not have; or JAX computes in float64.
    """
    if jax.dtypes.canonicalize_dtype(np.float64) == np.float64:
        raise ValueError(
            "JAX's 64-bit mode is on, and a training computes in float32: unset JAX_ENABLE_X64, or "
            'call jax.config.update("jax_enable_x64", False)'
        )
    recipe = dataclasses.asdict(config)
    if may_use_kernel(recipe):
        library.start_loading()  # compiling it takes about as long as preparing the data
    check_functions(parts.loss_fn, parts.metrics)
    check_monitors(config.watch, parts.metrics or ())
    splits, label_names = load_splits(**vars(config.data), own=parts.splits)
    images = splits["train"].images
    chosen = np.random.default_rng(0).permutation(len(images))[
        :SAMPLE
    ]  # the images may be sorted by class
    sample = images[np.sort(chosen)]
    num_examples = len(splits["train"].labels)
    if config.batch_size > max(num_examples, SMALL_BATCH):
        raise ValueError(
            f"batch_size must be at most the number of training examples, {num_examples:,}, got "
            f"{config.batch_size:,}"
        )
    epoch_steps = steps_per_epoch(num_examples, config.batch_size)
    total_steps = config.epochs * epoch_steps
    if total_steps >= 2**31:
        raise ValueError(f"epochs must make fewer than 2**31 steps, got {total_steps:,}")
    info = describe_images(sample, label_names)
    if parts.splits is not None and (model := own_model(parts, info)):
        check_labels(splits, classes := check_module(Forward(model), info.image_shape))
        # Arrays have no class names, and the highest classes may not occur in them.
        info = info._replace(
            label_names=(*label_names, *map(str, range(len(label_names), classes)))
        )
    build, sha256 = create_build(config, parts, info, total_steps), data_sha256(splits)
    origin = Origin(
        config=recipe,
        data_sha256=sha256,
        data=info,
        examples={name: len(split.labels) for name, split in splits.items()},
        environment=environment(recipe),
        own=_own_sha256(parts, build, info, sha256),
    )
    schedule = functools.partial(
        is_scheduled,
        epochs=config.epochs,
        steps_per_epoch=epoch_steps,
        chunk_steps=config.chunk_steps,
        **vars(config.checkpoint),
    )
    rules = Rules(
        num_examples,
        epoch_steps,
        total_steps,
        schedule,
        **vars(config.watch),
        learning_rate=learning_rate(config, parts, total_steps),
    )
    guessed = guessing(splits["test"].labels, len(info.label_names)) if "test" in splits else None
    if guessed and parts.loss_fn:
        del guessed["loss"]  # it would be the cross-entropy's
    return Task(
        splits,
        origin,
        rules,
        build,
        numbers(config, parts),
        {name: getattr(config, name) for name in ("seed", "batch_size", "chunk_steps")},
        parts,
        guessed,
    )


def finished_parts(
    workdir: Path, config: Config, parts: Parts, step: int, total_steps: int
) -> tuple[nn.Module, optax.GradientTransformation, DataInfo]:
    """Returns a finished run's model, optimizer and facts about the data.

    Args:
        workdir: the directory of the run.
        config: its recipe.
        parts: the user's own parts, the same as in training.
        step: the saved step to read.
        total_steps: the number of steps in all epochs.

    Raises:
        ValueError: the run was trained with different parts.
    """
    origin = read_progress(workdir / "checkpoints", step).origin
    build, sha256 = create_build(config, parts, origin.data, total_steps), ""
    if parts.splits is not None:
        given, _ = load_splits(**vars(config.data), own=parts.splits)
        sha256 = data_sha256(given)
    own = _own_sha256(parts, build, origin.data, sha256)
    check_own(origin.own, own, workdir, compare=is_here(origin))
    model, tx, _ = build({})
    return model, tx, origin.data


def _own_sha256(parts: Parts, build: Build, info: DataInfo, data: str) -> dict[str, str]:
    """Returns each own part's SHA-256, that of the data included."""
    model, tx, _ = build({})
    own = own_sha256(parts, model, info, tx)
    return own if parts.splits is None else own | {"splits": data}


def create_build(config: Config, parts: Parts, info: DataInfo, num_steps: int) -> Build:
    """Returns a function from a config's numbers, by name, to the parts of a step.

    Args:
        config: the recipe; its values serve for numbers that the function does not receive.
        parts: the user's own parts.
        info: the facts about the data.
        num_steps: the number of steps in all epochs, the end of a schedule.
    """
    model, tx = own_model(parts, info), own_optimizer(parts, num_steps)
    own: Any = {"loss_fn": parts.loss_fn, "metrics": parts.metrics}
    own = {name: part for name, part in own.items() if part}

    def build(values: Mapping[str, Any]) -> StepParts:
        given: Any = collections.defaultdict(dict)  # by section; "" holds the config's own fields
        for name, value in values.items():
            section, _, field = name.rpartition(".")
            given[section][field] = value
        options: Any = {
            name: getattr(config, name)
            for name in ("ema_decay", "freeze", "precision", "label_smoothing")
        }
        optimizer = vars(config.optimizer) | given["optimizer"]
        return StepParts(
            model
            or create_model(
                num_classes=len(info.label_names), **(vars(config.model) | given["model"])
            ),
            keep_frozen(tx, config.freeze)
            if tx
            else create_optimizer(**optimizer, freeze=config.freeze, num_steps=num_steps),
            options | vars(config.augment) | given[""] | given["augment"] | own,
        )

    return build


def numbers(config: Config, parts: Parts) -> dict[str, float]:
    """Returns the values of `NUMBERS` that are arguments of the program."""
    fields = completed(dataclasses.asdict(config))
    left_out = [
        f"{what}." for what, own in (("model", parts.model), ("optimizer", parts.tx)) if own
    ]
    return {
        name: fields[name]
        for name in NUMBERS
        if fields[name] and not name.startswith((*left_out, "-"))
    }


def learning_rate(config: Config, parts: Parts, num_steps: int) -> Callable[[int], float | None]:
    """Returns a function from the number of updates to the learning rate (None if unknown)."""
    fields = config.optimizer
    shape = rate_schedule(fields.schedule, fields.warmup, num_steps)
    if parts.tx is not None:
        return lambda _: None
    if shape is None:
        return lambda _: fields.learning_rate
    return lambda step: fields.learning_rate * float(np.asarray(shape(step)))


def last_checkpoint(
    checkpoints: Path, origin: Origin, *, keeps_best: Any = None
) -> tuple[list[int], Progress]:
    """Returns the intact steps up to the one to resume from, and the progress saved with it.

    Args:
        checkpoints: the directory of the checkpoints.
        origin: the origin of the run.
        keeps_best: a function history -> best step, of a run whose best checkpoint is its result.
            If that one is damaged or gone, the run resumes before it and so recreates it.

    Raises:
        ValueError: the checkpoints belong to another run, as `check_same_run` finds.
    """
    steps, values = from_first(lambda: _last_checkpoint(checkpoints, origin, keeps_best))
    return steps, Progress.from_json(values)


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
    best = keeps_best(progress.history) if keeps_best else None
    if best and best not in saved:
        # An extended run may have lost it: its last epoch was scheduled then, and better.
        saved = [step for step in saved if step < best]
        progress = read_progress(checkpoints, saved[-1]) if saved else beginning
    return saved, progress.to_json()


def initial_state(
    program: Any,
    workdir: Path,
    saved: list[int],
    progress: Progress,
    origin: Origin,
    *,
    init_from: str,
    freeze: str,
    members: bool = False,
) -> Start:
    """Returns a saved state, one made from a trained network, or a freshly initialised one.

    Args:
        program: the compiled program; it holds the initialised state and places others.
        workdir: the directory of the run.
        saved: the steps of its intact checkpoints.
        progress: the progress saved with the last of them, or that of a new run.
        origin: the origin of this run, with the hash of the compiled step.
        init_from: the workdir of a network to start from, or "".
        freeze: the patterns of frozen parameters.
        members: True for the state of a population.

    Raises:
        FileNotFoundError: `init_from` holds no trained network.
        ValueError: a checkpoint belongs to a different model or code; or `init_from` lies in the
            workdir, does not fit, or lacks a frozen layer.
    """
    frozen = frozen_parameters(program.state.params, freeze)
    messages = _native_advice(origin)
    messages += [f"frozen: {', '.join(frozen)}"] if frozen else []
    if saved:
        check_same_step(progress.origin, origin, workdir / "checkpoints")
    # The environment is this process's; the network that the run started from stays on record.
    origin = origin._replace(init_sha256=progress.origin.init_sha256)
    progress = progress._replace(origin=origin)
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
            f"init_from is {source}, inside the workdir, which would delete it: choose another "
            "--workdir"
        )
    _, trained, _, _ = load_variables(source)
    state = program.collect(program.state)
    begun = transfer(state.variables, trained, members=members)
    remade = {*begun.remade} & {name.split("/")[0] for name in frozen}
    if remade:
        raise ValueError(
            f"freeze: {freeze!r} would freeze {', '.join(sorted(remade))} at random values: "
            f"{source} has nothing that fits there"
        )
    average = jax.tree.map(jnp.copy, begun.variables) if state.average else {}
    variables = dict(begun.variables)
    state = program.place(
        state.replace(params=variables.pop("params"), collections=variables, average=average)
    )
    layers = {"loaded": begun.loaded, "re-initialised": begun.remade, "skipped": begun.left_out}
    told = [f"{what}, from {source}: {', '.join(names)}" for what, names in layers.items() if names]
    origin = progress.origin._replace(init_sha256=tree_sha256(trained))
    return Start(state, 0, progress._replace(origin=origin), [*told, *messages])


def _native_advice(origin: Origin) -> list[str]:
    """Returns a line about the missing kernel for CPUs; [] where it is present or not wanted."""
    if "model" in origin.own or not may_use_kernel(origin.config):
        return []
    problem = library.load().problem
    return [f"convolutions are matrix products, which is slower: {problem}"] if problem else []
