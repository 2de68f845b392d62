"""The FastAPI application: the page to draw on and its API."""

import asyncio
import email.message
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from mnist_jax.datasets.image_files import TooManyPixelsError, decode_image
from mnist_jax.datasets.info import DataInfo
from mnist_jax.handwriting.drawing import Drawing
from mnist_jax.handwriting.files import interpret, prepare
from mnist_jax.network import Network
from mnist_jax.reporting.pictures import data_url
from mnist_jax.serving.api import (
    IMAGE_BODY,
    MAX_BYTES,
    MAX_PIXELS,
    PROBLEMS,
    SLOWEST,
    About,
    Answer,
    Explanation,
    Health,
)
from mnist_jax.serving.batching import Batcher, BusyError

MAX_HELD = 200_000_000  # bytes of all uploads not yet prepared
MAX_WAITING = 256  # images that wait to be prepared, and again for the network
LARGEST_BATCH = 8  # images; more are not faster, and each power of two is compiled
PREPARED_AT_ONCE = 2  # images, so a small one need not wait for a large one

TOO_MANY_BYTES = f"the upload is too large: at most {MAX_BYTES:,} bytes are read"

PAGE = {"draw.html": "text/html", "draw.css": "text/css", "draw.js": "text/javascript"}
PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    # The page loads nothing from other sites.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Uploads:
    """Uploaded images on their way to one network, limited in number and total bytes."""

    def __init__(self, info: DataInfo):
        self.waiting = self.held = 0
        self._info = info
        self._free = asyncio.Semaphore(PREPARED_AT_ONCE)
        self.executor = ThreadPoolExecutor(PREPARED_AT_ONCE, "prepare")

    async def receive(self, request: Request) -> Drawing:
        """Converts a request's body to the network's input.

        Raises BusyError, or HTTPException for an invalid, too large or too slow upload.
        """
        body = bytearray()
        try:
            await self._read(request, body)
            if not body:
                raise HTTPException(400, "the request has no body; expected an image file")
            return await self._prepare(request, body)
        finally:
            self.held -= len(body)

    async def _read(self, request: Request, body: bytearray) -> None:
        if int(request.headers.get("content-length", 0)) > MAX_BYTES:
            raise HTTPException(413, TOO_MANY_BYTES)
        try:
            async with asyncio.timeout(SLOWEST):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > MAX_BYTES:
                        raise HTTPException(413, TOO_MANY_BYTES)
                    if self.held + len(chunk) > MAX_HELD:
                        raise BusyError
                    self.held += len(chunk)
                    body += chunk
        except asyncio.CancelledError:
            raise HTTPException(503, "the server is stopping") from None
        except TimeoutError:
            raise HTTPException(408, f"the upload took longer than {SLOWEST:.0f} seconds") from None
        except ClientDisconnect:
            raise HTTPException(400, "the upload was interrupted") from None

    async def _prepare(self, request: Request, body: bytearray) -> Drawing:
        if self.waiting >= MAX_WAITING:
            raise BusyError
        self.waiting += 1
        try:
            async with self._free:
                if await request.is_disconnected():
                    raise HTTPException(400, "the client has disconnected")
                loop = asyncio.get_running_loop()
                kind = request.headers.get("content-type", "")
                return await loop.run_in_executor(self.executor, _drawing, body, kind, self._info)
        finally:
            self.waiting -= 1


def _drawing(body: bytearray, kind: str, info: DataInfo) -> Drawing:
    try:
        if kind.lower().startswith("multipart/form-data"):
            body = _file_of_form(body, kind)
        picture = decode_image(io.BytesIO(body), "the upload", MAX_PIXELS, info.ground)
        return prepare(picture, info)
    except TooManyPixelsError as error:
        raise HTTPException(413, str(error)) from error
    except ValueError as error:
        raise HTTPException(422, str(error)) from error


def _file_of_form(body: bytearray, kind: str) -> bytearray:
    """Extracts the file from a form (RFC 7578), as sent by `curl -F file=@photo.jpg`."""
    header = email.message.Message()
    header["Content-Type"] = kind
    boundary = f"\r\n--{header.get_boundary('')}".encode("latin-1", "replace")
    files = []
    for part in (b"\r\n" + body).split(boundary)[1:-1]:  # the last part closes the form
        head, _, content = part.partition(b"\r\n\r\n")
        if b"filename" in head.lower():
            files.append(content)
    if len(files) != 1:
        raise ValueError(
            f"the upload is a form with {len(files)} files; expected one: curl -F file=@photo.jpg, "
            "or the file alone: curl --data-binary @photo.jpg"
        )
    return files[0]


