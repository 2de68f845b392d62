"""The first SIGINT or SIGTERM asks for a stop at a safe point; a later one stops at once."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
REPEAT_SECONDS = 1.0  # in which signals are one request; Slurm sends two


class Stopped(KeyboardInterrupt):
    """A stop by the signal `signum`; `agreed` if all processes stop here."""

    def __init__(self, signum: int, where: str = "", *, agreed: bool = False):
        super().__init__(f"stopped by {signal.Signals(signum).name}{where}")
        self.signum = signum
        self.agreed = agreed


def raise_stopped(signum: int, _frame: object) -> NoReturn:
    """Raises `Stopped`: the command's signal handler."""
    raise Stopped(signum)


def raise_unraisable(unraisable: Any) -> None:
    """Sends a lost signal again: the command's `sys.unraisablehook`.

    Callbacks of the garbage collector, such as JAX's, lose signals. Ignores Orbax's errors of a
    closed event loop, which follow failed saves.
    """
    stopped = unraisable.exc_value
    if isinstance(stopped, Stopped):
        threading.Timer(0.01, os.kill, (os.getpid(), stopped.signum)).start()
    elif str(stopped) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def exit_at_once(signum: int, _frame: object = None) -> NoReturn:
    """Exits without cleanup: a signal handler."""
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(2, f"{Stopped(signum)}\n".encode())
    os._exit(128 + signum)


def _is_second(times: list[float]) -> bool:
    """Records a signal's time; tells whether it is more than a repetition."""
    times.append(time.monotonic())
    return times[-1] - times[0] > REPEAT_SECONDS


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Yields a list that collects stop signals.

    A second signal, after `REPEAT_SECONDS`, ends the command at once, even in compiled code; in
    other programs, the previous handler runs. Outside the main thread, where Python allows no
    handlers, the list stays empty. If an error ends the block, an earlier request is raised.
    """
    requests: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return

    before = {signum: signal.getsignal(signum) or signal.SIG_DFL for signum in SIGNALS}
    is_command = raise_stopped in before.values()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    received_at: list[float] = []
    handled_at: list[float] = []

    def receive() -> None:
        while received := reader.recv(1):  # a signal's number; nothing at the end
            if received[0] in SIGNALS and _is_second(received_at) and is_command:
                exit_at_once(received[0])

    def handle(signum: int, _frame: object) -> None:
        requests.append(signum)
        if _is_second(handled_at):
            restore()
            signal.raise_signal(signum)

    def restore() -> None:
        for signum, handler in before.items():
            signal.signal(signum, handler)

    receiver = threading.Thread(target=receive, daemon=True)
    receiver.start()
    # Written at once, while Python's handlers wait for the next bytecode.
    descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for signum in SIGNALS:
        signal.signal(signum, handle)
    try:
        yield requests
    except Exception:
        if requests:
            restore()
            signal.raise_signal(requests[0])
        raise
    finally:
        restore()
        signal.set_wakeup_fd(descriptor)
        writer.close()
        receiver.join()
        reader.close()
