"""The shortest server that classifies as `mnist-jax serve` does, without limits.

python benchmarks/peers/minimal_serve.py --workdir runs/default
"""

import argparse
import io
import socket

import uvicorn
from fastapi import FastAPI, Request

from mnist_jax.datasets.image_files import decode_image
from mnist_jax.handwriting.files import prepare
from mnist_jax.network import load_network


def main() -> None:
    """Serves POST /api/predict at a free port, and prints its URL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True)
    network = load_network(parser.parse_args().workdir)
    app = FastAPI()

    @app.post("/api/predict")
    async def predict(request: Request) -> dict[str, str | float]:
        picture = decode_image(io.BytesIO(await request.body()), "the upload")
        probabilities, classes = network.predict(prepare(picture, network.info).pixels[None])
        label = int(classes[0])
        return {
            "label": network.info.label_names[label],
            "probability": float(probabilities[0, label]),
        }

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/ ", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False)).run([listener])


if __name__ == "__main__":
    main()
