"""The start of the command: it handles signals before the imports, which take a second."""

import signal

from mnist_jax import clock
from mnist_jax.processes.signals import SIGNALS, exit_at_once


def run() -> None:
    """The `mnist-jax` command."""
    for signum in SIGNALS:  # until `main.run` sets its own
        signal.signal(signum, exit_at_once)
    clock.timed_import("mnist_jax.cli.main").run()
