"""A real browser for tests: Chromium, where it is installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
# It is to talk to nobody but the page under test; without a sandbox it also runs as root, as in CI.
ARGS = (
    "--no-sandbox --no-first-run --disable-quic --disable-sync --disable-background-networking "
    "--disable-component-update"
)


# Not for the session: while it lives, an event loop runs in this thread, and no other one can.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium; the test is skipped where there is none."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no Chromium here ({', '.join(NAMES)})")
    # At the top of the file, every test would wait for this import.
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=120_000)  # the cores may be busy
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=ARGS.split())
