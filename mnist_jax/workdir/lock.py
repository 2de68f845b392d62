"""The lock of a work directory, for one writer at a time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mnist_jax.processes.distributed import is_first
from mnist_jax.processes.file_lock import open_locked


@contextlib.contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
    """Makes the directory if necessary, and keeps other writers out of it.

    The first of several processes locks it for all. Removes directories made here that stay empty.
    Raises BlockingIOError if another process is training there.
    """
    if not is_first():
        yield
        return
    made = [path for path in (workdir, *workdir.parents) if not path.exists()]
    try:
        lock = open_locked(workdir / ".lock", wait=False)
    except BlockingIOError:
        raise BlockingIOError(
            f"{workdir} is in use by another process; wait for it, or choose another --workdir"
        ) from None
    with lock:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # not empty
                (workdir / ".lock").unlink()
                for directory in made:
                    directory.rmdir()
