"""A group of processes: joining it, watching its members, leaving together."""

import contextlib
import functools
import os
import re
import signal
import socket
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils

from mnist_jax.processes.clusters import cluster_job, cluster_of_several, open_mpi_address
from mnist_jax.processes.distributed import from_first, is_first
from mnist_jax.processes.signals import SIGNALS, Stopped

ALIVE, FAILING = b".", b"!"  # messages between processes
LOST = 5  # exit code after losing another process
START_SECONDS = 300.0  # for all processes to join
PATIENT_SECONDS = 3.0  # before a process reports whom it waits for
BEAT_SECONDS = 1.0  # between heartbeats
ALIKE_SECONDS = 5.0  # for the others to fail alike
SILENT_SECONDS = 30.0  # without a heartbeat before a process is lost


class LostError(ConnectionError):
    """Other processes never joined, or are lost."""


@contextlib.contextmanager
def joined(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Iterator[bool]:
    """Joins this process with others for the duration of the `with` block.

    Enter it before the first use of a device. Inside, losing a process ends the others with one
    line and exit code `LOST`. So does an exception in one process, unless the others fail within
    seconds, such as by a wrong option. A `Stopped` or FloatingPointError that all raise together
    shuts down cleanly.

    Args:
        coordinator: HOST:PORT, where the first process listens.
        num_processes: number of processes; 1 means run alone, even under a cluster launcher.
        process_id: rank of this process, from 0. Without any of the three, the cluster's
            environment decides; outside a cluster the process runs alone.

    Yields:
        True in the first process, or the only one.

    Raises:
        ValueError: the arguments are incomplete or inconsistent.
        LostError: not all processes joined.
    """
    given = (coordinator, num_processes, process_id)
    alone = num_processes == 1
    arguments, where = {}, coordinator
    if given == (None, None, None):
        where = cluster_of_several(os.environ)
    elif not alone:
        arguments = _checked(*given)
    if alone or where is None:
        yield True
        return
    peers = _join(where, arguments)
    leaving, own = threading.Event(), jax.process_index()
    failing = {rank: threading.Event() for rank in (own, *peers)}

    def beat() -> None:
        while not leaving.wait(BEAT_SECONDS):
            _say(peers, ALIVE)

    watches = (functools.partial(_watch, rank, peers, failing, leaving) for rank in peers)
    for target in (beat, *watches):
        threading.Thread(target=target, daemon=True).start()
    common = None
    try:
        try:
            yield is_first()
        except (FloatingPointError, Stopped) as error:
            if isinstance(error, Stopped) and not error.agreed:
                raise
            common = error
        multihost_utils.sync_global_devices("leave")  # a process lost before this is reported
    except BaseException as error:
        failing[own].set()
        _say(peers, FAILING)
        if not isinstance(error, KeyboardInterrupt):
            time.sleep(BEAT_SECONDS)  # if a loss caused the error, `_watch` reports the loss
        end = time.monotonic() + ALIKE_SECONDS
        for rank in peers:
            failing[rank].wait(max(0, end - time.monotonic()))
        leaving.set()
        for peer in peers.values():  # a script may continue, but peers see it end
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_WR)
        # The first process ends last: JAX then ends the others with a stack trace.
        time.sleep(BEAT_SECONDS * (1 + is_first()))
        raise
    leaving.set()
    # Instead of JAX's stack trace.
    with _after(SILENT_SECONDS, _end, "the work is done, but a process was lost while leaving"):
        jax.distributed.shutdown()  # waits for the others
    if common:
        raise common


