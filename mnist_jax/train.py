"""Trains a network: the one place where data, state, steps, checkpoints and history meet."""

import contextlib
import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.training.train_state import TrainState
from tqdm import tqdm

from mnist_jax import clock
from mnist_jax.checkpoint import (
    check_checkpoints,
    open_saver,
    prune,
    read_progress,
    remove_set_aside,
    restore_params,
    restore_state,
)
from mnist_jax.config import Config
from mnist_jax.datasets import check_labels, load_splits
from mnist_jax.environment import environment
from mnist_jax.finite import check_finite, check_losses
from mnist_jax.hashing import tree_sha256
from mnist_jax.history import write_history, write_json
from mnist_jax.loader import steps_per_epoch
from mnist_jax.metrics import mean_metrics, total_sums
from mnist_jax.model import create_model
from mnist_jax.optimizer import create_optimizer
from mnist_jax.program import compile_program
from mnist_jax.retention import best_step, is_scheduled, kept_steps
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.signals import Stopped, stop_requests
from mnist_jax.tensorboard import event_writer, require_tensorboard
from mnist_jax.workdir import (
    check_same_run,
    delete_leftovers,
    delete_run,
    lock_workdir,
    previous_result,
)

IMPORT_SECONDS = time.perf_counter() - clock.START
PHASES = ("import", "data", "compile", "train", "eval", "checkpoint", "total")


# Of a run: the rows of its epochs; of an unfinished epoch, the sums and the seconds.
BEGINNING = {"history": [], "sums": [], "seconds": 0.0}


class Run(NamedTuple):
    """A finished training: its last state, a row an epoch, and what result.json holds.

    `result["seconds"]` are those of the process that finished the run. "import" is what it needed
    before its first run, "eval" is validation and test, "checkpoint" is what training waited for.
    """

    state: TrainState
    history: list[dict[str, Any]]
    result: dict[str, Any]


def train(
    config: Config, workdir: str | Path, *, overwrite: bool = False, tensorboard: bool = False
) -> Run:
    """Trains a network, or continues the unfinished run in `workdir`; prints a line an epoch.

    On a CPU the same config gives the same bits on the same machine and versions, whatever stopped
    the run in between. SIGINT and SIGTERM stop it at the end of a chunk, with a checkpoint; a
    second one at once. The test split is used once, at the end.

    Args:
        config: the recipe.
        workdir: a directory for the results, made where there is none. It receives config.json,
            metrics.jsonl, result.json and checkpoints/.
        overwrite: deletes a run that is in `workdir` and starts anew. Nothing is deleted before the
            new run is known to compile.
        tensorboard: also writes TensorBoard's event files, to tensorboard/ in `workdir`.

    Raises:
        ValueError: `workdir` holds a run with another config or other data, or one that cannot be
            read; or the dataset cannot be had or does not fit the config.
        OSError: `workdir` cannot be written, or is in use by another process. What was saved stays.
        FloatingPointError: the loss or a parameter is not finite any more; nothing such is saved.
        Stopped: a signal came; it is a KeyboardInterrupt.
    """
    workdir = Path(workdir)
    if tensorboard:
        require_tensorboard()
    result = previous_result(workdir, config, overwrite)
    if result:
        if (workdir / ".lock").exists():  # of a process that was killed after its last write
            with contextlib.suppress(OSError), lock_workdir(workdir):
                pass
        print(
            f"{workdir} is complete: test accuracy {result['test_accuracy']:.2%}. "
            "--overwrite trains anew, another --workdir beside it."
        )
        run = _complete_run(config, workdir, result)
        if tensorboard:
            with event_writer(workdir / "tensorboard", run.history):
                pass  # the rows are written
        return run
    workdir = workdir.absolute()  # wherever the program goes meanwhile
    with lock_workdir(workdir):
        return _train(config, workdir, overwrite, tensorboard)


