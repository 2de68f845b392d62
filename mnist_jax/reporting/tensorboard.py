"""TensorBoard's event files of a training, written without TensorFlow."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mnist_jax.config import Config, fields_with_defaults
from mnist_jax.events import Begin, Done, Epoch, Event, Failed, Listener
from mnist_jax.machine.extras import require
from mnist_jax.processes.distributed import by_first_process
from mnist_jax.reporting.filters import drawn
from mnist_jax.workdir.history import TIMES, Row
from mnist_jax.workdir.lock import lock_workdir
from mnist_jax.workdir.run import is_tested, read_config

NOT_PLOTTED = ("epoch", "step")
# TensorBoard draws a tag's curves in one chart, one per directory.
DIRECTORIES = {"train": "train", "val": "validation", "test": "test"}
# It groups charts by the word before a slash.
GROUPS: dict[str, str] = {
    **dict.fromkeys(TIMES, "time/"),
    **dict.fromkeys(("learning_rate", "gradient_norm"), "steps/"),
}
# In the table of hyperparameters, like all that differ from their default.
ALWAYS_SHOWN = ("seed", "epochs", "batch_size", "model.name", "optimizer.learning_rate")
WIDTH = 400  # pixels, at least: makes 3x3 filters visible


def tensorboard(workdir: str | Path) -> Listener:
    """Creates a listener that writes the training in `workdir` to its directory tensorboard/.

    A complete run gets its missing curves. Each member of a population has a directory of its own,
    named like the member, without pictures.

    Raises ValueError if tensorboardX is not installed.
    """
    require("--tensorboard", "tensorboardX", extra="tensorboard")
    directory = Path(workdir).absolute() / "tensorboard"
    opened = contextlib.ExitStack()
    begin: Any = None
    write: Any = None

    @by_first_process
    def record(event: Event) -> None:
        nonlocal begin, write
        match event:
            case Begin():
                begin = event
                write = opened.enter_context(
                    event_writer(directory, event.history, event.config, event.members)
                )
            case Epoch(row) if begin.members:
                write(row)
            case Epoch(row, state):
                example = begin.splits["validation"].images[np.arange(1)][0]
                write(row, drawn(begin.model, jax.device_get(state.eval_variables), example))
            case Done(trained=True):
                write(_test_row(event.result))
            case Done() if event.history and not _is_finished(directory, _test_row(event.result)):
                opened.enter_context(lock_workdir(event.workdir))
                config = read_config(event.workdir) or Config()
                write = opened.enter_context(event_writer(directory, event.history, config))
                write(_test_row(event.result))
        if isinstance(event, Done | Failed):
            opened.close()

    return record


def _test_row(result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a result's test metrics as a row; its step alone if they are not measured."""
    tested = {name: result[name] for name in result if name.startswith("test_")}
    return {"step": result["steps"], **(tested if is_tested(result) else {})}


def _placed(name: str) -> tuple[str, str]:
    """Returns a number's directory and tag: "validation", "loss" for "val_loss"."""
    split, _, metric = name.partition("_")
    if split in DIRECTORIES:
        return DIRECTORIES[split], metric
    return "train", f"{GROUPS.get(name, '')}{name}"


def _is_finished(directory: Path, test_row: Mapping[str, Any]) -> bool:
    """Tells whether a directory has all curves of a run, which end with its test."""
    tags = [_placed(name)[1].encode() for name in test_row if name not in NOT_PLOTTED]
    found = b"".join(path.read_bytes() for path in directory.glob("test/events*"))
    return any(directory.glob("train/events*")) and all(tag in found for tag in tags)


@contextlib.contextmanager
def event_writer(
    directory: Path, history: Sequence[Row], config: Config, members: Sequence[str] = ()
) -> Iterator[Callable[..., None]]:
    """Yields a function that appends a row's numbers, and pictures, under the row's step.

    The directory is first rewritten with the rows so far, so a resumed run has each step
    once, in order. Earlier pictures are lost, and the rows' times are those of writing.

    The function is write(row, pictures); pictures are uint8 [H, W, C] by name, C = 1 or 3. In the
    rows of a population, whose `members` are named, a metric is a list. Raises OSError if the
    directory cannot be written to.
    """
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore (made at run time)
    from tensorboardX.summary import hparams, image, scalar

    if directory.exists():
        shutil.rmtree(directory)
    with contextlib.ExitStack() as stack:
        files: dict[str, Any] = {}

        def add(place: str, step: int, summary: Any) -> None:
            if place not in files:
                (directory / place).mkdir(parents=True, exist_ok=True)
                # SummaryWriter would lose errors, such as a full disk, in its thread.
                files[place] = EventsWriter(str(directory / place / "events"))
                stack.callback(files[place].close)
            files[place].write_event(Event(wall_time=time.time(), step=step, summary=summary))

        def write(row: Mapping[str, Any], pictures: Mapping[str, np.ndarray] | None = None) -> None:
            for name, value in row.items():
                if name in NOT_PLOTTED or value is None:
                    continue
                place, tag = _placed(name)
                each = zip(members, value, strict=True) if np.ndim(value) else [("", value)]
                for member, number in each:
                    add(str(Path(member, place)), row["step"], scalar(tag, number))
            for name, picture in (pictures or {}).items():
                times = -(-WIDTH // picture.shape[1])
                enlarged = picture.repeat(times, axis=0).repeat(times, axis=1)
                add("validation", row["step"], image(name, enlarged, dataformats="HWC"))
            for file in files.values():
                file.flush()

        chosen = {
            name: value
            for name, (value, default) in fields_with_defaults(config).items()
            if name in ALWAYS_SHOWN or value != default
        }
        # Without the first summary, which lists metrics, the table has all that are written.
        for summary in hparams(chosen, {})[1:]:
            add("", 0, summary)
        for row in history:
            write(row)
        yield write
