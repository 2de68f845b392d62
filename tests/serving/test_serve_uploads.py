"""Bad uploads to `serve`: damaged, too many, too large and too slow."""

import asyncio
from typing import Any

import numpy as np
import pytest
from servers import BAD, FILES, HANGS, drawn, file_of

from mnist_jax.serving import app as app_module


@pytest.mark.parametrize("path", ["/api/predict", "/api/explain"])
@pytest.mark.parametrize("name", BAD)
def test_bad_uploads_are_refused_with_their_reason(client, name, path):
    content, status, message = BAD[name]
    response = client.post(path, content=content)
    assert response.status_code == status
    assert message in response.json()["detail"]


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("JPEG", "GIF", "WEBP", "TIFF")]


@pytest.mark.parametrize("kind", ["PNG", "BMP", *SLOW])
def test_damaged_images_are_answered_or_refused(kind, client):
    whole = file_of(drawn(size=60), kind)
    rng = np.random.default_rng(0)
    for _ in range(15):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(0, min(len(whole), 400), 3)] = rng.integers(0, 256, 3)
        status = client.post("/api/predict", content=damaged.tobytes()).status_code
        assert status in (200, 413, 422)


def test_uploads_beyond_the_limits_are_asked_to_come_again(client, monkeypatch):
    for limit in ("MAX_WAITING", "MAX_HELD"):
        with monkeypatch.context() as patch:
            patch.setattr(app_module, limit, 0)
            response = client.post("/api/predict", content=FILES["grey"]())
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert client.post("/api/predict", content=FILES["grey"]()).status_code == 200


FORMS = {
    "a file": {"files": {"image": FILES["grey"]()}},
    "a file with a name in quotes": {"files": {"f": ('a"b; filename=.png', FILES["grey"]())}},
    "a file and a field": {"files": {"f": FILES["grey"]()}, "data": {"model": "x" * 999}},
    "of JPEG": {"files": {"f": ("a.jpg", FILES["colour"](), "image/jpeg")}},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_one_file_of_a_form_is_classified(form, client):
    content = FILES["colour" if form == "of JPEG" else "grey"]()
    expected = client.post("/api/predict", content=content).json()
    assert client.post("/api/predict", **FORMS[form]).json() == expected


def test_another_form_is_refused_with_what_to_send(client):
    file, form = ("a.png", FILES["grey"]()), "multipart/form-data"
    for options, count in (
        ({"files": [("f", file), ("f", file)]}, 2),
        ({"files": {"f": (None, "text")}}, 0),
        ({"content": file[1], "headers": {"Content-Type": f"{form}; boundary=x"}}, 0),
        ({"content": file[1], "headers": {"Content-Type": form}}, 0),
    ):
        response = client.post("/api/predict", **options)
        assert response.status_code == 422
        expected = f"a form with {count} files; expected one: curl -F file=@photo.jpg"
        assert expected in response.json()["detail"]
    text = client.post("/api/predict", files={"f": ("a.txt", b"text")})
    assert "the upload is not a readable image" in text.json()["detail"]


def exchange(app: Any, *messages: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Sends the messages of an upload, at None nothing more; returns the answer."""
    scope = {"type": "http", "method": "POST", "path": "/api/predict", "server": ("a", 1)}
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http"}
    scope["headers"] = [(b"host", b"a")]
    coming, sent = iter(messages), []

    async def receive() -> dict[str, Any]:
        message = next(coming)
        if message is None:
            await asyncio.sleep(HANGS)
        return message or {}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


def part(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_slow_upload_is_ended(client, monkeypatch):
    monkeypatch.setattr(app_module, "SLOWEST", 0.1)
    head, body = exchange(client.app, part(b"x"), None)
    assert head["status"] == 408
    assert b"longer than" in body["body"]


def test_of_an_endless_upload_no_more_is_read(client):
    parts = [part(bytes(1_000_000)) for _ in range(21)]
    head, _ = exchange(client.app, *parts)  # a further part would raise StopIteration
    assert head["status"] == 413


def test_nothing_is_held_of_uploads_that_are_answered(client):
    for content, status in [(FILES["grey"](), 200), (b"no image", 422), (bytes(20_000_001), 413)]:
        assert client.post("/api/predict", content=content).status_code == status
        found = client.get("/health").json()
        assert (found["waiting"], found["held"]) == (0, 0)


def test_an_upload_that_is_broken_off_is_no_error(client):
    head, _ = exchange(client.app, part(b"x"), {"type": "http.disconnect"})
    assert head["status"] == 400
