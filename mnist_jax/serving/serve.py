"""Serves the page to draw on, with the network of a work directory."""

import contextlib
import functools
import importlib
import ipaddress
import os
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax.machine.extras import require
from mnist_jax.network import Network, as_network
from mnist_jax.parts import OwnModel
from mnist_jax.reporting.filters import feature_maps, map_sheets
from mnist_jax.steps import to_float
from mnist_jax.workdir.run import read_result
from mnist_jax.workdir.trained import Trained, load_trained

if TYPE_CHECKING:
    from mnist_jax.serving.api import About


def serve(
    workdir: str | Path,
    step: int | str = "latest",
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    model: OwnModel = None,
) -> None:
    """Serves a page to draw on until a signal ends it.

    Args:
        workdir: a directory that `train` has written; `step` and `model` as in `load_trained`.
        step: see there.
        host: the address to listen at; with "0.0.0.0" anyone on the network can use the page.
        port: 0 is any that is free.
        model: see there.

    Raises:
        FileNotFoundError: there is no trained network in `workdir`.
        ValueError: it has no such step, cannot be read, or FastAPI or uvicorn is not installed.
        OSError: the address or the port cannot be had.
    """
    require("the page", "fastapi", "uvicorn", extra="serve")
    from mnist_jax.serving.app import create_app
    from mnist_jax.serving.server import create_server

    with _listen(host, port) as listener:  # first: a port that is taken is told at once
        address, port = listener.getsockname()[:2]
        trained = load_trained(workdir, step, model=model)
        channels = trained.info.image_shape[2]
        if channels not in (1, 3):
            raise ValueError(
                f"a drawing has 1 or 3 channels, the network of {workdir} is for {channels}"
            )
        network, sheets = as_network(trained), feature_sheets(trained)
        is_private = ipaddress.ip_address(address).is_loopback
        names = {host, address, "localhost", "127.0.0.1", "[::1]"} if is_private else {"*"}
        server = create_server(create_app(network, sheets, about(trained, workdir), sorted(names)))
        _compile(network, sheets)
        # Ctrl-C is how it ends, no error: uvicorn raises the signal again when all is closed.
        with warnings.catch_warnings(), contextlib.suppress(KeyboardInterrupt):
            warnings.simplefilter("ignore")  # Pillow's, of what is uploaded
            # No browser goes to the addresses that mean all.
            here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address) or str(address)
            print(f"http://{f'[{here}]' if ':' in here else here}:{port}/ (Ctrl-C ends it)")
            if not is_private:
                print(f"anyone who can reach this computer can use it: it listens at {address}")
            server.run([listener])


def about(trained: Trained, workdir: str | Path) -> "About":
    """Describes a network for the page."""
    from mnist_jax.serving.api import About

    result = read_result(Path(workdir)) or {}  # of an unfinished training there is none
    measured = result.get("best_step" if trained.config.watch.patience else "steps")
    same: Any = {name: getattr(trained, name) for name in ("step", "architecture", "dataset")}
    same |= {name: [*getattr(trained.info, name)] for name in ("label_names", "image_shape")}
    return About(
        **same,
        drawings=bool(trained.info.drawing_box),
        params=sum(leaf.size for leaf in jax.tree.leaves(trained.variables["params"])),
        test_accuracy=result["test_accuracy"] if measured == trained.step else None,
    )


def feature_sheets(trained: Trained) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Returns a function that draws the feature maps of an image.

    It takes uint8 [H, W, C], and returns uint8 [H', W', 1] by the name of each convolution.
    """
    maps = functools.partial(feature_maps, trained.model, trained.variables)
    return lambda image: map_sheets(maps(to_float(jnp.asarray(image[None]))))


def _compile(network: Network, sheets: Callable[[np.ndarray], dict[str, np.ndarray]]) -> None:
    """Compiles, and imports SciPy, before the first visitor waits for it."""
    from mnist_jax.serving.app import LARGEST_BATCH

    blank = np.zeros(network.info.image_shape, np.uint8)
    for size in (2**power for power in range(LARGEST_BATCH.bit_length())):
        network.predict(np.stack([blank] * size))
    sheets(blank)
    importlib.import_module("mnist_jax.handwriting.ink")


def _listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens: who connects from now on is served, if a little later."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port must be 0 to 65535, got {port}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return socket.create_server(found[0][4], family=found[0][0])
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0  # below 0: of the name, not of the system
        reason = os.strerror(number) if number > 0 else getattr(error, "strerror", error)
        raise OSError(
            f"cannot listen at {host!r}, port {port}: {reason}; choose another --host or --port"
        ) from error
