"""The start of the command, which handles signals before the imports."""

import os
import signal
import sys

from mnist_jax import clock
from mnist_jax.processes.signals import SIGNALS, exit_at_once


def run() -> None:
    """The `mnist-jax` command."""
    for signum in SIGNALS:  # until `main` sets its own
        signal.signal(signum, exit_at_once)
    _open_standard_streams()
    clock.timed_import("mnist_jax.cli.main").run()


def _open_standard_streams() -> None:
    """Opens /dev/null in place of closed streams: the next files would have their numbers."""
    for number, (name, mode) in enumerate({"stdin": "r", "stdout": "w", "stderr": "w"}.items()):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
