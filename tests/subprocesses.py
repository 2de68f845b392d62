"""Programs that tests start: a small training with an event at a chosen chunk.

    python -c 'from subprocesses import *; at_chunk(3, kill); run()' train ...

A test that only watches a program may act too late; these act inside it.
"""

import contextlib
import dataclasses
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Callable, Sequence
from typing import Any

import helpers
from flax.traverse_util import flatten_dict
from jax._src import compiler, distributed  # private, see `be_process`

import mnist_jax
from mnist_jax.cli.main import run as run
from mnist_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig
from mnist_jax.events import Listener
from mnist_jax.processes import group
from mnist_jax.processes.signals import SIGNALS
from mnist_jax.training import Run

# With this seed and step size the third epoch is the best, so its checkpoint stays.
EPOCHS, STEPS_PER_EPOCH, BEST_EPOCH = 4, 4, 3
CONFIG = Config(
    seed=1,
    epochs=EPOCHS,
    batch_size=64,
    chunk_steps=2,
    data=DataConfig(train_split="train[:320]", test_split="test[:100]"),
    model=ModelConfig(features=4, hidden_size=8),
    optimizer=OptimizerConfig(learning_rate=0.03),
)


def options(config: Config) -> list[str]:
    """Returns a config as options of the command `train`."""
    default, fields = (flatten_dict(dataclasses.asdict(c), sep=".") for c in (Config(), config))
    return [
        f"--{n.replace('_', '-')}={value}" for n, value in fields.items() if value != default[n]
    ]


OPTIONS = options(CONFIG)


def at_chunk(number: int, happen: Callable[[], object]) -> None:
    """Makes the command `train` call `happen` in a chunk, counted from 1."""
    train, happens = mnist_jax.train, helpers.at_chunk(number, happen)

    def train_with(*args: Any, listeners: Sequence[Listener] = (), **options: Any) -> Run:
        return train(*args, listeners=[*listeners, happens], **options)

    mnist_jax.train = train_with  # type: ignore[assignment]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_signal() -> None:
    """Prints "ready", even if silenced, and waits until a signal is handled."""
    handlers: dict[int, Any] = {signum: signal.getsignal(signum) for signum in SIGNALS}
    handled = []

    def handle(signum: int, frame: Any) -> None:
        handlers[signum](signum, frame)
        handled.append(signum)

    for signum in SIGNALS:
        signal.signal(signum, handle)
    print("ready", file=sys.__stdout__, flush=True)
    while not handled:
        time.sleep(0.005)
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def wait_for_line(process: subprocess.Popen[str], line: str) -> None:
    """Reads a program's output up to a line such as "ready"."""
    if not process.stdout or f"{line}\n" not in iter(process.stdout.readline, ""):
        raise AssertionError(f"it has ended without {line!r}: {process.communicate()}")


def be_process(rank: int, *, waits_for_loss: bool) -> None:
    """Makes a program one of several processes, without their timeouts.

    Where the first process is to end last, it does when its input ends. With `waits_for_loss`, an
    error in it comes from the loss of another one, which is to be named first.
    """

    def sleep(seconds: float) -> None:
        if seconds > group.BEAT_SECONDS:
            sys.stdin.read()
        else:
            time.sleep(100 if waits_for_loss else 0.01)

    group.PATIENT_SECONDS = 1e6
    group.SILENT_SECONDS = 1e6  # a machine that is busy is not one that is lost
    group.time = types.SimpleNamespace(sleep=sleep, monotonic=time.monotonic)  # type: ignore[assignment]

    # JAX has the first process alone write to its cache: the others would compile each time.
    write, state = compiler._cache_write, distributed.global_state

    def write_always(*args: Any) -> None:
        state.process_id = 0
        try:
            write(*args)
        finally:
            state.process_id = rank

    compiler._cache_write = write_always


def free_port(low: int = 20000, high: int = 30000) -> int:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 4
    low, high = low + worker * (high - low) // 4, low + (worker + 1) * (high - low) // 4
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", low + secrets.randbelow(high - low)))
            return probe.getsockname()[1]
