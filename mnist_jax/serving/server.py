"""uvicorn, with bounds for clients that say nothing, and an end without noise."""

import asyncio
import logging
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from mnist_jax.serving.api import SLOWEST

CONNECTIONS = 200  # at a time; a process may have 1024 files open
LAST_REQUESTS = 3  # seconds that these have when the server is stopped


class Protocol(H11Protocol):
    """A connection, which holds its place only while requests come.

    uvicorn's `limit_concurrency` does not do: it turns requests away, and who never finishes one
    keeps a connection for good.
    """

    _watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Else the second half of an answer waits for the client's delayed ACK, 40 ms. asyncio sees
        # to it only for a listener that names its protocol, which socket.create_server does not.
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family != getattr(socket, "AF_UNIX", None):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        else:
            self._watch = self.loop.call_later(SLOWEST, self._look, None)

    def _look(self, before: object) -> None:
        """Ends the connection if no request began since `before`.

        Each has twice the time of an upload, until its answer is fetched.
        """
        if self.cycle is before:  # of a request and its answer; None before the first
            self.transport.abort()
        else:
            self._watch = self.loop.call_later(2 * SLOWEST, self._look, self.cycle)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._watch:
            self._watch.cancel()


class Server(uvicorn.Server):
    """Ends without a word of those that it does not wait for any longer."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # a new one sets it anew
        await super().shutdown(sockets)


def create_server(app: FastAPI) -> Server:
    """Returns a server for an application."""
    quiet: Any = {"access_log": False, "log_config": None, "log_level": "error"}
    options: Any = {"ws": "none", "lifespan": "off", "server_header": False, **quiet}
    options["timeout_graceful_shutdown"] = LAST_REQUESTS
    return Server(uvicorn.Config(app, loop="asyncio", http=Protocol, **options))
