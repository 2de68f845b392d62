"""The history as TensorBoard's event files, written by tensorboardX, without TensorFlow."""

import contextlib
import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NOT_PLOTTED = ("epoch", "step")


def require_tensorboard() -> None:
    """Raises ValueError where tensorboardX, an extra, is not installed."""
    if not importlib.util.find_spec("tensorboardX"):
        raise ValueError(
            "TensorBoard's files need tensorboardX: `pip install tensorboardX`, or leave out "
            "--tensorboard"
        )


@contextlib.contextmanager
def event_writer(
    directory: Path, history: list[dict[str, Any]]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yields a function that appends the numbers of a row of the history, under its step.

    It begins with one file of the rows so far in place of what was in the directory, so that a run
    which was stopped has each step once, in order.

    Raises:
        OSError: the directory cannot be written to.
    """
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore (made at run time)
    from tensorboardX.summary import scalar

    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    # Not SummaryWriter: its errors, such as that of a full disk, end in a thread of its own.
    events = EventsWriter(str(directory / "events"))

    def write(row: dict[str, Any]) -> None:
        for name in row:
            if name not in NOT_PLOTTED:
                summary = scalar(name, row[name])
                events.write_event(Event(wall_time=time.time(), step=row["step"], summary=summary))
        events.flush()

    for row in history:
        write(row)
    try:
        yield write
    finally:
        events.close()