def _checked(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> dict[str, Any]:
    """Converts the options to arguments of `jax.distributed.initialize`."""
    if coordinator is None or num_processes is None or process_id is None:
        raise ValueError(
            "distributed.coordinator, num-processes and process-id go together: give all, or none "
            f"under Slurm, Open MPI or Cloud TPU, got {coordinator}, {num_processes}, {process_id}"
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
                f"distributed.coordinator: port {port[1]} is in use or forbidden; choose another"
            ) from error
    return {
        "coordinator_address": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
    }


def _join(where: str, arguments: dict[str, Any]) -> dict[int, socket.socket]:
    """Waits for the others; returns connections to the peers to watch, by rank."""
    failed = (
        f"not all processes of {where} joined; start all with the same coordinator and "
        "num-processes"
    )
    waits = _waits(where, arguments)
    if not arguments:
        os.environ.update(open_mpi_address(os.environ))
    # JAX waits in compiled code, where Python's handlers do not run, and handles SIGTERM itself.
    handlers = {signum: signal.signal(signum, signal.SIG_DFL) for signum in SIGNALS}
    try:
        with (
            _after(START_SECONDS, _end, f"{failed}, within {START_SECONDS:g} s"),
            _after(PATIENT_SECONDS, warnings.warn, waits),
        ):
            jax.distributed.initialize(**arguments, initialization_timeout=int(START_SECONDS) + 60)
            counts = Counter(device.process_index for device in jax.devices())
            if len({*counts.values()}) > 1:
                jax.distributed.shutdown()  # in all of them
                raise ValueError(
                    "every process must have the same number of devices, got "
                    f"{', '.join(str(counts[rank]) for rank in sorted(counts))}"
                )
            return _meet()
    except (RuntimeError, OSError) as error:
        raise LostError(f"{failed} ({error})") from error
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def _waits(where: str, arguments: dict[str, Any]) -> str:
    own, others = "this process", "the others"
    job = cluster_job(os.environ)
    known = [arguments["process_id"], arguments["num_processes"]] if arguments else job
    if known:
        *_, rank, count = known
        own = f"process {rank} of {count}"
        others = "process 0" if rank else f"the other {count - 1}"
        others += " and the others" * bool(rank and count > 2)
    return f"{own} waits for {others} of {where}, {START_SECONDS:g} s at most"


def _meet() -> dict[int, socket.socket]:
    """Connects all processes with the first; returns connections by rank."""
    stdout, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # Gloo prints to standard output when it connects
    try:
        with socket.create_server(("", 0), backlog=jax.process_count()) as server:
            hosts, port = from_first(lambda: [_addresses(), server.getsockname()[1]])
            return _answer(server) if is_first() else {0: _call(hosts, port)}
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(nowhere)


def _addresses() -> list[str]:
    """Lists this machine's names; other machines may know some."""
    names = [socket.gethostname(), "127.0.0.1"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing, but finds an own address
        names.insert(0, probe.getsockname()[0])
    return names


def _call(hosts: list[str], port: int) -> socket.socket:
    """Sends the first process this one's rank."""
    for host in hosts:
        with contextlib.suppress(OSError):
            first = socket.create_connection((host, port), timeout=10)
            first.sendall(f"{jax.process_index()}\n".encode())
            return first
    raise ConnectionError(f"cannot reach process 0 at port {port} of {', '.join(hosts)}")


def _answer(server: socket.socket) -> dict[int, socket.socket]:
    """Accepts the others' connections; strangers send no rank."""
    peers = {}
    server.settimeout(SILENT_SECONDS)
    while len(peers) < jax.process_count() - 1:
        caller, _ = server.accept()
        caller.settimeout(10)
        with contextlib.suppress(OSError, ValueError):
            peers[int(caller.makefile().readline(10))] = caller
    return peers


def _watch(
    rank: int,
    peers: dict[int, socket.socket],
    failing: dict[int, threading.Event],
    leaving: threading.Event,
) -> None:
    """Ends this process when a peer's heartbeats stop."""
    lost, how = rank, "has ended"
    peers[rank].settimeout(SILENT_SECONDS)
    try:
        while said := peers[rank].recv(4096):
            if FAILING in said:
                failing[rank].set()
            if other := re.search(rb"lost (\d+);", said):  # from the first process
                lost, how = int(other[1]), "is lost"
                break
    except TimeoutError:
        how = f"has not responded for {SILENT_SECONDS:.0f} s"
    except OSError:
        pass
    both = failing[rank].is_set() and failing[jax.process_index()].is_set()
    if leaving.is_set() or (both and how == "has ended"):  # so is this process
        return
    if is_first():
        _say(peers, f"lost {lost};".encode())
    _end(
        f"process {lost} of {jax.process_count()} {how}; run the same command in every process to "
        "resume"
    )


def _say(peers: dict[int, socket.socket], said: bytes) -> None:
    for peer in peers.values():
        with contextlib.suppress(OSError):  # `_watch` notices a loss
            peer.sendall(said)


def _end(message: str) -> NoReturn:
    """Ends this process from any thread, even if others are blocked."""
    with contextlib.suppress(OSError):
        os.write(2, f"error: {message}\n".encode())
    os._exit(LOST)


@contextlib.contextmanager
def _after(seconds: float, function: Callable[[str], Any], message: str) -> Iterator[None]:
    """Calls a function in a thread if the `with` block lasts longer."""
    timer = threading.Timer(seconds, function, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
