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
from mnist_jax.events import Begin, Done, Epoch, Event, Failed, Listener
from mnist_jax.machine.extras import require
from mnist_jax.processes.distributed import is_first
from mnist_jax.reporting.filters import drawn
from mnist_jax.workdir.history import Row
from mnist_jax.workdir.lock import lock_workdir
from mnist_jax.workdir.run import is_tested, read_config

NOT_PLOTTED = ("epoch", "step")
GROUPS = {
    "generalization_gap": "accuracy",
    "learning_rate": "optimizer",
    "gradient_norm": "optimizer",
}
# In the table of hyperparameters; others where they differ from the default.
ALWAYS_SHOWN = ("seed", "epochs", "batch_size", "model.name", "optimizer.learning_rate")
WIDTH = 400  # pixels, at least: filters of 3x3 are to be seen


def tensorboard(workdir: str | Path) -> Listener:
    """Returns a listener that writes the training in `workdir` to its directory tensorboard/.

    A run that was complete before gets its curves, too, where they are missing.

    Raises ValueError where tensorboardX is not installed.
    """
    require("--tensorboard", "tensorboardX", extra="tensorboard")
    directory = Path(workdir).absolute() / "tensorboard"
    begin: Any = None
    write: Any = None
    stack = contextlib.ExitStack()

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
        if isinstance(event, Done | Failed):
            stack.close()

    return record if is_first() else lambda _: None


def hyperparameters(config: Config) -> dict[str, Any]:
    """Returns the fields of a config that tell a run from others, by name."""
    defaults, values = completed({}), completed(dataclasses.asdict(config))
    chosen = (name for name in values if name in ALWAYS_SHOWN or values[name] != defaults[name])
    return {name: values[name] for name in chosen}


def _test_row(result: dict[str, Any]) -> dict[str, Any]:
    tested = {name: value for name, value in result.items() if name.startswith("test_")}
    return {"step": result["steps"], **tested}


def tag(name: str) -> str:
    """Returns the tag of a column; TensorBoard groups curves by what stands before the slash."""
    part, _, metric = name.partition("_")
    group = metric if part in ("train", "val", "test") else GROUPS.get(name, "time")
    return f"{group}/{name}"


def is_finished(directory: Path, *, tested: bool = True) -> bool:
    """Tells whether a directory has the event file of a finished run: a tested one's ends so."""
    files = sorted(directory.glob("events*"))
    end = tag("test_accuracy").encode()
    return bool(files) and (not tested or end in files[-1].read_bytes()[-100:])


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
    from tensorboardX.summary import custom_scalars, hparams, image, scalar

    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    # Not SummaryWriter: its errors, such as that of a full disk, end in a thread of its own.
    events = EventsWriter(str(directory / "events"))

    drawn_together: set[str] = set()

    def write(row: Mapping[str, Any], pictures: dict[str, np.ndarray] | None = None) -> None:
        metrics = {name.removeprefix("val_") for name in row if name.startswith("val_")}
        if metrics - drawn_together:  # with the first row; its tags are regular expressions
            drawn_together.update(metrics)
            charts = {name: ["Multiline", [f"{name}/(train|val)_.*"]] for name in sorted(metrics)}
            layout = custom_scalars({"training and validation": charts})
            events.write_event(Event(wall_time=time.time(), step=0, summary=layout))
        summaries = [
            scalar(tag(name), row[name])
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

    measures = {tag(name): None for name in ("val_accuracy", "test_accuracy")}
    for summary in hparams(hyperparameters, measures):
        events.write_event(Event(wall_time=time.time(), step=0, summary=summary))
    for row in history:
        write(row)
    try:
        yield write
    finally:
        events.close()
