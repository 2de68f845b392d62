"""Trains a network: the one place where data, state, steps, checkpoints and history meet."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from mnist_jax import clock
from mnist_jax.checkpoint import (
    open_saver,
    prune,
    read_progress,
    remove_set_aside,
    restore_state,
    restore_variables,
)
from mnist_jax.config import Config
from mnist_jax.datasets import data_info
from mnist_jax.distributed import agreement, check_alike, from_first, is_first
from mnist_jax.extras import require
from mnist_jax.features import drawn
from mnist_jax.finite import check_finite, check_losses
from mnist_jax.hashing import network_sha256
from mnist_jax.history import best_row, write_history, write_json
from mnist_jax.metrics import mean_metrics, total_sums
from mnist_jax.models import create_model
from mnist_jax.optimizer import create_optimizer
from mnist_jax.overfitting import rate_scale, stops_early
from mnist_jax.program import compile_program
from mnist_jax.retention import best_step, kept_steps
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.signals import Stopped, stop_requests
from mnist_jax.state import TrainState
from mnist_jax.task import (
    BEGINNING,
    Row,
    create_task,
    how_to_go_on,
    last_checkpoint,
    progress_bar,
    show_accuracies,
    step_options,
    transferred,
)
from mnist_jax.tensorboard import event_writer, is_finished
from mnist_jax.transfer import frozen_parameters
from mnist_jax.workdir import (
    check_shared,
    delete_leftovers,
    delete_run,
    lock_workdir,
    previous_result,
)

IMPORT_SECONDS = time.perf_counter() - clock.START
PHASES = ("import", "data", "compile", "train", "eval", "checkpoint", "total")

# In TensorBoard's table of hyperparameters; others where they differ from the default.
ALWAYS_SHOWN = ("seed", "epochs", "batch_size", "model.name", "optimizer.learning_rate")


class Run(NamedTuple):
    """A finished training: its last state, a row an epoch, and what result.json holds.

    `result["seconds"]` are those of the process that finished the run. "import" is what it needed
    before its first run, "data" also what training waited for its images, "eval" is validation and
    test, and TensorBoard's pictures, "checkpoint" what training waited for saves.
    """

    state: TrainState
    history: list[Row]
    result: dict[str, Any]


def train(
    config: Config,
    workdir: str | Path,
    *,
    overwrite: bool = False,
    tensorboard: bool = False,
    on_epoch: Callable[[Row], None] | None = None,
) -> Run:
    """Trains a network, or continues the unfinished run in `workdir`; prints a line an epoch.

    On a CPU the same config gives the same bits on the same machine and versions, whatever stopped
    the run in between. SIGINT and SIGTERM stop it at the end of a chunk, with a checkpoint; a
    second one, more than a second later, at once. The test split is used once, at the end.

    Several processes call it alike, with a workdir that all of them see, see `peers.joined`;
    the first one writes there.

    Args:
        config: the recipe.
        workdir: a directory for the results, made where there is none. It receives config.json,
            metrics.jsonl, result.json and checkpoints/.
        overwrite: deletes a run that is in `workdir` and starts anew. Nothing is deleted before the
            new run is known to compile.
        tensorboard: also writes TensorBoard's event files, to tensorboard/ in `workdir`.
        on_epoch: is called with each new row of the history. What it raises ends the run, which can
            be continued.

    Raises:
        ValueError: `workdir` holds a run with another config or other data, or one that cannot be
            read; or the dataset cannot be had or does not fit the config.
        OSError: `workdir` cannot be written, or is in use by another process. What was saved stays.
        FloatingPointError: the loss or a parameter is not finite any more; nothing such is saved.
        Stopped: a signal came; it is a KeyboardInterrupt.
    """
    workdir = Path(workdir)
    if tensorboard:
        require("--tensorboard", "tensorboardX", extra="tensorboard")
    check_alike("options", [dataclasses.asdict(config), overwrite])
    result = from_first(functools.partial(previous_result, workdir, config, overwrite))
    if result:
        check_shared(workdir)
        if (workdir / ".lock").exists():  # of a process that was killed after its last write
            with contextlib.suppress(OSError), lock_workdir(workdir):
                pass
        print(
            f"{workdir} is complete: test accuracy {result['test_accuracy']:.2%}. "
            "--overwrite trains anew, another --workdir beside it."
        )
        run = _complete_run(config, workdir, result)
        if tensorboard and is_first() and not is_finished(workdir / "tensorboard"):
            with lock_workdir(workdir), _event_writer(workdir, run.history, config) as write_events:
                write_events(
                    _test_row(result["steps"], result["test_loss"], result["test_accuracy"])
                )
        return run
    workdir = workdir.absolute()  # wherever the program goes meanwhile
    with lock_workdir(workdir):
        return _train(config, workdir, overwrite, tensorboard, on_epoch)


def _train(
    config: Config,
    workdir: Path,
    overwrite: bool,
    tensorboard: bool,
    on_epoch: Callable[[Row], None] | None,
) -> Run:
    watch = clock.Stopwatch(PHASES)
    watch.seconds["import"] = IMPORT_SECONDS
    checkpoints = workdir / "checkpoints"

    splits, info, origin, num_steps, total_steps, scheduled = create_task(config)
    check_alike("data", origin["data_sha256"])
    num_examples = len(splits["train"].labels)
    saved, progress = [], BEGINNING
    if not overwrite:
        saved, progress = from_first(lambda: _last_checkpoint(checkpoints, origin, scheduled))
    watch.lap("data")

    # Compiling comes before the first write: what does not fit leaves the workdir as it was.
    model = create_model(num_classes=len(info.label_names), **vars(config.model))
    program = compile_program(
        model,
        create_optimizer(**vars(config.optimizer), freeze=config.freeze, num_steps=total_steps),
        splits,
        seed=config.seed,
        batch_size=config.batch_size,
        chunk_steps=config.chunk_steps,
        **step_options(config),
    )
    state = program.state
    frozen = frozen_parameters(state.params, config.freeze)
    if saved:
        check_shared(workdir)
        state = restore_state(checkpoints, saved[-1], state, replicated(create_mesh()))
        origin = progress["origin"] | origin  # with the network that it began from
    elif config.init_from:
        (state,), origin["init_sha256"] = transferred([state], config, workdir)
    watch.lap("compile")

    if overwrite:
        delete_run(workdir)
    delete_leftovers(workdir)
    if overwrite or not (workdir / "config.json").exists():
        write_json(workdir / "config.json", origin["config"])
    check_shared(workdir)
    history, sums = list(progress["history"]), list(progress["sums"])
    write_history(workdir, history)  # without what was written after the checkpoint
    step = int(state.step)
    if step:
        print(f"continuing after step {step} of {total_steps}")
    elif frozen:
        print(f"frozen: {', '.join(frozen)}")
    saved_at = how_to_go_on(total_steps, overwrite)

    with contextlib.ExitStack() as stack:
        saver = stack.enter_context(open_saver(checkpoints, saved))
        write_events = None
        if tensorboard and is_first():
            write_events = stack.enter_context(_event_writer(workdir, history, config))
        requests = stack.enter_context(stop_requests())
        agree = agreement()
        bar = stack.enter_context(progress_bar(step, total_steps))
        watch.lap("checkpoint")
        epoch_started = time.perf_counter() - progress["seconds"]
        input_seconds = progress.get("input_seconds", 0.0)  # older checkpoints have none
        scale = _rate_scale(history, config)
        last_step = step if stops_early(history, config.watch.patience) else total_steps
        watch.lap("train")
        chunks = stack.enter_context(contextlib.closing(program.train_chunks(step, last_step)))
        for chunk in chunks:
            input_seconds += watch.lap("data")
            state, chunk_sums = program.run_chunk(state, chunk, scale)
            # Waits for the chunk before: the device always has one to go on with.
            if sums:
                check_losses(sums[-1], step, num_steps)
            sums.append(chunk_sums)
            step += len(chunk["label"])
            show_accuracies(bar, history, sums)
            bar.update(len(chunk["label"]))

            ends_epoch = step % num_steps == 0
            stop_signal = agree(max(requests, default=0))
            saves = stop_signal or scheduled(step)
            if not ends_epoch and not saves:
                watch.lap("train")
                continue
            check_losses(chunk_sums, step, num_steps)
            watch.lap("train")
            if ends_epoch:
                trained = mean_metrics(sums)
                val = program.measure(state, "validation")
                seconds = time.perf_counter() - epoch_started
                history.append(
                    {
                        "epoch": step // num_steps,
                        "step": step,
                        "train_loss": trained["loss"],
                        "train_accuracy": trained["accuracy"],
                        "val_loss": val["loss"],
                        "val_accuracy": val["accuracy"],
                        # Training accuracy is that of the epoch's own steps, with dropout and
                        # augmentation, so the gap may be negative.
                        "generalization_gap": trained["accuracy"] - val["accuracy"],
                        "seconds": seconds,
                        "input_seconds": input_seconds,
                        "examples_per_second": num_examples / seconds,
                    }
                )
                sums, epoch_started, input_seconds = [], time.perf_counter(), 0.0
                watch.lap("eval")
                check_finite({"val_loss": val["loss"]}, step, num_steps)
            # The losses are from before each update: of the last one they say nothing.
            check_finite(state, step, num_steps)
            if ends_epoch:
                streams = config.data.loader == "stream"
                bar.write(_epoch_line(history[-1], config.epochs, streams=streams))
                write_history(workdir, history)
                if write_events:
                    example = splits["validation"].images[np.arange(1)][0]
                    variables = jax.device_get(state.eval_variables)
                    write_events(history[-1], drawn(model, variables, example))
                    epoch_started = time.perf_counter()  # the pictures are not the next epoch's
                    watch.lap("eval")
            if saves:
                saver.wait()
                prune(checkpoints, kept_steps(saved, history, scheduled))
                progress = {
                    "history": history,
                    "sums": [total_sums(sums)] if sums else [],
                    "seconds": time.perf_counter() - epoch_started,
                    "input_seconds": input_seconds,
                    "origin": origin,
                }
                saver.save(state, progress)
                saved.append(step)
            if stop_signal:
                saver.wait()
                raise Stopped(stop_signal, saved_at.format(step), agreed=True)
            watch.lap("checkpoint")
            if ends_epoch:
                if on_epoch:
                    on_epoch(history[-1])
                if stops_early(history, config.watch.patience):
                    break
                if scale != _rate_scale(history, config) and step < total_steps:
                    scale = _rate_scale(history, config)
                    bar.write(f"a plateau: from here on the learning rate times {scale:.3g}")
            watch.lap("train")

        saver.wait()
        watch.lap("checkpoint")
        best = best_step(history, scheduled)
        if config.watch.patience and best:
            state = restore_state(checkpoints, best, state, replicated(create_mesh()))
            watch.lap("checkpoint")
        test = program.measure(state, "test")
        watch.lap("eval")
        prune(checkpoints, kept_steps(saved, history, scheduled))
        watch.lap("checkpoint")
        stop_signal = agree(max(requests, default=0)) or agree(0)
        if stop_signal:
            raise Stopped(stop_signal, saved_at.format(step), agreed=True)
        if write_events:
            write_events(_test_row(step, test["loss"], test["accuracy"]))

    watch.seconds["total"] = sum(watch.seconds.values())
    measured = history[-1] if not config.watch.patience else best_row(history)
    result = {
        "test_loss": test["loss"],
        "test_accuracy": test["accuracy"],
        "val_accuracy": measured["val_accuracy"],
        "best_step": best,
        "steps": step,
        "params_sha256": network_sha256(state.eval_variables),
        **{name: sha for name, sha in origin.items() if name.endswith("_sha256")},
        "seconds": watch.seconds,
        **origin["environment"],
    }
    write_json(workdir / "result.json", result)
    remove_set_aside(checkpoints)
    if step < total_steps:
        print(f"stopped after epoch {history[-1]['epoch']}; the best was epoch {measured['epoch']}")
    print(
        f"test loss {test['loss']:.4f}  accuracy {test['accuracy']:.2%} of "
        f"{len(splits['test'].labels):,} images"
    )
    return Run(state, history, result)


def _rate_scale(history: list[Row], config: Config) -> float:
    return rate_scale(history, config.watch.plateau_patience, config.watch.plateau_factor)


def _last_checkpoint(
    checkpoints: Path, origin: dict[str, Any], scheduled: Callable[[int], bool]
) -> tuple[list[int], dict[str, Any]]:
    """Returns the sound steps up to the one to go on from, and the progress that it has saved.

    Where the best checkpoint is damaged, that is the one before it, so that it is made again.
    """
    saved, damaged, progress = last_checkpoint(checkpoints, origin)
    best = best_step(progress["history"], scheduled)
    if best not in damaged:
        return saved, progress
    before = [step for step in saved if step < best]
    return before, read_progress(checkpoints, before[-1]) if before else BEGINNING


def _complete_run(config: Config, workdir: Path, result: dict[str, Any]) -> Run:
    """Loads a run that has its result; neither data nor compilation is needed."""
    checkpoints, last_step = workdir / "checkpoints", result["steps"]
    history = read_progress(checkpoints, last_step)["history"]
    step = result["best_step"] if config.watch.patience else last_step
    total_steps = last_step // len(history) * config.epochs  # it may have stopped early
    sharding = replicated(create_mesh())
    info = data_info(read_progress(checkpoints, step)["origin"]["data"])
    tx = create_optimizer(**vars(config.optimizer), freeze=config.freeze, num_steps=total_steps)
    variables = restore_variables(checkpoints, step, sharding)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        apply_fn=create_model(num_classes=len(info.label_names), **vars(config.model)).apply,
        params=variables["params"],
        tx=tx,
        opt_state=jax.eval_shape(tx.init, variables["params"]),
        batch_stats=variables.get("batch_stats", {}),
        average=variables if config.ema_decay else {},
    )
    state = restore_state(checkpoints, step, state, sharding)
    return Run(state, history, result)


def _event_writer(workdir: Path, history: list[Row], config: Config) -> Any:
    default, values = (
        flatten_dict(dataclasses.asdict(recipe), sep=".") for recipe in (Config(), config)
    )
    chosen = {
        name: value
        for name, value in values.items()
        if name in ALWAYS_SHOWN or value != default[name]
    }
    return event_writer(workdir / "tensorboard", history, chosen)


def _test_row(step: int, loss: float, accuracy: float) -> Row:
    return {"step": step, "test_loss": loss, "test_accuracy": accuracy}


def _epoch_line(row: Row, epochs: int, *, streams: bool) -> str:
    width = int(math.log10(epochs)) + 1
    return (
        f"epoch {row['epoch']:{width}}/{epochs}  "
        f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.2%}  "
        f"validation loss {row['val_loss']:.4f} accuracy {row['val_accuracy']:.2%}  "
        f"{row['seconds']:.1f} s, {row['examples_per_second']:,.0f} images/s"
        + (f", waited {row['input_seconds']:.2f} s for images" if streams else "")
    )