def _train(config: Config, workdir: Path, overwrite: bool, tensorboard: bool) -> Run:
    watch = clock.Stopwatch(PHASES)
    watch.seconds["import"] = IMPORT_SECONDS
    checkpoints = workdir / "checkpoints"

    splits = load_splits(**vars(config.data))
    check_labels(splits, config.model.num_classes)
    # What a checkpoint must have been made of, for this run to go on from it.
    origin = {
        "config": dataclasses.asdict(config),
        "data_sha256": tree_sha256({name: split._asdict() for name, split in splits.items()}),
        "environment": environment(),
    }
    num_steps = steps_per_epoch(len(splits["train"].labels), config.batch_size)
    total_steps = config.epochs * num_steps
    if total_steps >= 2**31:
        raise ValueError(f"epochs must make fewer than 2**31 steps, got {total_steps:,}")
    scheduled = functools.partial(
        is_scheduled,
        epochs=config.epochs,
        steps_per_epoch=num_steps,
        chunk_steps=config.chunk_steps,
        **vars(config.checkpoint),
    )
    saved, progress = [], BEGINNING
    if not overwrite:
        saved, progress = _last_checkpoint(checkpoints, origin, scheduled)
    watch.lap("data")

    # Compiling comes before the first write: what does not fit leaves the workdir as it was.
    program = compile_program(
        create_model(**vars(config.model)),
        create_optimizer(**vars(config.optimizer), num_steps=total_steps),
        splits,
        seed=config.seed,
        batch_size=config.batch_size,
        chunk_steps=config.chunk_steps,
    )
    state = program.state
    watch.lap("compile")

    if saved:
        state = restore_state(checkpoints, saved[-1], state, replicated(create_mesh()))
    if overwrite:
        delete_run(workdir)
    delete_leftovers(workdir)
    if overwrite or not (workdir / "config.json").exists():
        write_json(workdir / "config.json", origin["config"])
    history, sums = list(progress["history"]), list(progress["sums"])
    write_history(workdir, history)  # without what was written after the checkpoint
    step = int(state.step)
    if step:
        print(f"continuing after step {step} of {total_steps}")
    again = f"the same command again{', without --overwrite,' if overwrite else ''}"
    saved_at = f" after step {{}} of {total_steps}, which is saved; run {again} to go on"

    with contextlib.ExitStack() as stack:
        saver = stack.enter_context(open_saver(checkpoints, saved))
        write_events = None
        if tensorboard:
            write_events = stack.enter_context(event_writer(workdir / "tensorboard", history))
        requests = stack.enter_context(stop_requests())
        bar = stack.enter_context(
            tqdm(
                total=total_steps,
                initial=step,
                desc="training",
                unit="step",
                leave=False,
                disable=None,
            )
        )
        watch.lap("checkpoint")
        epoch_started = time.perf_counter() - progress["seconds"]
        for chunk in program.train_chunks(step, total_steps):
            state, chunk_sums = program.run_chunk(state, chunk)
            # Waits for the chunk before: the device always has one to go on with.
            if sums:
                check_losses(sums[-1], step, num_steps)
            sums.append(chunk_sums)
            step += len(chunk["label"])
            bar.update(len(chunk["label"]))

            ends_epoch = step % num_steps == 0
            stops = bool(requests)
            saves = stops or scheduled(step)
            if not ends_epoch and not saves:
                continue
            check_losses(chunk_sums, step, num_steps)
            watch.lap("train")
            if ends_epoch:
                trained = mean_metrics(sums)
                val = program.measure(state.params, "validation")
                seconds = time.perf_counter() - epoch_started
                history.append(
                    {
                        "epoch": step // num_steps,
                        "step": step,
                        "train_loss": trained["loss"],
                        "train_accuracy": trained["accuracy"],
                        "val_loss": val["loss"],
                        "val_accuracy": val["accuracy"],
                        "seconds": seconds,
                        "examples_per_second": len(splits["train"].labels) / seconds,
                    }
                )
                sums, epoch_started = [], time.perf_counter()
                watch.lap("eval")
                check_finite({"val_loss": val["loss"]}, step, num_steps)
            # The losses are from before each update: of the last one they say nothing.
            check_finite({"params": state.params, "opt_state": state.opt_state}, step, num_steps)
            if ends_epoch:
                bar.write(_epoch_line(history[-1], config.epochs))
                write_history(workdir, history)
                if write_events:
                    write_events(history[-1])
            if saves:
                saver.wait()
                prune(checkpoints, kept_steps(saved, history, scheduled))
                progress = {
                    "history": history,
                    "sums": [total_sums(sums)] if sums else [],
                    "seconds": time.perf_counter() - epoch_started,
                    "origin": origin,
                }
                saver.save(state, progress)
                saved.append(step)
            if stops:
                saver.wait()
                raise Stopped(requests[0], saved_at.format(step))
            watch.lap("checkpoint")

        test = program.measure(state.params, "test")
        watch.lap("eval")
        saver.wait()
        prune(checkpoints, kept_steps(saved, history, scheduled))
        watch.lap("checkpoint")
        if requests:
            raise Stopped(requests[0], saved_at.format(step))

    watch.seconds["total"] = sum(watch.seconds.values())
    result = {
        "test_loss": test["loss"],
        "test_accuracy": test["accuracy"],
        "val_accuracy": history[-1]["val_accuracy"],
        "best_step": best_step(history, scheduled),
        "steps": step,
        "params_sha256": tree_sha256(state.params),
        "data_sha256": origin["data_sha256"],
        "seconds": watch.seconds,
        **origin["environment"],
    }
    write_json(workdir / "result.json", result)
    remove_set_aside(checkpoints)
    print(
        f"test loss {test['loss']:.4f}  accuracy {test['accuracy']:.2%} of "
        f"{len(splits['test'].labels):,} images  ({watch.seconds['total']:.1f} s; see {workdir})"
    )
    return Run(state, history, result)


