"""A training as TensorBoard's event files, written by tensorboardX, without TensorFlow."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

NOT_PLOTTED = ("epoch", "step")
# TensorBoard groups curves by what stands before the slash.
GROUPS = {
    "accuracy": ("train_accuracy", "val_accuracy", "test_accuracy", "generalization_gap"),
    "loss": ("train_loss", "val_loss", "test_loss"),
    "time": ("seconds", "input_seconds", "examples_per_second"),
}
TAGS = {name: f"{group}/{name}" for group, names in GROUPS.items() for name in names}
WIDTH = 400  # pixels, at least: filters of 3x3 are to be seen


def is_finished(directory: Path) -> bool:
    """Tells whether a directory has the event file of a finished run: one ends with the test."""
    files = sorted(directory.glob("events*"))
    return bool(files) and TAGS["test_accuracy"].encode() in files[-1].read_bytes()[-100:]


@contextlib.contextmanager
def event_writer(
    directory: Path, history: list[dict[str, Any]], hyperparameters: dict[str, Any]
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

    def write(row: dict[str, Any], pictures: dict[str, np.ndarray] | None = None) -> None:
        summaries = [
            scalar(TAGS.get(name, name), row[name]) for name in row if name not in NOT_PLOTTED
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
