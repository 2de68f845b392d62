"""The other processes of a training: meeting them, watching them, and leaving together."""

import contextlib
import math
import os
import re
import secrets
import selectors
import signal
import socket
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from mnist_jax.processes.clusters import place_among_several
from mnist_jax.processes.distributed import from_first, is_first
from mnist_jax.processes.signals import SIGNALS, Stopped

LOST = 5  # the exit code of a process that has lost another one
START_SECONDS = 300.0  # in which all processes have to be there
BEAT_SECONDS = 1.0  # between two signs of life
SILENT_SECONDS = 30.0  # after which a process is lost: it hangs, or its machine is gone
BEAT, LEAVING, ENDED = b".", b"L", b""


class LostError(ConnectionError):
    """Other processes of a training are not there, or not any more."""


@contextlib.contextmanager
def joined(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    start_seconds: float = START_SECONDS,
) -> Iterator[bool]:
    """Makes this process one of several, for as long as the `with` block lasts.

    It comes before the first use of a device. Within, a lost process ends all others, with a line
    and the exit code `LOST`. An error in one process ends it; the others have lost it then. What
    ends all of them alike, such as `Stopped` after a common save, ends them in order.

    Args:
        coordinator: HOST:PORT, where the first process waits for the others.
        num_processes: how many there are. With 1, this process stays alone, whatever started it.
        process_id: the number of this one, from 0. With none of the three, the cluster is asked
            that has started it, see `clusters`; where none has, it stays alone.
        start_seconds: in which all have to be there.

    Yields:
        Whether this is the first process, or the only one.

    Raises:
        ValueError: only some of the arguments are given, or they do not fit.
        LostError: not all processes came.
    """
    arguments, where = {}, coordinator
    if (coordinator, num_processes, process_id) != (None, None, None):
        arguments = _checked(coordinator, num_processes, process_id)
    elif found := place_among_several(os.environ):
        arguments, where = found.arguments, found.cluster
    if num_processes == 1 or not where:
        yield True
        return
    peers = _join(where, arguments, start_seconds)
    sockets = [*peers.values()]  # open until the end: to close one may undo what was sent
    others_leave = threading.Event()
    threading.Thread(target=_watch, args=(peers, others_leave), daemon=True).start()
    try:
        yield is_first()
    except BaseException as error:
        if isinstance(error, FloatingPointError) or (isinstance(error, Stopped) and error.agreed):
            _leave(sockets, peers, others_leave)
        else:
            if not isinstance(error, KeyboardInterrupt):
                time.sleep(BEAT_SECONDS)  # a loss that has caused the error is told instead of it
            peers.clear()  # what comes from now on is no loss: others may end alike
            # JAX ends the others, with a stack trace, when the first one is gone: it goes last.
            time.sleep(BEAT_SECONDS * (1 + is_first()))
        raise
    _leave(sockets, peers, others_leave)


