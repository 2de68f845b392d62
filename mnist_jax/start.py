"""The preparation of a training or a population, up to its first step."""

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
from mnist_jax.parts import NONE, Parts, own_model, own_optimizer, own_sha256
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
SMALL_BATCH = 1024  # a batch may be this large whatever the dataset; more is a slip

# Numbers that are arguments of the compiled program, so recipes that differ only in these share it.
# A 0 leaves out its computation.
NUMBERS = (
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "model.dropout_rate",
    "label_smoothing",
    "ema_decay",
    *(f"augment.{name}" for name, kind in get_type_hints(AugmentConfig).items() if kind is float),
)


class Task(NamedTuple):
    """A config, unpacked."""

    splits: dict[str, Split]
    origin: Origin
    rules: Rules
    build: Build
    numbers: dict[str, float]  # values of `NUMBERS`, the arguments of `build`
    layout: dict[str, int]  # other arguments of `program.compile_training`
    parts: Parts
    guessing: dict[str, float] | None  # by `metrics.guessing`; None without a test split


class Start(NamedTuple):
    """The beginning of the loop."""

    state: Any  # on the devices
    step: int  # updates so far
    progress: Progress  # its origin names the network that initialised the run, if any
    messages: list[str]  # about loaded and frozen parameters


def create_task(config: Config, parts: Parts = NONE) -> Task:
    """Loads the data, counts the steps and creates the parts of the training.

    Raises ValueError if the config or a part does not fit the data, the config watches a metric
    that the history will lack, or JAX computes in float64.
    """
    if jax.dtypes.canonicalize_dtype(np.float64) == np.float64:
        raise ValueError(
            "JAX's 64-bit mode is on, and a training computes in float32: unset JAX_ENABLE_X64, or "
            'call jax.config.update("jax_enable_x64", False)'
        )
    recipe = dataclasses.asdict(config)
    if may_use_kernel(recipe):
        library.start_loading()  # it compiles while the data are prepared
    check_functions(parts.loss_fn, parts.metrics)
    check_monitors(config.watch, parts.metrics or ())
    splits, label_names = load_splits(**vars(config.data), own=parts.splits)
    images = splits["train"].images
    # The images may be sorted by class.
    chosen = np.random.default_rng(0).permutation(len(images))[:SAMPLE]
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
        # Arrays have no class names, and may lack the highest classes.
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
        del guessed["loss"]  # the cross-entropy's
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
    """Returns a finished run's model, optimizer and facts about the data, given a saved step.

    Raises ValueError if the run was trained with different parts.
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
    """Returns each own part's SHA-256, including that of the data."""
    model, tx, _ = build({})
    own = own_sha256(parts, model, info, tx)
    return own if parts.splits is None else own | {"splits": data}


def create_build(config: Config, parts: Parts, info: DataInfo, num_steps: int) -> Build:
    """Returns a function from numbers by name, which replace the config's, to the parts of a step.

    A schedule ends after `num_steps`, the steps in all epochs.
    """
    model, tx = own_model(parts, info), own_optimizer(parts, num_steps)
    own: Any = {name: part for name in ("loss_fn", "metrics") if (part := getattr(parts, name))}

    def build(values: Mapping[str, Any]) -> StepParts:
        given: Any = collections.defaultdict(dict)  # by section; "" for the config's own fields
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
    """Returns the non-zero values of `NUMBERS`, without those that own parts replace."""
    fields = completed(dataclasses.asdict(config))
    own = tuple(
        f"{what}." for what, part in (("model", parts.model), ("optimizer", parts.tx)) if part
    )
    return {name: fields[name] for name in NUMBERS if fields[name] and not name.startswith(own)}


def learning_rate(config: Config, parts: Parts, num_steps: int) -> Callable[[int], float | None]:
    """Returns a function from the updates so far to the learning rate, None if unknown."""
    fields = config.optimizer
    shape = rate_schedule(fields.schedule, fields.warmup, num_steps) or (lambda _: 1.0)
    if parts.tx is not None:
        return lambda _: None
    return lambda step: fields.learning_rate * float(np.asarray(shape(step)))


def last_checkpoint(
    checkpoints: Path, origin: Origin, *, keeps_best: Any = None
) -> tuple[list[int], Progress]:
    """Returns the intact steps up to the one to resume from, and its progress.

    With `keeps_best`, a function history -> best step, a run without an intact best checkpoint
    resumes before it, and so recreates it. Raises ValueError if `check_same_run` finds another
    run's checkpoints.
    """

    def find() -> tuple[list[int], dict[str, Any]]:
        saved, damaged = check_checkpoints(checkpoints)
        for line in damaged.values():
            warnings.warn(line, stacklevel=2)
        progress = Progress(origin)
        if saved:
            progress = read_progress(checkpoints, saved[-1])
            check_same_run(progress.origin, origin, checkpoints)
        best = keeps_best(progress.history) if saved and keeps_best else None
        if best and best not in saved:
            # An extended run may have lost it: the old last epoch was scheduled, and better.
            saved = [step for step in saved if step < best]
            progress = read_progress(checkpoints, saved[-1]) if saved else Progress(origin)
        return saved, progress.to_json()

    steps, values = from_first(find)
    return steps, Progress.from_json(values)


def initial_state(
    program: Any,
    workdir: Path,
    config: Config,
    saved: list[int],
    progress: Progress,
    origin: Origin,
    *,
    members: bool = False,
) -> Start:
    """Returns a saved state, one made from a trained network, or a freshly initialised one.

    `saved` and `progress` are `last_checkpoint`'s; the origin is this run's, which receives the
    compiled step's hash. `members` is True for a population.

    Raises:
        FileNotFoundError: `init_from` holds no trained network.
        ValueError: a checkpoint is of a different model or code; or `init_from` lies in the
            workdir, does not fit, or lacks a frozen layer.
    """
    frozen = frozen_parameters(program.state.params, config.freeze)
    origin = origin._replace(step_sha256=program.step_sha256)
    messages = _native_advice(origin)
    messages += [f"frozen: {', '.join(frozen)}"] if frozen else []
    if saved:
        check_same_step(progress.origin, origin, workdir / "checkpoints")
    # The origin is this process's, except for the initial network.
    origin = origin._replace(init_sha256=progress.origin.init_sha256)
    progress = progress._replace(origin=origin)
    if saved:
        shapes = jax.eval_shape(program.collect, program.state)
        whole = replicated(create_mesh())
        state = restore_state(workdir / "checkpoints", saved[-1], shapes, whole)
        return Start(program.place(state), saved[-1], progress, [])
    if not config.init_from:
        return Start(program.state, 0, progress, messages)
    source = Path(config.init_from)
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
            f"freeze: {config.freeze!r} would freeze {', '.join(sorted(remade))} at random values: "
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
    """Returns a line about a missing kernel for CPUs; [] if it is present or unused."""
    if "model" in origin.own or not may_use_kernel(origin.config):
        return []
    problem = library.load().problem
    return [f"convolutions are matrix products, which is slower: {problem}"] if problem else []
