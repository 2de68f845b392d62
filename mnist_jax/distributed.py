"""Several processes as one program: how they find each other, agree, and notice a loss.

Each process runs the same program and makes the same compiled calls; JAX puts their devices into
one mesh. What one process alone decides, or finds on a disk, would set them apart, and a call that
one of them does not make leaves the others waiting. So the first process decides, and tells them.
"""

import contextlib
import functools
import json
import os
import re
import secrets
import selectors
import signal
import socket
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from mnist_jax.accelerator import expected_accelerator
from mnist_jax.sharding import create_mesh, place, replicated, split_members
from mnist_jax.signals import SIGNALS, Stopped

LOST = 5  # the exit code of a process that has lost another one
START_SECONDS = 300  # in which all processes have to be there
BEAT_SECONDS = 1.0  # between two signs of life
SILENT_SECONDS = 30.0  # after which a process is lost: it hangs, or its machine is gone
BEAT, LEAVING, ENDED = b".", b"L", b""

# What a launcher tells each process that it starts: how many there are, and what else JAX asks for.
LAUNCHERS = {
    "Slurm": (
        "SLURM_NTASKS",
        ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"),
    ),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_RANK")),
}
TPU_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")  # on GKE; separated by commas
TPU_METADATA = "computeMetadata/v1/instance/attributes/worker-network-endpoints"


def launcher() -> str:
    """Names what has started this process as one of several; "" where nothing has.

    References:
        https://docs.jax.dev/en/latest/multi_process.html#initializing-the-cluster
    """
    for name, (count, others) in LAUNCHERS.items():
        if os.environ.get(count, "1") != "1" and all(other in os.environ for other in others):
            return name
    if any("," in os.environ.get(name, "") for name in TPU_HOSTS):
        return "GKE"
    return "Cloud TPU" if "," in _tpu_workers() else ""


def _tpu_workers() -> str:
    """The hosts of a slice of Cloud TPUs, separated by commas, as the metadata server has them."""
    skip = any(name in os.environ for name in ("COLAB_TPU_1VM", "TPU_SKIP_MDS_QUERY"))
    if skip or expected_accelerator() != "tpu":
        return ""
    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{server}/{TPU_METADATA}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


@contextlib.contextmanager
def joined(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    start_seconds: int = START_SECONDS,
) -> Iterator[bool]:
    """Makes this process one of several, for as long as the `with` block lasts.

    It comes before the first use of a device. Within, a lost process ends all others, with a line
    and the exit code `LOST`. An error in one process ends it; the others have lost it then. What
    ends all of them alike, such as `Stopped` after a common save, ends them in order.

    Args:
        coordinator: HOST:PORT, where the first process waits for the others.
        num_processes: how many there are. With 1, this process stays alone, whatever started it.
        process_id: the number of this one, from 0. With none of the three, what has started it is
            asked, see `launcher`; where nothing has, it stays alone.
        start_seconds: in which all have to be there.

    Yields:
        Whether this is the first process, or the only one.

    Raises:
        ValueError: only some of the arguments are given, or they do not fit.
        ConnectionError: not all processes came.
    """
    given = (coordinator, num_processes, process_id)
    if num_processes == 1 or (given == (None, None, None) and not launcher()):
        yield True
        return
    _check(*given)
    watch = _join(*given, start_seconds=start_seconds)
    try:
        yield jax.process_index() == 0
    except BaseException as error:
        if isinstance(error, FloatingPointError) or (isinstance(error, Stopped) and error.agreed):
            _leave(watch)
        else:
            time.sleep(2 * BEAT_SECONDS)  # a loss that has caused the error is told instead of it
        raise
    _leave(watch)


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    given = (coordinator, num_processes, process_id)
    if given == (None, None, None):
        return
    if coordinator is None or num_processes is None or process_id is None:
        raise ValueError(
            "distributed.coordinator, num-processes and process-id go together: give all three, or "
            f"none where Slurm, Open MPI, GKE or Cloud TPU starts the processes, got {given}"
        )
    if not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise ValueError(f"distributed.coordinator must be HOST:PORT, got {coordinator!r}")
    if not 0 <= process_id < num_processes:
        raise ValueError(
            "distributed.process-id must be 0 to num-processes - 1, got "
            f"{process_id} of {num_processes}"
        )


