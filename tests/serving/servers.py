"""A network behind the page and its API, clients of it, and files that are sent to it."""

import asyncio
import base64
import contextlib
import io
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image, ImageDraw

from mnist_jax import load_dataset, train
from mnist_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig
from mnist_jax.network import Network, as_network
from mnist_jax.reporting.pictures import png
from mnist_jax.serving.app import create_app
from mnist_jax.serving.serve import about, feature_sheets
from mnist_jax.serving.server import create_server
from mnist_jax.workdir.trained import Trained, load_trained

HANGS = 120  # seconds after which something hangs

# Strokes of digits, in parts of a sheet.
SEVEN = ((0.3, 0.22), (0.7, 0.22), (0.6, 0.45), (0.5, 0.65), (0.44, 0.85))
ONE = ((0.5, 0.2), (0.5, 0.5), (0.5, 0.85))


@pytest.fixture(scope="session")
def workdir(tmp_path_factory) -> Path:
    """Trains a small network that knows digits."""
    data = DataConfig(train_split="train[:20000]")
    model = ModelConfig(features=8, kernel_size=5, hidden_size=64, dropout_rate=0.0)
    optimizer = OptimizerConfig(learning_rate=0.01, schedule="one_cycle", b1=0.7, b2=0.9)
    config = Config(epochs=1, batch_size=96, data=data, model=model, optimizer=optimizer)
    path = tmp_path_factory.mktemp("serve") / "run"
    assert (train(config, path).result["test_accuracy"] or 0) > 0.93
    return path


@pytest.fixture(scope="session")
def trained(workdir) -> Trained:
    return load_trained(workdir)


class Client:
    """Talks to an application; each answer's status must be one that openapi.json promises."""

    def __init__(self, app: FastAPI, loop: asyncio.Runner, host: str = "localhost"):
        self.app, self._loop, self._url = app, loop, f"http://{host}"

    def get(self, path: str) -> httpx.Response:
        return self._loop.run(self._request("GET", path))

    def post(self, path: str, content: bytes = b"", **options: Any) -> httpx.Response:
        return self._loop.run(self._request("POST", path, content=content or None, **options))

    async def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(base_url=self._url, transport=transport) as client:
            response = await client.request(method, path, **options)
        promised = self.app.openapi()["paths"].get(path, {}).get(method.lower())
        if promised:
            assert str(response.status_code) in promised["responses"]
        if response.is_error and self._url == "http://localhost":
            assert {*response.json()} == {"detail"}
            assert "\n" not in response.json()["detail"]
        return response


@pytest.fixture
def connect(trained, workdir) -> Iterator[Callable[..., Client]]:
    """Makes a client of an application with a network."""
    with asyncio.Runner() as loop:

        def make(network: Network, *allowed_hosts: str, host: str = "localhost") -> Client:
            page = feature_sheets(trained), about(trained, workdir)
            return Client(create_app(network, *page, allowed_hosts or ("*",)), loop, host)

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


TURNED = Image.Exif()
TURNED[0x0112] = 6  # Orientation

FILES = {
    "grey": lambda: file_of(drawn()),
    "colour": lambda: file_of(drawn(mode="RGB", ink="navy"), "JPEG"),
    "turned": lambda: file_of(drawn().rotate(90), "JPEG", exif=TURNED),
    "transparent": lambda: file_of(drawn(mode="RGBA", ink="black")),
    "white on transparent": lambda: file_of(drawn(mode="RGBA", ink="white")),
    "animated": lambda: file_of(drawn(), "GIF", save_all=True, append_images=[drawn(ONE)]),
    "of MNIST": lambda: png(load_dataset("mnist", "test[:1]").images[0]),
    "of 14 MB": lambda: file_of(drawn(size=3800), "BMP"),
    "blank": lambda: file_of(Image.new("L", (90, 60), 250)),
}


def pixels_of(data_url: str) -> np.ndarray:
    head, _, content = data_url.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        return np.asarray(picture)


def claiming(width: int, height: int) -> bytes:
    """Makes a PNG of a few bytes whose header claims this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    small = file_of(Image.new("L", (1, 1)))
    return small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
BAD = {
    "nothing": (b"", 400, "no body"),
    "text": (b"a, b, c\n", 422, "is not a readable image; expected PNG"),
    "an SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "is a vector drawing (SVG)"),
    "PostScript": (EPS, 422, "is not a readable image"),
    "cut off": (FILES["grey"]()[:-60], 422, "cannot be read as an image"),
    "a bomb": (claiming(50_000, 50_000), 413, "pixels"),
    "more than a page takes": (claiming(10_000, 5_001), 413, "at most 50,000,000 fit"),
    "many bytes": (bytes(20_000_001), 413, "at most 20,000,000 bytes"),
}


@contextlib.contextmanager
def served(trained: Trained, workdir: Path) -> Iterator[str]:
    """Runs a server in a thread of this process, and yields its URL."""
    page = feature_sheets(trained), about(trained, workdir)
    server = create_server(create_app(as_network(trained), *page))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(HANGS)
        assert not thread.is_alive()


def address(url: str) -> tuple[str, int]:
    return "127.0.0.1", int(url.rpartition(":")[2])
