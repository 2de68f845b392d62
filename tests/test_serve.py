"""The page and its API: in this process, as a command of its own, and in a real browser."""

import asyncio
import base64
import contextlib
import io
import itertools
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, Route, expect

from mnist_jax import load_dataset, train
from mnist_jax.cli import main
from mnist_jax.config import Config, ModelConfig, OptimizerConfig
from mnist_jax.datasets import DataInfo
from mnist_jax.network import Network, as_network
from mnist_jax.pictures import png
from mnist_jax.predict import predict_files, prepare
from mnist_jax.serve import about, feature_sheets
from mnist_jax.serving import app as app_module
from mnist_jax.serving import server as server_module
from mnist_jax.serving.app import create_app
from mnist_jax.serving.server import create_server
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.workdir import Trained, load_trained

# Strokes of digits, in parts of a sheet.
SEVEN = ((0.3, 0.22), (0.7, 0.22), (0.6, 0.45), (0.5, 0.65), (0.44, 0.85))
ONE = ((0.5, 0.2), (0.5, 0.5), (0.5, 0.85))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """A small network that knows digits: one epoch, on all images but those for validation."""
    config = Config(
        epochs=1,
        batch_size=96,
        model=ModelConfig(features=8, kernel_size=5, hidden_size=64, dropout_rate=0.0),
        optimizer=OptimizerConfig(learning_rate=0.01, schedule="one_cycle", b1=0.7, b2=0.9),
    )
    path = tmp_path_factory.mktemp("serve") / "run"
    assert train(config, path).result["test_accuracy"] > 0.96
    return path


@pytest.fixture(scope="module")
def trained(workdir) -> Trained:
    return load_trained(workdir, "latest", replicated(create_mesh()))


class Client:
    """Talks to an application; each answer's status must be one that openapi.json promises."""

    def __init__(self, app: FastAPI, loop: asyncio.Runner, host: str = "localhost"):
        self.app, self._loop, self._url = app, loop, f"http://{host}"

    def get(self, path: str) -> httpx.Response:
        return self._loop.run(self._request("GET", path))

    def post(self, path: str, content: bytes) -> httpx.Response:
        return self._loop.run(self._request("POST", path, content))

    async def _request(self, method: str, path: str, content: bytes = b"") -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(base_url=self._url, transport=transport) as client:
            response = await client.request(method, path, content=content)
        promised = self.app.openapi()["paths"].get(path, {}).get(method.lower())
        if promised:
            assert str(response.status_code) in promised["responses"]
        if response.is_error and self._url == "http://localhost":
            assert {*response.json()} == {"detail"}
            assert "\n" not in response.json()["detail"]
        return response


@pytest.fixture
def connect(trained, workdir) -> Iterator[Callable[..., Client]]:
    """Makes an application of a network, and a client of it."""
    with asyncio.Runner() as loop:

        def make(network: Network, *allowed_hosts: str, host: str = "localhost") -> Client:
            sheets, facts = feature_sheets(trained), about(trained, workdir)
            app = create_app(network, sheets, facts, allowed_hosts or ("*",))
            return Client(app, loop, host)

        yield make


@pytest.fixture
def client(connect, trained) -> Client:
    return connect(as_network(trained))


