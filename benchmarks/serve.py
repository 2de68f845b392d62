"""The page under load: many clients at once, each sending one drawing after the other.

    python benchmarks/serve.py --workdir runs/default

The server runs in a process of its own, on loopback, and the clients in this one. Prints medians of
rounds: answers a second, latencies, images a call of the network. Any error ends it.
"""

import argparse
import asyncio
import io
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
from machine import describe, headline
from PIL import Image

from mnist_jax.datasets import load_dataset
from mnist_jax.reporting.pictures import png

SHEET = 280  # pixels a side of a drawing, as of a page's canvas


def drawings(count: int) -> list[bytes]:
    """Test images as dark drawings on white sheets, which have to be found there: PNG files."""
    images = load_dataset("mnist", f"test[:{count}]").images
    files = []
    for image in images:
        digit = Image.fromarray(255 - image[..., 0]).resize((SHEET, SHEET))
        file = io.BytesIO()
        digit.save(file, "PNG")
        files.append(file.getvalue())
    return files


async def load(url: str, files: list[bytes], clients: int, requests: int) -> list[float]:
    """Lets each client send its requests; returns the seconds that each of them took.

    The clients are bare sockets: HTTPX would take as much of the processor as the server.
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
    """Returns what one round gives."""
    before = httpx.get(f"{url}/health").json()
    start = time.perf_counter()
    seconds = asyncio.run(load(url, files, clients, requests))
    elapsed = time.perf_counter() - start
    after = httpx.get(f"{url}/health").json()
    p50, p95, p99 = np.percentile(seconds, (50, 95, 99))
    images, batches = (after[name] - before[name] for name in ("images", "batches"))
    return {
        "rate": len(seconds) / elapsed,
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "batch": images / batches,
    }


def main() -> None:
    """Prints a row for each kind of image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/default"))
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--requests", type=int, default=5, help="of each client, in a round")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    images = load_dataset("mnist", "test[:200]").images
    kinds = {"drawings": drawings(200), "images of MNIST": [png(image) for image in images]}
    server = subprocess.Popen(
        [sys.executable, "-m", "mnist_jax", "serve", "--workdir", args.workdir, "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout
        match = re.match(r"(http://\S+)/ ", server.stdout.readline())
        if not match:
            raise SystemExit("the server does not start")
        print(headline(describe()))
        print("| of | clients | errors | answers/s | p50, s | p95, s | p99, s | images a call |")
        print("|---|---|---|---|---|---|---|---|")
        for kind, files in kinds.items():
            rounds = [
                measure(match[1], files, args.clients, args.requests) for _ in range(args.rounds)
            ]
            found = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
            print(
                f"| {kind} | {args.clients} | 0 | {found['rate']:.0f} | {found['p50']:.2f} | "
                f"{found['p95']:.2f} | {found['p99']:.2f} | {found['batch']:.1f} |"
            )
        peak = Path(f"/proc/{server.pid}/status")
        if peak.exists():
            lines = peak.read_text(encoding="utf-8").splitlines()
            line = next(line for line in lines if line.startswith("VmHWM"))
            print(f"Largest resident memory of the server: {int(line.split()[1]) // 1024} MB.")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