def create_app(
    network: Network,
    feature_sheets: Callable[[np.ndarray], dict[str, np.ndarray]],
    about: About,
    allowed_hosts: Sequence[str] = ("*",),
) -> FastAPI:
    """Creates the application, for one event loop.

    Args:
        network: classifier.
        feature_sheets: its feature maps, from `serve.feature_sheets`.
        about: description for the page.
        allowed_hosts: accepted Host headers, against DNS rebinding; "*" accepts any.
    """
    app = FastAPI(
        title="mnist_jax",
        summary="Classifies images.",
        description="Usage: `curl --data-binary @photo.jpg http://127.0.0.1:8000/api/predict`",
        version="1",
        docs_url=None,  # these pages would load scripts from other sites
        redoc_url=None,
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts))
    _add_errors(app)
    _add_page(app)
    names = network.info.label_names
    uploads = Uploads(network.info)

    batcher = Batcher(
        lambda images: [*zip(*network.predict(np.stack(images), check=False), strict=True)],
        ThreadPoolExecutor(1, "network"),
        largest=min(LARGEST_BATCH, network.batch_size),
        waiting=MAX_WAITING,
    )

    async def answered(drawing: Drawing) -> dict[str, Any]:
        blank = np.zeros(0), 0
        probabilities, first = blank if drawing.blank else await batcher(drawing.pixels)
        by_class = dict(zip(names, probabilities.tolist(), strict=not drawing.blank))
        return {**interpret(drawing, probabilities, first, names), "probabilities": by_class}

    def explained(drawing: Drawing) -> dict[str, Any]:
        sheets = feature_sheets(drawing.pixels)
        maps = {name: data_url(picture) for name, picture in sheets.items()}
        return {"seen": data_url(drawing.pixels), "feature_maps": maps}

    @app.post("/api/predict", responses=PROBLEMS, openapi_extra=IMAGE_BODY)
    async def predict(request: Request) -> Answer:
        """Classifies a photograph, a scan or a drawing."""
        return Answer(**await answered(await uploads.receive(request)))

    @app.post("/api/explain", responses=PROBLEMS, openapi_extra=IMAGE_BODY)
    async def explain(request: Request) -> Explanation:
        """Classifies an image; also returns the network's input and feature maps."""
        drawing = await uploads.receive(request)
        fields = await answered(drawing)
        loop = asyncio.get_running_loop()
        fields |= await loop.run_in_executor(uploads.executor, explained, drawing)
        return Explanation(**fields)

    @app.get("/api/network")
    async def network_() -> About:
        """Describes the network."""
        return about

    @app.get("/health")
    async def health() -> Health:
        """Reports the server's load."""
        counts = {"images": batcher.items, "batches": batcher.batches}
        return Health(status="ok", waiting=uploads.waiting, held=uploads.held, **counts)

    return app


def _add_page(app: FastAPI) -> None:
    folder = resources.files("mnist_jax.serving")
    for name, media_type in PAGE.items():
        content = (folder / name).read_bytes()
        response = Response(content, media_type=media_type, headers=PAGE_HEADERS)
        path = "/" if name == "draw.html" else f"/{name}"
        app.add_route(path, lambda _, response=response: response, include_in_schema=False)


def _add_errors(app: FastAPI) -> None:
    """Answers errors with one sentence of JSON.

    The connection stays open, since a client that is still sending would lose the answer.
    """

    @app.exception_handler(StarletteHTTPException)
    async def failed(request: Request, error: StarletteHTTPException) -> Response:
        detail = {
            404: "not found; the page is at /, the API is described at /openapi.json",
            405: f"{request.url.path} does not accept {request.method}",
        }.get(error.status_code, error.detail)
        return JSONResponse({"detail": detail}, error.status_code, error.headers)

    @app.exception_handler(BusyError)
    async def full(_request: Request, _error: BusyError) -> Response:
        detail = "too many images are waiting; try again"
        return JSONResponse({"detail": detail}, 503, {"Retry-After": "1"})

    @app.exception_handler(Exception)
    async def unexpected(_request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": f"unexpected {type(error).__name__}"}, 500)