def _join(
    coordinator: str | None, num_processes: int | None, process_id: int | None, start_seconds: int
) -> dict[int, socket.socket]:
    """Waits for the others; returns the peers that are watched from now on."""
    failed = (
        f"the processes of {coordinator or launcher()} did not come together: start every one of "
        "them, with the same address and number"
    )
    # JAX would end the process by itself, with a stack trace.
    timer = threading.Timer(start_seconds, _end, [f"{failed}, within {start_seconds} s"])
    timer.daemon = True
    timer.start()
    # It waits in compiled code, where no handler of Python's runs; and it takes SIGTERM for itself.
    handlers = {signum: signal.signal(signum, signal.SIG_DFL) for signum in SIGNALS}
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, initialization_timeout=start_seconds + 60
        )
        with _quiet_stdout():
            peers = _meet()
    except (RuntimeError, ValueError) as error:
        raise ConnectionError(f"{failed} ({error})") from error
    finally:
        timer.cancel()
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    threading.Thread(target=_watch, args=(peers,), daemon=True).start()
    return peers


def _leave(peers: dict[int, socket.socket]) -> None:
    for peer in [*peers.values()]:
        _send(peer, LEAVING)
    peers.clear()  # what comes now is no loss any more
    jax.distributed.shutdown()  # waits for the others


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


def is_first() -> bool:
    """Tells whether this process is the one that writes files: the first, or the only one."""
    return jax.process_index() == 0


def by_first_process(function: Callable[..., None]) -> Callable[..., None]:
    """Makes a function that writes do nothing in the other processes."""

    @functools.wraps(function)
    def write(*args: Any, **kwargs: Any) -> None:
        if is_first():
            function(*args, **kwargs)

    return write


def from_first(function: Callable[[], Any]) -> Any:
    """Returns in every process what a function returns in the first one, where alone it is called.

    Args:
        function: its value is made of what JSON has.

    Raises:
        ValueError: in every process, with the same message, where the function raises anything.
    """
    if jax.process_count() == 1:
        return function()
    value, error = None, None
    if is_first():
        try:
            value = function()
        except Exception as raised:
            error = raised
    said = np.frombuffer(json.dumps([value, error and str(error)]).encode(), np.uint8)
    length = multihost_utils.broadcast_one_to_all(np.int32(len(said)))
    said = multihost_utils.broadcast_one_to_all(np.resize(said, int(length)))
    value, message = json.loads(bytes(np.asarray(said)))
    if error:
        raise error
    if message:
        raise ValueError(message)
    return value


def agreement() -> Callable[[int], int]:
    """Returns a function by which the processes agree upon a number: the largest of all.

    So that nobody waits, its answer is from the numbers of the call before; of one process, it is
    the number at once. All processes have to call it equally often.
    """
    if jax.process_count() == 1:
        return lambda number: number
    mesh = create_mesh()
    largest = jax.jit(jnp.max, out_shardings=replicated(mesh))
    answers = []

    def agree(number: int) -> int:
        numbers = np.full(mesh.size, number, np.int32)
        answers.append(largest(place(numbers, split_members(mesh))))
        return int(answers.pop(0)) if len(answers) > 1 else 0

    return agree


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


def _watch(peers: dict[int, socket.socket]) -> None:
    """Gives signs of life to the peers and waits for theirs, until all have left."""
    heard = dict.fromkeys(peers, time.monotonic())
    selector = selectors.DefaultSelector()
    for number, peer in peers.items():
        selector.register(peer, selectors.EVENT_READ, number)
    while peers:
        for key, _ in selector.select(BEAT_SECONDS):
            said = _receive(key.fileobj)
            told = re.search(rb"lost (\d+);", said)
            if LEAVING in said and key.data in peers:
                del peers[key.data]
                selector.unregister(key.fileobj)
            elif told or said == ENDED:
                _lose(int(told[1]) if told else key.data, "has ended", peers)
            heard[key.data] = time.monotonic()
        for number, peer in [*peers.items()]:
            _send(peer, BEAT)
            if time.monotonic() - heard[number] > SILENT_SECONDS:
                _lose(number, f"gives no sign of life for {SILENT_SECONDS:.0f} s", peers)


def _lose(number: int, how: str, peers: dict[int, socket.socket]) -> None:
    if not peers:  # this process is leaving, too
        return
    for peer in peers.values():
        _send(peer, f"lost {number};".encode())
    _end(
        f"process {number} of {jax.process_count()} {how}; what is saved stays, and the same "
        "command, in every process, goes on"
    )


def _end(message: str) -> NoReturn:
    """Ends this process from any thread, whatever the others are waiting for."""
    with contextlib.suppress(OSError):
        os.write(2, f"error: {message}\n".encode())
    os._exit(LOST)


def _send(peer: socket.socket, said: bytes) -> None:
    with contextlib.suppress(OSError):  # it is gone, or does not listen: receiving tells
        peer.send(said, socket.MSG_DONTWAIT)


def _receive(peer: Any) -> bytes:
    with contextlib.suppress(OSError):
        return peer.recv(4096)
    return ENDED
