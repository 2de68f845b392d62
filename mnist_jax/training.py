"""A training: the loop with its data, program and rules, files and listeners."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from mnist_jax import clock, program, rng
from mnist_jax.config import Config
from mnist_jax.events import Begin, Done, Epoch, Event, Failed, Listener, Save, Stop
from mnist_jax.loop import training_events
from mnist_jax.parts import OwnMetrics, OwnModel, OwnOptimizer, Parts
from mnist_jax.processes.distributed import agreement, check_alike, from_first
from mnist_jax.processes.signals import Stopped, stop_requests
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.start import create_task, finished_parts, initial_state, last_checkpoint
from mnist_jax.state import TrainState, count_params, create_train_state
from mnist_jax.steps import LossFn
from mnist_jax.table import run_table
from mnist_jax.workdir import checkpoint
from mnist_jax.workdir.files import write_json
from mnist_jax.workdir.history import Progress, Row, best_row, holds_history, write_history
from mnist_jax.workdir.lock import lock_workdir
from mnist_jax.workdir.run import (
    Result,
    check_shared,
    checked_workdir,
    create_result,
    delete_leftovers,
    delete_result,
    delete_run,
    previous_result,
    read_config,
)

PHASES = ("import", "data", "compile", "train", "eval", "checkpoint", "total")


class Run(NamedTuple):
    """A finished training: its last state, a row per epoch, and the content of result.json.

    `result["seconds"]` belongs to the process that finished the run: "data" is loading and waiting
    for images, "eval" validation, test and listeners of an epoch, "checkpoint" waiting for saves.
    """

    state: TrainState
    history: Sequence[Row]
    result: Result

    def __repr__(self) -> str:
        accuracies = (f"{name} {value:.2%}" for name, value in self._accuracies().items())
        steps = f"{len(self.history)} epochs, {self.result['steps']} steps"
        return f"Run({steps}, {', '.join(accuracies)})"

    def _repr_html_(self) -> str:
        """Draws the accuracies for a notebook."""
        return run_table(self._accuracies(), self.history)

    def _accuracies(self) -> dict[str, float]:
        found = {
            "validation accuracy": self.result["val_accuracy"],
            "test accuracy": self.result["test_accuracy"],
        }
        return {name: value for name, value in found.items() if value is not None}


def train(
    config: Config,
    workdir: str | Path,
    *,
    model: OwnModel = None,
    tx: OwnOptimizer = None,
    loss_fn: LossFn | None = None,
    splits: Any = None,
    metrics: OwnMetrics = None,
    test: bool = True,
    overwrite: bool = False,
    extend: bool = False,
    listeners: Sequence[Listener] = (),
) -> Run:
    """Trains a network, or resumes the unfinished run in `workdir`.

    On one CPU machine with the same versions, a config always gives the same bits, even if the run
    is interrupted. SIGINT and SIGTERM stop it after a chunk, with a checkpoint; a second one, over
    a second later, at once. The test split is measured once, at the end.

    In a job of several processes (`processes.group`), all call it with the same arguments and
    share the workdir, where the first one writes.

    Args:
        config: recipe.
        workdir: directory of config.json, metrics.jsonl, result.json and checkpoints/, created if
            missing.
        model: Linen module from images [B, H, W, C] to logits [B, num_classes] in place of the
            config's, see `forward.Forward`; or a function from `DataInfo` to one.
        tx: Optax transformation in place of the config's; or a function from the number of steps
            in all epochs to one.
        loss_fn: function of logits [B, num_classes] and labels [B] to losses [B], in place of the
            cross-entropy. An argument named `params` receives the parameters.
        splits: data in place of the config's: {"train": (images, labels), ...}, or another form of
            `datasets.load_splits`.
        metrics: functions like `loss_fn`, by name. Their means are `train_NAME` and `val_NAME` in
            the history, and `test_NAME` in the result.
        test: False to leave out the test split; a later call with True measures it.
        overwrite: True to delete the run in `workdir`, once the new one compiles, and retrain.
        extend: True to continue the run in `workdir` to a larger `config.epochs`, with the bits of
            one long run. The learning rate must be constant, except for plateaus.
        listeners: functions that receive the `events`, such as `console()`. An exception in one
            ends the run, which can be resumed.

    Raises:
        ValueError: `workdir` holds an unreadable run, one with a different config, data, model,
            optimizer or loss, or one that cannot be extended; or the dataset is unavailable or does
            not fit the config.
        OSError: `workdir` is not writable, or in use. Saved steps stay.
        FloatingPointError: the loss or a parameter is not finite; no such state is saved.
        Stopped: a signal arrived; it is a KeyboardInterrupt.
    """
    workdir = checked_workdir(config, workdir)
    if overwrite and extend:
        raise ValueError("--extend continues the run that --overwrite deletes: give only one")
    check_alike("options", [dataclasses.asdict(config), test, overwrite, extend])
    parts = Parts(model, tx, loss_fn, splits, metrics)
    result = from_first(
        functools.partial(previous_result, workdir, config, overwrite, extend, test)
    )
    with telling(listeners) as tell:
        if result:
            check_shared(workdir)
            run = _complete_run(config, workdir, parts, result)
            is_whole = from_first(functools.partial(holds_history, workdir, run.history))
            # A process killed after its last write leaves a lock.
            if not is_whole or (workdir / ".lock").exists():
                with contextlib.suppress(OSError), lock_workdir(workdir):
                    if not is_whole:
                        write_history(workdir, run.history)
            tell(Done(workdir, result, run.history, trained=False))
        else:
            absolute = workdir.absolute()  # a listener may change the directory
            with resumable(absolute, overwrite), lock_workdir(absolute):
                run = _train(config, absolute, parts, tell, test=test, overwrite=overwrite)
                tell(Done(absolute, run.result, run.history))
    return run


@contextlib.contextmanager
def telling(listeners: Sequence[Listener]) -> Iterator[Listener]:
    """Yields a function that passes events to all listeners; passes exceptions as `Failed`."""
    if callable(listeners) or not all(map(callable, listeners)):
        raise ValueError(
            f"listeners must be a list of functions, such as [console()], got {listeners!r}"
        )

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    try:
        yield tell
    except BaseException as error:
        for listener in listeners:
            with contextlib.suppress(Exception):  # the first error matters
                listener(Failed(error))
        raise


@contextlib.contextmanager
def resumable(workdir: Path, overwrite: bool) -> Iterator[None]:
    """Adds the way to resume to an OSError, if there is a checkpoint."""
    try:
        yield
    except OSError as error:
        if error.errno and checkpoint.listed(workdir / "checkpoints"):
            error.add_note(f"saved steps stay; to resume, run {_again(overwrite)}")
        raise


def _again(overwrite: bool) -> str:
    return f"the same command again{' without --overwrite' if overwrite else ''}"


def _train(
    config: Config, workdir: Path, parts: Parts, tell: Listener, *, test: bool, overwrite: bool
) -> Run:
    stopwatch = clock.Stopwatch(PHASES)
    stopwatch.seconds["import"] = clock.IMPORT_SECONDS
    checkpoints = workdir / "checkpoints"

    task = create_task(config, parts)
    check_alike("data", task.origin.data_sha256)
    saved, progress = [], Progress(task.origin)
    if not overwrite:
        saved, progress = last_checkpoint(checkpoints, task.origin, keeps_best=task.rules.best_step)
    stopwatch.lap("data")

    # Compile before the first write: an error leaves the workdir as it was.
    compiled = program.compile_training(task.build, task.numbers, task.splits, **task.layout)
    if saved:
        check_shared(workdir)
    start = initial_state(compiled, workdir, config, saved, progress, task.origin)
    history = start.progress.history
    stopwatch.lap("compile")

    make_ready(workdir, config, history, overwrite)
    rules, total_steps = task.rules, task.rules.total_steps
    begin = Begin(
        config,
        workdir,
        task.build({}).model,
        count_params(start.state.params),
        task.splits,
        start.step,
        total_steps,
        history,
        start.messages,
    )
    with checkpoint.open_saver(checkpoints, saved) as saver, stop_requests() as requests:
        agree = agreement()

        def stop_signal() -> int:
            return agree(max(requests, default=0))

        tell(begin)
        stopwatch.lap("checkpoint")
        events = training_events(
            compiled, rules, start, stop_signal=stop_signal, stopwatch=stopwatch
        )
        end = follow(events, workdir, saver, saved, rules.kept_steps, tell)
        if end.signum:
            raise stopped(end, total_steps, overwrite)
        stopwatch.lap("checkpoint")
        best, state = rules.best_step(end.history), end.state
        if config.watch.patience and best:
            state = checkpoint.restore_state(checkpoints, best, state, replicated(create_mesh()))
            stopwatch.lap("checkpoint")
        tested = compiled.measure(state, "test") if test and "test" in task.splits else None
        stopwatch.lap("eval")
        checkpoint.prune(checkpoints, rules.kept_steps(saved, end.history))
        stopwatch.lap("checkpoint")
        signum = stop_signal() or agree(0)
        if signum:
            raise stopped(end._replace(signum=signum), total_steps, overwrite)

    stopwatch.seconds["total"] = sum(stopwatch.seconds.values())
    measured = best_row(end.history, rules.monitor) if config.watch.patience else end.history[-1]
    result = create_result(
        state.eval_variables,
        tested,
        measured,
        guessing=task.guessing,
        best_step=best,
        steps=end.step,
        origin=start.progress.origin,
        seconds=stopwatch.seconds,
    )
    write_json(workdir / "result.json", result)
    checkpoint.remove_set_aside(checkpoints)
    return Run(state, [*end.history], result)


def make_ready(workdir: Path, config: Config, history: Sequence[Row], overwrite: bool) -> None:
    """Resets the directory to the last checkpoint, or empties it with `overwrite`.

    An extended run loses its result before its config changes, so the same command extends it if
    killed in between.
    """
    if overwrite:
        delete_run(workdir)
    delete_leftovers(workdir)
    previous = None if overwrite else read_config(workdir)
    if previous not in (None, config):
        delete_result(workdir)
    if previous != config:
        write_json(workdir / "config.json", dataclasses.asdict(config))
    check_shared(workdir)
    write_history(workdir, history)  # without the rows after the checkpoint


def follow(
    events: Generator[Event],
    workdir: Path,
    saver: checkpoint.Saver,
    saved: list[int],
    keep: Callable[[list[int], Sequence[Row]], set[int]],
    tell: Listener,
) -> Stop:
    """Writes the events of the loop to the workdir, then passes them to `tell`.

    Adds to the `saved` steps, and deletes those that `keep`, (saved, history) -> steps, omits.
    Returns the last event when all saves are complete.
    """
    with contextlib.closing(events):  # and the chunks, whatever a listener raises
        for event in events:
            match event:
                case Save(step, state, progress):
                    saver.wait()
                    checkpoint.prune(workdir / "checkpoints", keep(saved, progress.history))
                    saver.save(state, progress)
                    saved.append(step)
                case Epoch():
                    write_history(workdir, event.history)
                case Stop():
                    saver.wait()
            tell(event)
            if isinstance(event, Stop):
                return event
    raise AssertionError("a loop ends with Stop")


def stopped(end: Stop, total_steps: int, overwrite: bool) -> Stopped:
    """Returns the error of a training stopped by a signal, after a save."""
    where = f" at step {end.step} of {total_steps} (saved); to resume, run {_again(overwrite)}"
    return Stopped(end.signum, where, agreed=True)


def _complete_run(config: Config, workdir: Path, parts: Parts, result: Result) -> Run:
    """Loads a finished run, without data or compilation."""
    checkpoints, last_step = workdir / "checkpoints", result["steps"]
    history = checkpoint.read_progress(checkpoints, last_step).history
    step: Any = result["best_step"] if config.watch.patience else last_step
    total_steps = last_step // len(history) * config.epochs  # it may have stopped early
    model, tx, info = finished_parts(workdir, config, parts, step, total_steps)
    make = functools.partial(
        create_train_state, model, tx, image_shape=info.image_shape, averaged=config.ema_decay > 0
    )
    shapes = jax.eval_shape(make, rng.stream(config.seed, "init"))
    state = checkpoint.restore_state(checkpoints, step, shapes, replicated(create_mesh()))
    return Run(state, history, result)
