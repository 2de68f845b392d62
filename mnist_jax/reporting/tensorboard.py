"""A training as TensorBoard's event files, written by tensorboardX, without TensorFlow."""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mnist_jax.config import Config, completed
from mnist_jax.events import Begin, Done, Epoch, Event, Listener
from mnist_jax.machine.extras import require
from mnist_jax.processes.distributed import is_first
from mnist_jax.reporting.filters import drawn
from mnist_jax.workdir.history import Row
from mnist_jax.workdir.lock import lock_workdir
from mnist_jax.workdir.run import is_tested, read_config

NOT_PLOTTED = ("epoch", "step")
# TensorBoard groups curves by what stands before the slash.
GROUPS = {
    "accuracy": ("train_accuracy", "val_accuracy", "test_accuracy", "generalization_gap"),
    "loss": ("train_loss", "val_loss", "test_loss"),
    "optimizer": ("learning_rate", "gradient_norm"),
    "time": ("seconds", "input_seconds", "examples_per_second"),
}
TAGS = {name: f"{group}/{name}" for group, names in GROUPS.items() for name in names}
# In the table of hyperparameters; others where they differ from the default.
ALWAYS_SHOWN = ("seed", "epochs", "batch_size", "model.name", "optimizer.learning_rate")
WIDTH = 400  # pixels, at least: filters of 3x3 are to be seen


@contextlib.contextmanager
def tensorboard(workdir: str | Path) -> Iterator[Listener]:
    """Yields a listener that writes the training in `workdir` to its directory tensorboard/.

    A run that was complete before gets its curves, too, where they are missing.

    Raises ValueError where tensorboardX is not installed.
    """
    require("--tensorboard", "tensorboardX", extra="tensorboard")
    directory = Path(workdir).absolute() / "tensorboard"
    with contextlib.ExitStack() as stack:
        begin: Any = None
        write: Any = None

        def record(event: Event) -> None:
            nonlocal begin, write
            match event:
                case Begin():
                    begin = event
                    shown = hyperparameters(event.config)
                    write = stack.enter_context(event_writer(directory, event.history, shown))
                case Epoch(row, state):
                    example = begin.splits["validation"].images[np.arange(1)][0]
                    write(row, drawn(begin.model, jax.device_get(state.eval_variables), example))
                case Done(trained=True):
                    if is_tested(event.result):
                        write(_test_row(event.result))
                case Done() if not is_finished(directory, tested=is_tested(event.result)):
                    shown = hyperparameters(read_config(event.workdir) or Config())
                    with (
                        lock_workdir(event.workdir),
                        event_writer(directory, event.history, shown) as write_missing,
                    ):
                        if is_tested(event.result):
                            write_missing(_test_row(event.result))

        yield record if is_first() else lambda _: None


def hyperparameters(config: Config) -> dict[str, Any]:
    """Returns the fields of a config that tell a run from others, by name."""
    defaults, values = completed({}), completed(dataclasses.asdict(config))
    chosen = (name for name in values if name in ALWAYS_SHOWN or values[name] != defaults[name])
    return {name: values[name] for name in chosen}


def _test_row(result: dict[str, Any]) -> dict[str, Any]:
    names = {"steps": "step", "test_loss": "test_loss", "test_accuracy": "test_accuracy"}
    return {name: result[of] for of, name in names.items()}


def is_finished(directory: Path, *, tested: bool = True) -> bool:
    """Tells whether a directory has the event file of a finished run: a tested one's ends so."""
    files = sorted(directory.glob("events*"))
    tag = TAGS["test_accuracy"].encode()
    return bool(files) and (not tested or tag in files[-1].read_bytes()[-100:])


@contextlib.contextmanager
def event_writer(
    directory: Path, history: Sequence[Row], hyperparameters: dict[str, Any]
) -> Iterator[Callable[..., None]]:
    """Yields a function that appends the numbers of a row, and pictures, under the row's step.

    It begins with one file of the rows so far in place of what was in the directory, so that a run
    which was stopped has each step once, in order. Their pictures are then gone, and their time is
    that of writing.

    Args:
        directory: for the event files; what it held is deleted.
        history: a row an epoch, so far.
        hyperparameters: numbers, strings and booleans by name, for the table of that name.

    Yields:
        write(row, pictures): pictures are uint8 [H, W, C] by name, C = 1 or 3; they may be missing.

    Raises:
        OSError: the directory cannot be written to.
    """
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore (made at run time)
    from tensorboardX.summary import hparams, image, scalar

    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    # Not SummaryWriter: its errors, such as that of a full disk, end in a thread of its own.
    events = EventsWriter(str(directory / "events"))

    def write(row: Mapping[str, Any], pictures: dict[str, np.ndarray] | None = None) -> None:
        summaries = [
            scalar(TAGS.get(name, name), row[name])
            for name in row
            if name not in NOT_PLOTTED and row[name] is not None
        ]
        for name, picture in (pictures or {}).items():
            times = -(-WIDTH // picture.shape[1])
            enlarged = picture.repeat(times, axis=0).repeat(times, axis=1)
            summaries.append(image(name, enlarged, dataformats="HWC"))
        for summary in summaries:
            events.write_event(Event(wall_time=time.time(), step=row["step"], summary=summary))
        events.flush()

    measures = {TAGS[name]: None for name in ("val_accuracy", "test_accuracy")}
    for summary in hparams(hyperparameters, measures):
        events.write_event(Event(wall_time=time.time(), step=0, summary=summary))
    for row in history:
        write(row)
    try:
        yield write
    finally:
        events.close()
