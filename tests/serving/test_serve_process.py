"""The server of `serve`, a process that is asked, flooded, left waiting and stopped."""

import asyncio
import contextlib
import itertools
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from helpers import wait_until
from servers import FILES, HANGS, address, served

from mnist_jax import load_dataset, load_network
from mnist_jax.handwriting.files import predict_files
from mnist_jax.reporting.pictures import png
from mnist_jax.serving import server as server_module


@pytest.fixture(scope="module")
def start(workdir) -> Iterator[Callable[..., tuple[subprocess.Popen, str]]]:
    """Starts `mnist-jax serve`; returns the process and the URL that it prints."""
    started: list[subprocess.Popen] = []

    def run(*args: str) -> tuple[subprocess.Popen, str]:
        command = [sys.executable, "-m", "mnist_jax", "serve", "--workdir", workdir, "--port", "0"]
        pipes: Any = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen([*command, *args], **pipes, text=True)
        started.append(process)
        assert process.stdout
        match = re.fullmatch(r"(http://\S+:\d+)/ .*\n", process.stdout.readline())
        assert match, process.communicate()[1]
        return process, match[1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def url(start) -> str:
    return start()[1]


def raw(url: str, content: bytes) -> bytes:
    """Sends bytes, and returns the answer up to the end of the connection."""
    with socket.create_connection(address(url), timeout=HANGS) as connection:
        with contextlib.suppress(OSError):  # it has answered already
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
        return rest(connection)


def rest(connection: socket.socket) -> bytes:
    """Returns the bytes that come until the other side ends the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while part := connection.recv(65536):
            found += part
    return found


def test_an_answer_on_an_open_connection_does_not_wait(trained, workdir, monkeypatch):
    """Without TCP_NODELAY its second half would wait 40 ms for the client's delayed ACK."""
    made, options = server_module.Protocol.connection_made, []

    def connection_made(self: server_module.Protocol, transport: asyncio.Transport) -> None:
        made(self, transport)
        connection = transport.get_extra_info("socket")
        options.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(server_module.Protocol, "connection_made", connection_made)
    with served(trained, workdir) as url, httpx.Client(base_url=url) as client:
        assert client.get("/health").status_code == 200
    assert all(options or [False])


def test_a_server_process_answers_as_predict_does_and_ends_with_a_signal(start, workdir, tmp_path):
    process, url = start("--host", "0.0.0.0")
    assert url.startswith("http://127.0.0.1:")  # no browser goes to 0.0.0.0
    assert process.stdout
    assert process.stdout.readline().startswith("anyone who can reach this computer can use it")
    (tmp_path / "a").write_bytes(FILES["grey"]())
    (expected,) = predict_files(load_network(workdir), [tmp_path / "a"])
    found = httpx.post(f"{url}/api/predict", content=FILES["grey"](), timeout=HANGS).json()
    del found["probabilities"]
    assert found.items() < expected._asdict().items()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=HANGS)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.slow
def test_a_stopped_server_still_answers_complete_requests(start):
    process, url = start()
    content = FILES["grey"]()
    assert httpx.post(f"{url}/api/predict", content=content, timeout=HANGS).status_code == 200
    head = b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n".encode()
    with (
        socket.create_connection(address(url), timeout=HANGS) as connection,
        socket.create_connection(address(url), timeout=HANGS) as unfinished,
    ):
        for asked in (unfinished, connection):
            asked.sendall(head + content[:-1])

        def is_held() -> bool:
            health = httpx.get(f"{url}/health", timeout=HANGS).json()
            return health["held"] == 2 * len(content) - 2

        wait_until(is_held)
        process.send_signal(signal.SIGINT)
        connection.sendall(content[-1:])
        assert b" 200 " in connection.recv(65536)
        assert b"the server is stopping" in unfinished.makefile("rb").read()
    out, err = process.communicate(timeout=HANGS)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.slow
def test_the_server_survives_whatever_is_sent(url):
    head = b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\n"
    endless = b"100000\r\n" + bytes(1 << 20) + b"\r\n"  # a megabyte
    answers = {
        b"\x16\x03\x01\x02\x00\x01garbage\r\n\r\n": b" 400 ",
        head + b"Content-Length: -1\r\n\r\n": b" 400 ",
        head + b"Content-Length: 99999999999999\r\n\r\nx": b" 413 ",
        head + b"Transfer-Encoding: chunked\r\n\r\n" + 40 * endless: b" 413 ",
        head + b"Content-Length: 1000\r\n\r\nbroken off": b"",
        b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n": b" 400 ",
    }
    for content, status in answers.items():
        assert status in raw(url, content).partition(b"\r\n")[0]
    with httpx.Client(base_url=url, timeout=HANGS) as client:
        assert client.get("/health").json()["status"] == "ok"
        assert client.post("/api/predict", content=FILES["grey"]()).json()["label"] == "7"


@pytest.mark.slow
def test_a_hundred_clients_at_once_all_get_their_own_answer(url):
    images, labels = load_dataset("mnist", "test[:100]")

    async def visit(client: httpx.AsyncClient, number: int) -> list[str]:
        content = png(images[number])
        answers = [await client.post("/api/predict", content=content) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3
        return [answer.json()["label"] for answer in answers]

    async def run() -> list[list[str]]:
        async with httpx.AsyncClient(base_url=url, timeout=HANGS) as client:  # 100 connections
            return await asyncio.gather(*(visit(client, number) for number in range(100)))

    before = httpx.get(f"{url}/health", timeout=HANGS).json()
    found = asyncio.run(run())
    after = httpx.get(f"{url}/health", timeout=HANGS).json()
    assert all(len({*answers}) == 1 for answers in found)
    assert np.mean(np.array(found)[:, 0] == labels.astype(str)) > 0.9
    images_, batches = (after[name] - before[name] for name in ("images", "batches"))
    assert (images_, after["waiting"]) == (300, 0)
    assert batches < images_


@pytest.mark.slow
def test_silent_connections_do_not_keep_the_others_out(trained, workdir, monkeypatch):
    monkeypatch.setattr(server_module, "CONNECTIONS", 3)
    for patience in itertools.accumulate(itertools.repeat(1), lambda seconds, _: 3 * seconds):
        monkeypatch.setattr(server_module, "SLOWEST", patience)
        with served(trained, workdir) as url:
            if ask_beside_silent_connections(url, patience):
                break


def ask_beside_silent_connections(url: str, patience: float) -> bool:
    """Returns False, having asserted nothing, if this process was too slow for the server."""
    question = b"GET /health HTTP/1.1\r\nHost: a\r\n"
    begun, answer = time.monotonic(), b""
    with contextlib.ExitStack() as stack:
        silent, unfinished, second, fourth = (
            stack.enter_context(socket.create_connection(address(url), timeout=HANGS))
            for _ in range(4)
        )
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            fourth.sendall(question + b"\r\n")
        refused = rest(fourth)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            unfinished.sendall(question)
            second.sendall(question + b"\r\n" + question)
            answer = second.recv(65536)
        if time.monotonic() - begun > patience:
            return False
        assert refused == b""  # three were open: it has no answer
        answer += rest(second)  # the second request is not finished: it ends, too
        assert answer.count(b" 200 ") == 1
        assert rest(silent) == rest(unfinished) == b""
        with httpx.Client(base_url=url, timeout=HANGS) as client:
            assert client.get("/health").json()["status"] == "ok"
    return True
