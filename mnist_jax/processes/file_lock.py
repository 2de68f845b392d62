"""A lock between processes, released by the kernel when its owner ends."""

import contextlib
import errno
import fcntl
import os
import warnings
from pathlib import Path
from typing import IO


def open_locked(path: Path, *, wait: bool) -> IO[str]:
    """Opens an empty file that stays locked until it is closed.

    Makes missing directories. The owner may delete the file. Warns if the file system has no locks.
    Raises BlockingIOError if it is locked and `wait` is false; OSError if it cannot be made.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(path.open("a", encoding="utf-8"))
            except FileNotFoundError:
                if path.parent.is_dir():  # such as /proc; otherwise it was just deleted
                    raise
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
                    raise
                warnings.warn(
                    f"{path.parent} cannot be locked ({error.strerror}); make sure that no other "
                    "process writes there",
                    stacklevel=5,
                )
            # The previous owner may have deleted the file before we locked it.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    stack.pop_all()
                    return file
