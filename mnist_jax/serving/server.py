"""uvicorn with limits for idle clients and a quiet shutdown."""

import asyncio
import logging
import socket

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from mnist_jax.serving.api import SLOWEST

CONNECTIONS = 200  # open at once; a process may have 1024 open files
LAST_REQUESTS = 3  # seconds for unfinished requests when the server stops


class Protocol(H11Protocol):
    """A connection, closed if no request arrives.

    uvicorn's `limit_concurrency` rejects requests instead, and never closes an unfinished one.
    """

    _watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Otherwise the second half of an answer waits 40 ms for the client's delayed ACK. asyncio
        # sets this only for a socket with an explicit protocol, unlike socket.create_server's.
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family != getattr(socket, "AF_UNIX", None):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        else:
            self._watch = self.loop.call_later(SLOWEST, self._look, None)

    def _look(self, before: object) -> None:
        """Closes the connection if no request began since `before`.

        A request and its answer have twice the time of an upload.
        """
        if self.cycle is before:  # uvicorn's object per request, None before the first
            self.transport.abort()
        else:
            self._watch = self.loop.call_later(2 * SLOWEST, self._look, self.cycle)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._watch:
            self._watch.cancel()


class Server(uvicorn.Server):
    """A server that does not log the requests cancelled at shutdown."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # a new server resets it
        await super().shutdown(sockets)


def create_server(app: FastAPI) -> Server:
    """Creates a server for an application."""
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=Protocol,
        ws="none",
        lifespan="off",
        server_header=False,
        access_log=False,
        log_config=None,
        log_level="error",
        timeout_graceful_shutdown=LAST_REQUESTS,
    )
    return Server(config)
