"""A lock that one process at a time holds: the kernel's, so it ends with the process."""

import contextlib
import errno
import fcntl
import os
import warnings
from pathlib import Path
from typing import IO


def open_locked(path: Path, *, wait: bool) -> IO[str]:
    """Opens a file that stays locked until it is closed; nothing is written to it.

    The file and its directories are made where they are missing. The owner of the lock may delete
    them: a process that has waited for the lock makes them again.

    Raises:
        BlockingIOError: another process has the lock, and `wait` is false.
        OSError: the file cannot be made. (On a file system without locks, it is a warning.)
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(path.open("a", encoding="utf-8"))
            except FileNotFoundError:
                if path.parent.is_dir():  # such as /proc; otherwise its owner has just deleted it
                    raise
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
                    raise
                warnings.warn(
                    f"{path.parent} cannot be locked ({error.strerror}): see to it that no other "
                    "process writes there",
                    stacklevel=5,
                )
            # The owner before may have deleted the file between our opening and locking it.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    stack.pop_all()
                    return file
