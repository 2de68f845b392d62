"""Serves the page to draw on, with the network of a work directory."""

import importlib
import ipaddress
import os
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from mnist_jax.extras import require
from mnist_jax.features import feature_maps, map_sheets
from mnist_jax.network import as_network
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.workdir import Trained, load_trained, read_result

if TYPE_CHECKING:
    from mnist_jax.serving.api import About

CONNECTIONS = 900  # at a time: a process may have 1024 files open
LAST_REQUESTS = 3  # seconds that these have when the server is stopped


def serve(
    workdir: str | Path, step: int | str = "latest", *, host: str = "127.0.0.1", port: int = 8000
) -> None:
    """Serves a page to draw on until a signal ends it.

    Args:
        workdir: a directory that `train` has written.
        step: a saved step, "latest", or "best" by validation accuracy.
        host: the address to listen at; with "0.0.0.0" anyone on the network can use the page.
        port: 0 is any that is free.

    Raises:
        FileNotFoundError: there is no trained network in `workdir`.
        ValueError: it has no such step, cannot be read, or FastAPI or uvicorn is not installed.
        OSError: the address or the port cannot be had.
    """
    require("the page", "fastapi", "uvicorn", extra="serve")
    import uvicorn

    from mnist_jax.serving.app import LARGEST_BATCH, create_app

    trained = load_trained(workdir, step, replicated(create_mesh()))
    network, sheets = as_network(trained), feature_sheets(trained)
    listener = _listen(host, port)
    address, port = listener.getsockname()[:2]
    is_private = ipaddress.ip_address(address).is_loopback
    names = {host, address, "localhost", "127.0.0.1", "[::1]"} if is_private else {"*"}
    app = create_app(network, sheets, about(trained, workdir), sorted(names))

    # Compiles, and imports SciPy, before the first visitor waits for it.
    blank = np.zeros(network.info.image_shape, np.uint8)
    for size in (2**power for power in range(LARGEST_BATCH.bit_length())):
        network.predict(np.stack([blank] * size))
    sheets(blank)
    importlib.import_module("mnist_jax.ink")

    url = f"http://{f'[{address}]' if ':' in address else address}:{port}/"
    print(f"{url} (Ctrl-C ends it)")
    if not is_private:
        print(f"anyone who can reach this computer can use it: it listens at {address}")
    config = uvicorn.Config(
        app,
        access_log=False,
        lifespan="off",
        limit_concurrency=CONNECTIONS,
        log_config=None,
        log_level="error",
        server_header=False,
        timeout_graceful_shutdown=LAST_REQUESTS,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of what is uploaded
        uvicorn.Server(config).run([listener])


def about(trained: Trained, workdir: str | Path) -> "About":
    """Returns what the page says of a network."""
    from mnist_jax.serving.api import About

    result = read_result(Path(workdir)) or {}  # of an unfinished training there is none
    measured = result.get("best_step" if trained.config.watch.patience else "steps")
    return About(
        workdir=str(workdir),
        step=trained.step,
        architecture=trained.config.model.name,
        dataset=trained.config.data.dataset,
        label_names=list(trained.info.label_names),
        image_shape=list(trained.info.image_shape),
        drawings=bool(trained.info.drawing_box),
        params=sum(leaf.size for leaf in jax.tree.leaves(trained.variables["params"])),
        test_accuracy=result["test_accuracy"] if measured == trained.step else None,
    )


def feature_sheets(trained: Trained) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Returns a function that draws the feature maps of an image.

    It takes uint8 [H, W, C], and returns uint8 [H', W', 1] by the name of each convolution.
    """
    compute = jax.jit(lambda variables, images: feature_maps(trained.model, variables, images))

    def sheets(image: np.ndarray) -> dict[str, np.ndarray]:
        return map_sheets(compute(trained.variables, image[None].astype(np.float32) / 255))

    return sheets


def _listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens: who connects from now on is served, if a little later."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port must be 0 to 65535, got {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address, family=family)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0  # below 0: of the name, not of the system
        reason = os.strerror(number) if number > 0 else getattr(error, "strerror", error)
        raise OSError(
            f"cannot listen at {host!r}, port {port}: {reason}; choose another --host or --port"
        ) from error
