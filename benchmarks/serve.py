"""Times the page of `serve` under load, beside the shortest server, peers/minimal_serve.py.

    python benchmarks/serve.py --workdir runs/default

Servers run in separate processes on loopback, clients in this one. Prints medians of rounds.
"""

import argparse
import asyncio
import contextlib
import io
import itertools
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from machine import headline
from PIL import Image

from mnist_jax.datasets import load_dataset
from mnist_jax.reporting.pictures import png

SHEET = 280  # pixels per side of a drawing


def drawings(count: int) -> list[bytes]:
    """Returns test images as PNG files of dark drawings on white sheets."""
    images = load_dataset("mnist", f"test[:{count}]").images
    files = []
    for image in images:
        digit = Image.fromarray(255 - image[..., 0]).resize((SHEET, SHEET))
        file = io.BytesIO()
        digit.save(file, "PNG")
        files.append(file.getvalue())
    return files


async def load(url: str, files: list[bytes], clients: int, requests: int) -> list[float]:
    """Sends each client's requests in sequence; returns the seconds of each.

    Clients are bare sockets, since HTTPX would need as much time as the server.
    """
    host, port = url.removeprefix("http://").split(":")
    seconds = []

    async def visit(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for request in range(requests):
            content = files[(number * requests + request) % len(files)]
            head = f"POST /api/predict HTTP/1.1\r\nHost: {host}\r\n"
            start = time.perf_counter()
            writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", answer)
            body = await reader.readexactly(int(length[1]) if length else 0)
            seconds.append(time.perf_counter() - start)
            if b" 200 " not in answer.partition(b"\r\n")[0]:
                raise SystemExit(f"{answer.decode()}{body.decode()}")
        writer.close()

    await asyncio.gather(*map(visit, range(clients)))
    return seconds


def measure(url: str, files: list[bytes], clients: int, requests: int) -> dict[str, float]:
    """Returns the rate and latencies of one round."""
    start = time.perf_counter()
    seconds = asyncio.run(load(url, files, clients, requests))
    elapsed = time.perf_counter() - start
    p50, p95, p99 = np.percentile(seconds, (50, 95, 99))
    return {"rate": len(seconds) / elapsed, "p50": p50, "p95": p95, "p99": p99}


@contextlib.contextmanager
def running(*command: str | Path) -> Iterator[tuple[str, int]]:
    """Yields the URL of a server and its process."""
    server = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    try:
        match = re.match(r"(http://\S+)/ ", server.stdout.readline())
        if not match:
            raise SystemExit("the server does not start")
        yield match[1], server.pid
    finally:
        server.terminate()
        server.wait()


def photographs() -> list[bytes]:
    """Returns a JPEG file of a drawing, of 6 megapixels."""
    with Image.open(io.BytesIO(drawings(1)[0])) as digit:
        file = io.BytesIO()
        digit.resize((2450, 2450)).save(file, "JPEG")
    return [file.getvalue()]


def main() -> None:
    """Prints a row per kind of image, number of clients and server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/default"))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 100])
    parser.add_argument("--requests", type=int, default=200, help="of all clients, in a round")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    images = load_dataset("mnist", "test[:200]").images
    kinds = {
        "images of MNIST": [png(image) for image in images],
        "drawings": drawings(200),
        "photographs of 6 megapixels": photographs(),
    }
    serve = ("-m", "mnist_jax", "serve", "--workdir", args.workdir, "--port", "0")
    minimal = (Path(__file__).parent / "peers" / "minimal_serve.py", "--workdir", args.workdir)
    print(headline())
    print("| of | clients | server | answers/s | p50, ms | p95, ms | p99, ms |")
    print("|---|---|---|---|---|---|---|")
    with running(*serve) as (url, process), running(*minimal) as (peer, _):
        for (kind, files), clients in itertools.product(kinds.items(), args.clients):
            requests = max(1, args.requests // clients)
            rounds = [
                [measure(server, files, clients, requests) for server in (url, peer)]
                for _ in range(args.rounds)
            ]
            for name, of_server in zip(
                ("serve", "minimal"), zip(*rounds, strict=True), strict=True
            ):
                found = {key: statistics.median(r[key] for r in of_server) for key in rounds[0][0]}
                times = " | ".join(f"{1000 * found[key]:.1f}" for key in ("p50", "p95", "p99"))
                print(
                    f"| {kind} | {clients} | {name} | {found['rate']:.0f} | {times} |", flush=True
                )
        peak = Path(f"/proc/{process}/status")
        if peak.exists():
            lines = peak.read_text(encoding="utf-8").splitlines()
            line = next(line for line in lines if line.startswith("VmHWM"))
            print(f"Largest resident memory of the server: {int(line.split()[1]) // 1024} MB.")


if __name__ == "__main__":
    main()