def file_of(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def drawn(strokes: tuple = SEVEN, size: int = 300, ink: Any = 20, mode: str = "L") -> Image.Image:
    picture = Image.new(mode, (size, size), {"L": 240, "RGB": "ivory", "RGBA": (0, 0, 0, 0)}[mode])
    line = [(size * x, size * y) for x, y in strokes]
    ImageDraw.Draw(picture).line(line, fill=ink, width=size // 16, joint="curve")
    return picture


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


FILES = {
    "grey": lambda: file_of(drawn()),
    "colour": lambda: file_of(drawn(mode="RGB", ink="navy"), "JPEG"),
    "turned": lambda: file_of(drawn().rotate(90), "JPEG", exif=exif(6)),
    "transparent": lambda: file_of(drawn(mode="RGBA", ink="black")),
    "white on transparent": lambda: file_of(drawn(mode="RGBA", ink="white")),
    "animated": lambda: file_of(drawn(), "GIF", save_all=True, append_images=[drawn(ONE)]),
    "of MNIST": lambda: png(load_dataset("mnist", "test[:1]").images[0]),
    "of 14 MB": lambda: file_of(drawn(size=3800), "BMP"),
    "blank": lambda: file_of(Image.new("L", (90, 60), 250)),
}


@pytest.mark.parametrize("name", FILES)
def test_the_answer_is_that_of_predict_to_the_last_digit(name, client, trained, tmp_path):
    content = FILES[name]()
    (tmp_path / "a").write_bytes(content)
    (expected,) = predict_files(as_network(trained), [tmp_path / "a"])
    found = client.post("/api/predict", content=content).json()
    probabilities = found.pop("probabilities")
    assert found | {"image": str(tmp_path / "a")} == expected._asdict()
    if name == "blank":
        assert (found["label"], probabilities) == (None, {})
    else:
        assert found["label"] == "7"
        assert max(probabilities.values()) == found["probability"]
        assert sum(probabilities.values()) == pytest.approx(1)


def pixels_of(data_url: str) -> np.ndarray:
    head, _, content = data_url.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        return np.asarray(picture)


def test_explain_shows_what_the_network_is_given(client, trained):
    content = FILES["colour"]()
    found = client.post("/api/explain", content=content).json()
    with Image.open(io.BytesIO(content)) as picture:
        expected = prepare(picture.copy(), trained.info).pixels[..., 0]
    np.testing.assert_array_equal(pixels_of(found["seen"]), expected)
    assert {*found["feature_maps"]} == {"conv1"}
    assert pixels_of(found["feature_maps"]["conv1"]).shape == (12, 8 * 12 + 7)  # 8 of 12x12
    assert client.post("/api/predict", content=content).json().items() <= found.items()


def test_a_network_of_colour_pictures_with_other_classes(connect, trained):
    info = DataInfo(image_shape=(8, 12, 3), label_names=("a cat", "a dog"), drawing_box=0)
    given = []

    def apply(_, images):
        given.append(images)
        return np.tile(np.array([0.25, 0.75], np.float32), (len(images), 1)), np.ones(
            len(images), int
        )

    client = connect(as_network(trained)._replace(apply=apply, info=info))
    pixels = np.random.default_rng(0).integers(0, 256, info.image_shape, np.uint8)
    found = client.post("/api/predict", content=png(pixels)).json()
    np.testing.assert_array_equal(given[0][0], pixels)
    assert (found["label"], found["probabilities"]) == ("a dog", {"a cat": 0.25, "a dog": 0.75})


def test_it_says_which_network_it_is_and_nothing_of_this_computer(client, workdir):
    response = client.get("/api/network")
    assert str(workdir.parent) not in response.text
    found = response.json()
    assert (found["architecture"], found["dataset"], found["drawings"]) == ("cnn", "mnist", True)
    assert found["label_names"] == list("0123456789")
    assert found["test_accuracy"] > 0.96


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says that it is so large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


BAD = {
    "nothing": (b"", 400, "no body"),
    "text": (b"a, b, c\n", 422, "is no image that can be read: expected PNG"),
    "an SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "is no image"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 422, "is no image"),
    "cut off": (FILES["grey"]()[:-60], 422, "cannot be read as an image"),
    "a bomb": (claiming(50_000, 50_000), 413, "pixels"),
    "more than a page takes": (claiming(10_000, 5_001), 413, "at most 50,000,000 fit"),
    "many bytes": (bytes(20_000_001), 413, "at most 20,000,000 bytes"),
}


@pytest.mark.parametrize("path", ["/api/predict", "/api/explain"])
@pytest.mark.parametrize("name", BAD)
def test_bad_uploads(name, path, client):
    content, status, message = BAD[name]
    response = client.post(path, content=content)
    assert response.status_code == status
    assert message in response.json()["detail"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_damaged_images_of_every_kind(kind, client):
    whole = file_of(drawn(size=60), kind)
    rng = np.random.default_rng(0)
    for _ in range(15):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(0, min(len(whole), 400), 3)] = rng.integers(0, 256, 3)
        status = client.post("/api/predict", content=damaged.tobytes()).status_code
        assert status in (200, 413, 422)


def test_other_paths_and_methods(client):
    response = client.get("/api/predict")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert client.get("/../../etc/passwd").status_code == 404
    assert client.get("/docs").status_code == 404  # it would load scripts from elsewhere


def test_the_api_is_documented(client):
    found = client.get("/openapi.json").json()
    assert {*found["paths"]} == {"/api/predict", "/api/explain", "/api/network", "/health"}
    for path in ("/api/predict", "/api/explain"):
        operation = found["paths"][path]["post"]
        assert {"image/*", "image/png"} <= {*operation["requestBody"]["content"]}
        assert {*operation["responses"]} == {"200", *map(str, app_module.PROBLEMS)}
    for schema in found["components"]["schemas"].values():
        assert all("description" in field for field in schema["properties"].values())


def test_a_foreign_name_for_this_computer_is_refused(connect, trained):
    for host, status in {"localhost:8000": 200, "evil.example": 400}.items():
        client = connect(as_network(trained), "localhost", host=host)
        assert client.get("/").status_code == status


def test_too_much_at_once_is_told_to_come_again(client, monkeypatch):
    for limit in ("MAX_WAITING", "MAX_HELD"):
        with monkeypatch.context() as patch:
            patch.setattr(app_module, limit, 0)
            response = client.post("/api/predict", content=FILES["grey"]())
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert client.post("/api/predict", content=FILES["grey"]()).status_code == 200


def test_an_unexpected_error_is_one_sentence_and_the_next_is_answered(connect, trained):
    network = as_network(trained)
    fails = itertools.chain([True], itertools.repeat(False))

    def apply(variables, images):
        if next(fails):
            raise RuntimeError("out of something")
        return network.apply(variables, images)

    client = connect(network._replace(apply=apply))
    response = client.post("/api/predict", content=FILES["grey"]())
    assert (response.status_code, response.json()) == (500, {"detail": "unexpected RuntimeError"})
    assert client.post("/api/predict", content=FILES["grey"]()).json()["label"] == "7"


def exchange(app: Any, *messages: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Sends what a server would for an upload, None: nothing comes any more; returns the answer."""
    scope = {"type": "http", "method": "POST", "path": "/api/predict", "headers": []}
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "server": ("a", 1)}
    coming, sent = iter(messages), []

    async def receive() -> dict[str, Any]:
        message = next(coming)
        if message is None:
            await asyncio.sleep(60)
        return message or {}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope["headers"] = [(b"host", b"a")]
    asyncio.run(app(scope, receive, send))
    return sent


def part(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_slow_upload_is_ended(client, monkeypatch):
    monkeypatch.setattr(app_module, "SLOWEST", 0.1)
    head, body = exchange(client.app, part(b"x"), None)
    assert head["status"] == 408
    assert b"longer than" in body["body"]


def test_of_an_endless_upload_no_more_is_read(client):
    parts = [part(bytes(1_000_000)) for _ in range(21)]
    head, _ = exchange(client.app, *parts)  # a further part would raise StopIteration
    assert head["status"] == 413


def test_nothing_is_kept_of_what_is_answered(client):
    for content, status in [(FILES["grey"](), 200), (b"no image", 422), (bytes(20_000_001), 413)]:
        assert client.post("/api/predict", content=content).status_code == status
        found = client.get("/health").json()
        assert (found["waiting"], found["held"]) == (0, 0)


def test_an_upload_that_is_broken_off_is_no_error(client):
    head, _ = exchange(client.app, part(b"x"), {"type": "http.disconnect"})
    assert head["status"] == 400


@pytest.fixture
def bounded(trained, workdir, monkeypatch) -> Iterator[str]:
    """The URL of a server in this process that has three connections, and little patience."""
    monkeypatch.setattr(server_module, "CONNECTIONS", 3)
    monkeypatch.setattr(server_module, "SLOWEST", 2)
    app = create_app(as_network(trained), feature_sheets(trained), about(trained, workdir))
    server = create_server(app)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def test_silent_connections_do_not_keep_the_others_out(bounded):
    question = b"GET /health HTTP/1.1\r\nHost: a\r\n"

    def rest(connection: socket.socket) -> bytes:
        """What comes until the other side ends it."""
        found = b""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while data := connection.recv(65536):
                found += data
        return found

    with contextlib.ExitStack() as stack:
        silent, unfinished, second, fourth = (
            stack.enter_context(socket.create_connection(address(bounded), timeout=15))
            for _ in range(4)
        )
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            fourth.sendall(question + b"\r\n")
        assert rest(fourth) == b""  # three are open: it has no answer
        unfinished.sendall(question)
        second.sendall(question + b"\r\n" + question)
        assert b" 200 " in rest(second)  # the second request is not finished: it ends, too
        assert rest(silent) == rest(unfinished) == b""
        with httpx.Client(base_url=bounded) as client:
            assert client.get("/health").json()["status"] == "ok"


# ---- The command


@pytest.fixture(scope="module")
def start(workdir) -> Iterator[Callable[..., tuple[subprocess.Popen, str]]]:
    """Starts `mnist-jax serve`; returns the process and the URL that it prints."""
    started: list[subprocess.Popen] = []

    def run(*args: str) -> tuple[subprocess.Popen, str]:
        command = [sys.executable, "-m", "mnist_jax", "serve", "--workdir", workdir, "--port", "0"]
        process = subprocess.Popen(
            [*command, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
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


def address(url: str) -> tuple[str, int]:
    return "127.0.0.1", int(url.rpartition(":")[2])


def raw(url: str, content: bytes) -> bytes:
    """Sends bytes, and returns the answer up to the end of the connection."""
    with socket.create_connection(address(url), timeout=10) as connection:
        try:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has answered already
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


def test_the_server_outlives_whatever_is_sent(url):
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
    with httpx.Client(base_url=url) as client:
        for content, expected, _ in BAD.values():
            assert client.post("/api/predict", content=content).status_code == expected
        assert client.get("/health").json()["status"] == "ok"
        assert client.post("/api/predict", content=FILES["grey"]()).json()["label"] == "7"


def test_a_hundred_clients_at_once_all_get_their_own_answer(url):
    images, labels = load_dataset("mnist", "test[:100]")

    async def visit(client: httpx.AsyncClient, number: int) -> list[str]:
        content = png(images[number])
        answers = [await client.post("/api/predict", content=content) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3
        return [answer.json()["label"] for answer in answers]

    async def run() -> list[list[str]]:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:  # 100 connections
            return await asyncio.gather(*(visit(client, number) for number in range(100)))

    before = httpx.get(f"{url}/health").json()
    found = asyncio.run(run())
    after = httpx.get(f"{url}/health").json()
    assert all(len({*answers}) == 1 for answers in found)
    assert (
        np.mean([answers[0] == str(label) for answers, label in zip(found, labels, strict=True)])
        > 0.9
    )
    images_, batches = (after[name] - before[name] for name in ("images", "batches"))
    assert (images_, after["waiting"]) == (300, 0)
    assert batches < images_


@pytest.mark.parametrize(
    ("signum", "options"), [(signal.SIGINT, []), (signal.SIGTERM, ["--host", "0.0.0.0"])]
)
def test_a_signal_ends_it_and_lets_what_is_asked_be_answered(start, signum, options):
    process, url = start(*options)
    assert url.startswith("http://127.0.0.1:")  # no browser goes to 0.0.0.0
    if options:
        assert process.stdout
        assert process.stdout.readline().startswith("anyone who can reach this computer can use it")
    large = file_of(drawn(size=3000))
    head = f"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(large)}\r\n\r\n"
    with (
        socket.create_connection(address(url), timeout=10) as connection,
        socket.create_connection(address(url), timeout=10) as unfinished,
    ):
        unfinished.sendall(head.encode() + large[:1000])
        connection.sendall(head.encode() + large)
        deadline = time.monotonic() + 10
        while httpx.get(f"{url}/health").json()["held"] <= len(large):  # not both have come
            assert time.monotonic() < deadline
        process.send_signal(signum)
        assert b" 200 " in connection.recv(65536)
        assert b"the server stops" in unfinished.makefile("rb").read()
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "", "")


def test_what_cannot_be_served_is_one_line(workdir, url, capsys, monkeypatch):
    port = str(address(url)[1])
    refused = {
        ("--port", port): f"port {port}: Address already in use; choose another",
        ("--port", port, "--workdir", "nowhere"): "Address already in use",  # told at once
        ("--quiet",): "serve prints where it listens: --quiet and --json are for the other",
        ("--json",): "serve prints where it listens: --quiet and --json are for the other",
        ("--port", "70000"): "--port must be 0 to 65535, got 70000",
        ("--host", "no.such.host.invalid"): "cannot listen at 'no.such.host.invalid'",
    }
    for arguments, message in refused.items():
        assert main(["serve", f"--workdir={workdir}", *arguments]) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert (captured.out, len(captured.err.splitlines())) == ("", 1)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main(["serve", f"--workdir={workdir}"]) == 2
    assert "pip install fastapi uvicorn" in capsys.readouterr().err


# ---- The page, in a browser


@pytest.fixture
def page(browser: Browser, url: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page, at rest. It must load nothing from elsewhere, and report no error."""
    context = browser.new_context(**getattr(request, "param", {}))
    page = context.new_page()
    said, loaded = [], []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda asked: loaded.append(asked.url))
    page.goto(url)
    expect(page.locator("#bars li")).to_have_count(10)
    yield page
    assert all(asked.startswith((url, "data:")) for asked in loaded)
    assert not [text for text in said if not text.startswith("Failed to load resource")]
    context.close()


def draw(page: Page, stroke: tuple) -> None:
    box = page.locator("#canvas").bounding_box()
    assert box
    for number, (x, y) in enumerate(stroke):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=5)
        if number == 0:
            page.mouse.down()
    page.mouse.up()


def test_a_digit_drawn_with_the_mouse_is_read(page):
    expect(page.locator("h1")).to_have_text("Draw a digit")
    draw(page, SEVEN)
    expect(page.locator("#label")).to_have_text("7")
    expect(page.locator("#bars .best .name")).to_have_text("7")
    expect(page.locator("#sure")).to_contain_text("% sure")
    expect(page.locator("#spoken")).to_contain_text("7, ")
    expect(page.locator("#maps img")).to_have_count(1)
    seen = pixels_of(page.locator("#seen").get_attribute("src") or "")
    assert seen.shape == (28, 28)
    assert seen.max() == 255


def test_undo_and_clear_by_key_and_button(page):
    draw(page, SEVEN)
    draw(page, ((0.35, 0.5), (0.65, 0.5)))
    expect(page.locator("#label")).to_have_text("7")
    page.keyboard.press("Control+z")
    page.locator("#undo").click()
    expect(page.locator("#label")).to_have_class("none")
    expect(page.locator("#undo")).to_be_disabled()
    expect(page.locator("#seen")).to_be_hidden()
    draw(page, ONE)
    expect(page.locator("#label")).to_have_text("1")
    page.keyboard.press("Escape")
    expect(page.locator("#sure")).to_have_text("Nothing is drawn yet.")
    draw(page, ONE)
    page.locator("#clear").click()
    expect(page.locator("#hint")).to_be_visible()


def test_a_photo_is_read_and_a_bad_one_is_told(page):
    photo = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": FILES["colour"]()}
    page.locator("#file").set_input_files([photo])
    expect(page.locator("#label")).to_have_text("7")
    photo = {"name": "b.jpg", "mimeType": "image/jpeg", "buffer": b"no photo"}
    page.locator("#file").set_input_files([photo])
    expect(page.locator("#notice")).to_contain_text("is no image that can be read")
    expect(page.locator("#label")).to_have_class("none")
    photo |= {"buffer": FILES["blank"]()}
    page.locator("#file").set_input_files([photo])
    expect(page.locator("#sure")).to_have_text("There is nothing to see.")
    expect(page.locator("#notice")).to_be_hidden()
    draw(page, ONE)  # takes the photo's place
    expect(page.locator("#label")).to_have_text("1")


def test_a_lost_server_is_told_and_the_page_goes_on_when_it_is_back(page):
    page.route("**/api/explain", lambda route: route.abort())
    page.route("**/health", lambda route: route.abort())
    draw(page, SEVEN)
    expect(page.locator("#notice")).to_contain_text("The server does not answer")
    page.keyboard.press("Escape")
    draw(page, SEVEN)
    expect(page.locator("#sure")).to_have_text("Asking…")
    expect(page.locator("#notice")).to_contain_text("The server does not answer")
    page.unroute("**/api/explain")
    page.unroute("**/health")
    expect(page.locator("#label")).to_have_text("7")
    expect(page.locator("#notice")).to_be_hidden()


def test_a_busy_server_is_told_and_asked_again(page):
    page.route("**/api/explain", lambda route: route.fulfill(status=503, json={"detail": "busy"}))
    draw(page, SEVEN)
    expect(page.locator("#notice")).to_have_text("The server is busy.")
    page.unroute("**/api/explain")
    expect(page.locator("#label")).to_have_text("7")
    expect(page.locator("#notice")).to_be_hidden()


def test_a_server_that_fails_at_the_start_is_asked_again(page):
    problems = iter([500, 503])

    def fail(route: Route) -> None:
        status = next(problems, None)
        if status:
            route.fulfill(status=status, json={"detail": "not yet"})
        else:
            route.continue_()

    page.route("**/api/network", fail)
    page.reload()
    expect(page.locator("h1")).to_have_text("Draw a digit")
    expect(page.locator("#notice")).to_be_hidden()


def test_the_last_answer_is_of_all_that_is_drawn(page):
    """Also where a point comes after the canvas was redrawn, and before the next request."""
    asked, held = [], []
    page.on("request", lambda request: asked.append(request.post_data_buffer))
    page.route("**/api/explain", lambda route: route.continue_() if held else held.append(route))
    page.evaluate("() => { window.requestAnimationFrame = (draw) => setTimeout(draw, 300) }")
    draw(page, ONE)
    wait_until(page, lambda: held)
    draw(page, SEVEN)  # while the first drawing is being asked about
    held[0].continue_()

    def is_asked() -> bool:
        sheet = pixels_of(page.locator("#canvas").evaluate("(canvas) => canvas.toDataURL()"))
        with Image.open(io.BytesIO(asked[-1])) as last:
            return len(asked) > 1 and np.array_equal(np.asarray(last), sheet)

    page.wait_for_timeout(1000)  # the last frame has come
    wait_until(page, is_asked)


def wait_until(page: Page, is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)


def test_of_many_classes_the_likeliest_are_shown(page):
    names = ["constructor", "__proto__", *(f"class {number}" for number in range(2, 300))]
    probabilities = {name: number / sum(range(300)) for number, name in enumerate(names)}
    network = {"architecture": "resnet", "dataset": "things", "params": 1, "step": 1}
    network |= {"label_names": names, "image_shape": [32, 32, 3], "drawings": False}
    network |= {"test_accuracy": None}
    answer = {"label": "class 299", "probability": 0.01, "problem": "the network is not sure"}
    answer |= {"runner_up": "class 298", "runner_up_probability": 0.009}
    answer |= {"probabilities": probabilities, "seen": "data:,", "feature_maps": {}}
    page.route("**/api/network", lambda route: route.fulfill(json=network))
    page.route("**/api/explain", lambda route: route.fulfill(json=answer))
    page.reload()
    expect(page.locator("#about")).to_contain_text("300 classes. It has learned from pictures")
    expect(page.locator("#bars .share")).to_have_text([""] * 10)
    draw(page, SEVEN)
    expect(page.locator("#label")).to_have_text("class 299")
    expect(page.locator("#doubt")).to_have_text("The network is not sure.")
    expected = [f"class {number}" for number in range(299, 289, -1)]
    expect(page.locator("#bars .name")).to_have_text(expected)


PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.mark.parametrize("page", [PHONE, PHONE | {"color_scheme": "dark"}], indirect=True)
def test_on_a_phone_with_a_finger(page):
    box = page.locator("#canvas").bounding_box()
    points = [
        {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in SEVEN
    ]
    finger = page.context.new_cdp_session(page)
    for number, point in enumerate(points):
        kind = "touchMove" if number else "touchStart"
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect(page.locator("#label")).to_have_text("7")
    assert page.evaluate("scrollY") == 0  # the finger draws
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    bottom = page.locator("#bars li").last.bounding_box()
    assert bottom["y"] + bottom["height"] <= 844  # canvas and answer are seen together
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    is_dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (max(map(int, re.findall(r"\d+", ground))) < 64) == is_dark


@pytest.mark.parametrize("page", [{"viewport": {"width": 640, "height": 320}}], indirect=True)
def test_on_a_phone_that_lies_on_its_side(page):
    draw(page, SEVEN)
    expect(page.locator("#label")).to_have_text("7")
    canvas = page.locator("#canvas").bounding_box()
    bars = page.locator("#bars").bounding_box()
    assert canvas["width"] > 200
    assert bars["x"] > canvas["x"] + canvas["width"]  # side by side
    assert max(box["y"] + box["height"] for box in (canvas, bars)) <= 320
    assert page.evaluate("document.documentElement.scrollWidth") <= 640