def _last_checkpoint(
    checkpoints: Path, origin: dict[str, Any], scheduled: Callable[[int], bool]
) -> tuple[list[int], dict[str, Any]]:
    """Returns the sound steps up to the one to go on from, and the progress that it has saved.

    Where the best checkpoint is damaged, that is the one before it, so that it is made again.
    """
    saved, damaged = check_checkpoints(checkpoints)
    for line in damaged.values():
        warnings.warn(line, stacklevel=4)
    if not saved:
        return [], BEGINNING
    progress = read_progress(checkpoints, saved[-1])
    check_same_run(progress["origin"], origin, checkpoints)
    best = best_step(progress["history"], scheduled)
    if best not in damaged:
        return saved, progress
    before = [step for step in saved if step < best]
    return before, read_progress(checkpoints, before[-1]) if before else BEGINNING


def _complete_run(config: Config, workdir: Path, result: dict[str, Any]) -> Run:
    """Loads a run that has its result; neither data nor compilation is needed."""
    checkpoints, step = workdir / "checkpoints", result["steps"]
    sharding = replicated(create_mesh())
    tx = create_optimizer(**vars(config.optimizer), num_steps=step)
    params = restore_params(checkpoints, step, sharding)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        apply_fn=create_model(**vars(config.model)).apply,
        params=params,
        tx=tx,
        opt_state=jax.eval_shape(tx.init, params),
    )
    state = restore_state(checkpoints, step, state, sharding)
    return Run(state, read_progress(checkpoints, step)["history"], result)


def _epoch_line(row: dict[str, Any], epochs: int) -> str:
    width = int(math.log10(epochs)) + 1
    return (
        f"epoch {row['epoch']:{width}}/{epochs}  "
        f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.2%}  "
        f"validation loss {row['val_loss']:.4f} accuracy {row['val_accuracy']:.2%}  "
        f"{row['seconds']:.1f} s, {row['examples_per_second']:,.0f} images/s"
    )
