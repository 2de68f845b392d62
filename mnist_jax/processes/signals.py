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
REPEAT_SECONDS = 1.0  # in which signals are one request: Slurm preempts by two, milliseconds apart


class Stopped(KeyboardInterrupt):
    """The signal `signum` has stopped what was going on.

    `agreed`: of several processes, all of them were stopped here.
    """

    def __init__(self, signum: int, where: str = "", *, agreed: bool = False):
        super().__init__(f"stopped by {signal.Signals(signum).name}{where}")
        self.signum = signum
        self.agreed = agreed


def raise_stopped(signum: int, _frame: object) -> NoReturn:
    """The command's signal handler: an exception lets what is going on clean up."""
    raise Stopped(signum)


def raise_unraisable(unraisable: Any) -> None:
    """The command's `sys.unraisablehook`: a signal that Python would only report comes again.

    That is one which arrives while the garbage collector calls back; JAX has such a callback. When
    a save fails, Orbax raises the first error; later ones, of a closed event loop, say nothing.
    """
    stopped = unraisable.exc_value
    if isinstance(stopped, Stopped):
        threading.Timer(0.01, os.kill, (os.getpid(), stopped.signum)).start()
    elif str(stopped) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def exit_at_once(signum: int, _frame: object = None) -> NoReturn:
    """A signal handler for a time in which there is nothing to clean up."""
    with contextlib.suppress(OSError):  # its terminal may be gone
        os.write(2, f"error: {Stopped(signum)}\n".encode())
    os._exit(128 + signum)


def _is_second(times: list[float]) -> bool:
    """Adds the time of a signal to those before; tells whether it is more than a repetition."""
    times.append(time.monotonic())
    return times[-1] - times[0] > REPEAT_SECONDS


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Yields a list that receives the signals which ask to stop.

    A second signal, later than `REPEAT_SECONDS`, ends the command at once, even in the middle of
    compiled code; in another program it does what it did there before. Outside the main thread,
    where Python allows no handlers, the list stays empty. If an error ends the `with` block, a
    request that came before it is passed on.
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
        while received := reader.recv(1):  # the number of a signal; nothing at the end
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
    # The wakeup descriptor is written to at once, Python's own handlers run when bytecode does.
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