def _checked(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> dict[str, Any]:
    """The options as `jax.distributed.initialize` takes them; ValueError where they do not fit."""
    if num_processes == 1:
        return {}
    given = (coordinator, num_processes, process_id)
    if coordinator is None or num_processes is None or process_id is None:
        raise ValueError(
            "distributed.coordinator, num-processes and process-id go together: give all three, or "
            f"none where Slurm, Open MPI or Cloud TPU starts the processes, got {given}"
        )
    port = re.fullmatch(r".+:(\d{1,5})", coordinator)
    if not port or not 0 < int(port[1]) < 2**16:
        raise ValueError(f"distributed.coordinator must be HOST:PORT, got {coordinator!r}")
    if not 0 <= process_id < num_processes:
        raise ValueError(
            "distributed.process-id must be 0 to num-processes - 1, got "
            f"{process_id} of {num_processes}"
        )
    if process_id == 0:
        try:
            socket.create_server(("", int(port[1]))).close()
        except OSError as error:  # JAX would crash
            raise ValueError(
                f"distributed.coordinator: port {port[1]} is in use, or not allowed, here: "
                "choose another"
            ) from error
    names = ("coordinator_address", "num_processes", "process_id")
    return dict(zip(names, given, strict=True))


def _join(
    where: str, arguments: Mapping[str, Any], start_seconds: float
) -> dict[int, socket.socket]:
    """Waits for the others; returns the peers that are watched from now on."""
    failed = (
        f"the processes of {where} did not come together: start every one of them, with the same "
        "coordinator and num-processes"
    )
    # It waits in compiled code, where no handler of Python's runs; and it takes SIGTERM for itself.
    handlers = {signum: signal.signal(signum, signal.SIG_DFL) for signum in SIGNALS}
    try:
        with _ends_after(start_seconds, f"{failed}, within {start_seconds:g} s"):
            jax.distributed.initialize(
                **arguments, initialization_timeout=math.ceil(start_seconds) + 60
            )
            _check_devices()
            with _quiet_stdout():
                return _meet()
    except RuntimeError as error:
        raise LostError(f"{failed} ({error})") from error
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def _check_devices() -> None:
    counts = Counter(device.process_index for device in jax.devices())
    if len({*counts.values()}) > 1:
        jax.distributed.shutdown()  # as all of them do
        raise ValueError(
            "every process must have as many devices as the others, got "
            f"{', '.join(str(counts[number]) for number in sorted(counts))}"
        )


def _leave(
    sockets: list[socket.socket], peers: dict[int, socket.socket], others_leave: threading.Event
) -> None:
    """Waits until all have done their work; whoever is lost before that is told."""
    if not is_first():
        _say(sockets, LEAVING)
    if peers:
        others_leave.wait()  # the first one hears it of all others, and then tells them
    peers.clear()  # what comes from now on is no loss
    if is_first():
        _say(sockets, LEAVING)
    with _ends_after(SILENT_SECONDS, "the work is done, but a process was lost in leaving"):
        jax.distributed.shutdown()  # waits for the others


@contextlib.contextmanager
def _ends_after(seconds: float, message: str) -> Iterator[None]:
    """Ends this process where the `with` block lasts longer: JAX would do it with a stack trace."""
    timer = threading.Timer(seconds, _end, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Keeps off standard output, which is for results, what Gloo prints when it connects."""
    stdout, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(nowhere)


def _meet() -> dict[int, socket.socket]:
    """Connects every process with the first one; returns its peers by number."""
    count = jax.process_count()
    with socket.create_server(("", 0), backlog=count) as server:  # the first one's is called
        token, port, hosts = from_first(
            lambda: [secrets.token_hex(16), server.getsockname()[1], _addresses()]
        )
        peer = None if is_first() else _call(hosts, port, f"{token} {jax.process_index()}\n")
        connected = multihost_utils.process_allgather(np.array(is_first() or peer is not None))
        if not connected.all():
            warnings.warn(
                f"processes {np.flatnonzero(~connected).tolist()} do not reach the first one at "
                f"port {port} of {', '.join(hosts)}: JAX alone notices a lost process, later",
                stacklevel=5,
            )
            return {}
        return {0: peer} if peer else _answer(server, token, count - 1)


def _answer(server: socket.socket, token: str, count: int) -> dict[int, socket.socket]:
    """Accepts the calls of so many processes, which have made them; others have no token."""
    peers = {}
    while len(peers) < count:
        caller, _ = server.accept()
        caller.settimeout(10)
        with contextlib.suppress(OSError, ValueError):
            said, _, number = caller.makefile().readline(100).partition(" ")
            caller.settimeout(None)
            if said == token:
                peers[int(number)] = caller
    return peers


def _addresses() -> list[str]:
    """Names of this machine, of which others may know one or the other."""
    names = [socket.gethostname(), "127.0.0.1"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # nothing is sent; the way out has an address
        names.insert(0, probe.getsockname()[0])
    return names


def _call(hosts: list[str], port: int, greeting: str) -> socket.socket | None:
    for host in hosts:
        with contextlib.suppress(OSError):
            peer = socket.create_connection((host, port), timeout=10)
            peer.sendall(greeting.encode())
            peer.settimeout(None)
            return peer
    return None


def _watch(peers: dict[int, socket.socket], others_leave: threading.Event) -> None:
    """Gives signs of life to the peers, waits for theirs, and tells when all are leaving."""
    spoken = time.monotonic()
    heard = dict.fromkeys(peers, spoken)
    leaving = set()
    selector = selectors.DefaultSelector()
    for number, peer in peers.items():
        selector.register(peer, selectors.EVENT_READ, number)
    while peers:
        for key, _ in selector.select(BEAT_SECONDS):
            said = _receive(key.fileobj)
            told = re.search(rb"lost ([1-9]\d*);", said)  # the first one tells of the others
            if LEAVING in said:
                leaving.add(key.data)
            if leaving >= peers.keys():
                others_leave.set()
            if told:
                _lose(int(told[1]), "is lost", peers)
            elif said == ENDED:
                _lose(key.data, "has ended", peers)
            heard[key.data] = time.monotonic()
        if time.monotonic() - spoken > BEAT_SECONDS:  # and not in answer to every sign of theirs
            spoken = time.monotonic()
            _say([*peers.values()], BEAT)
        for number in [*peers]:
            if time.monotonic() - heard[number] > SILENT_SECONDS:
                _lose(number, f"gives no sign of life for {SILENT_SECONDS:.0f} s", peers)


def _lose(number: int, how: str, peers: dict[int, socket.socket]) -> None:
    if not peers:  # this process is ending, too
        return
    _say([*peers.values()], f"lost {number};".encode())
    _end(
        f"process {number} of {jax.process_count()} {how}; what is saved stays, and the same "
        "command, in every process, goes on"
    )


def _end(message: str) -> NoReturn:
    """Ends this process from any thread, whatever the others are waiting for."""
    with contextlib.suppress(OSError):
        os.write(2, f"error: {message}\n".encode())
    os._exit(LOST)


def _say(peers: list[socket.socket], said: bytes) -> None:
    for peer in peers:
        with contextlib.suppress(OSError):  # it is gone, or does not listen: receiving tells
            peer.send(said, socket.MSG_DONTWAIT)


def _receive(peer: Any) -> bytes:
    with contextlib.suppress(OSError):
        return peer.recv(4096)
    return ENDED
