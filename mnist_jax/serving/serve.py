"""The server of the page to draw on."""

import contextlib
import functools
import importlib
import ipaddress
import os
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from mnist_jax.machine.extras import require
from mnist_jax.network import Network, as_network
from mnist_jax.parts import OwnModel
from mnist_jax.reporting.filters import feature_maps, map_sheets
from mnist_jax.state import count_params
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
    """Serves a page to draw on until a signal arrives.

    Args:
        workdir: directory written by `train`.
        step: saved step, "latest" or "best", as in `load_trained`.
        host: address to listen at; "0.0.0.0" makes the page reachable from other computers.
        port: port number; 0 selects a free one.
        model: the network's own module, as in `train`.

    Raises:
        FileNotFoundError: `workdir` holds no trained network.
        ValueError: the step is missing or unreadable, or FastAPI or uvicorn is not installed.
        OSError: the address or the port is not available.
    """
    require("the page", "fastapi", "uvicorn", extra="serve")
    from mnist_jax.serving.app import create_app
    from mnist_jax.serving.server import create_server

    with _listen(host, port) as listener:  # first, to report a taken port at once
        address, port = listener.getsockname()[:2]
        trained = load_trained(workdir, step, model=model)
        channels = trained.info.image_shape[2]
        if channels not in (1, 3):
            raise ValueError(
                f"the network of {workdir} expects {channels} channels; drawings have 1 or 3"
            )
        network, sheets = as_network(trained), feature_sheets(trained)
        is_private = ipaddress.ip_address(address).is_loopback
        names = {host, address, "localhost", "127.0.0.1", "[::1]"} if is_private else {"*"}
        server = create_server(create_app(network, sheets, about(trained, workdir), sorted(names)))
        _compile(network, sheets)
        # Ctrl-C is the normal end; uvicorn raises the signal again after closing.
        with warnings.catch_warnings(), contextlib.suppress(KeyboardInterrupt):
            warnings.simplefilter("ignore")  # Pillow warns of uploads
            # Browsers cannot open the wildcard addresses.
            here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address) or str(address)
            print(f"http://{f'[{here}]' if ':' in here else here}:{port}/ (Ctrl-C to stop)")
            if not is_private:
                print(f"anyone who can reach this computer can use it, at {address}")
            server.run([listener])


def about(trained: Trained, workdir: str | Path) -> "About":
    """Describes a network for the page."""
    from mnist_jax.serving.api import About

    result = read_result(Path(workdir)) or {}  # none before training ends
    measured = result.get("best_step" if trained.config.watch.patience else "steps")
    return About(
        step=trained.step,
        architecture=trained.architecture,
        dataset=trained.dataset,
        label_names=[*trained.info.label_names],
        image_shape=[*trained.info.image_shape],
        drawings=bool(trained.info.drawing_box),
        params=count_params(trained.variables["params"]),
        test_accuracy=result["test_accuracy"] if measured == trained.step else None,
    )


def feature_sheets(trained: Trained) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Creates a function from an image, uint8 [H, W, C], to its `map_sheets`."""
    maps = functools.partial(feature_maps, trained.model, trained.variables)
    return lambda image: map_sheets(maps(to_float(jnp.asarray(image[None]))))


def _compile(network: Network, sheets: Callable[[np.ndarray], dict[str, np.ndarray]]) -> None:
    """Compiles, and imports SciPy, before the first request."""
    from mnist_jax.serving.app import LARGEST_BATCH

    blank = np.zeros(network.info.image_shape, np.uint8)
    for size in (2**power for power in range(LARGEST_BATCH.bit_length())):
        network.predict(np.stack([blank] * size))
    sheets(blank)
    importlib.import_module("mnist_jax.handwriting.ink")


def _listen(host: str, port: int) -> socket.socket:
    """Opens a listening socket; connections wait until the server runs."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port must be 0 to 65535, got {port}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return socket.create_server(found[0][4], family=found[0][0])
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0  # negative: from the resolver
        reason = os.strerror(number) if number > 0 else getattr(error, "strerror", error)
        raise OSError(
            f"cannot listen at {host!r}, port {port}: {reason}; choose another --host or --port"
        ) from error
