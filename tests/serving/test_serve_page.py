"""The page of `serve` in a real browser: drawings, photos, phones and lost servers."""

import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers import wait_until
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect
from servers import FILES, HANGS, ONE, SEVEN, pixels_of, served


@pytest.fixture(scope="module")
def url(trained, workdir) -> Iterator[str]:
    with served(trained, workdir) as url:
        yield url


@pytest.fixture
def page(browser: Browser, url: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Opens the page; fails if it loads anything from elsewhere or reports an error."""
    context = browser.new_context(**getattr(request, "param", {}))
    page = context.new_page()
    page.set_default_timeout(1000 * HANGS)
    said, loaded = [], []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda asked: loaded.append(asked.url))
    page.goto(url)
    expect(page.locator("#bars li")).to_have_count(10)
    yield page
    assert all(asked.startswith((url, "data:")) for asked in loaded)
    assert not [text for text in said if not text.startswith("Failed to load resource")]
    context.close()


def on_canvas(page: Page, stroke: tuple) -> list[tuple[float, float]]:
    """Returns the points of a stroke in pixels of the page."""
    box = page.locator("#canvas").bounding_box()
    assert box
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]


def draw(page: Page, stroke: tuple) -> None:
    first, *others = on_canvas(page, stroke)
    page.mouse.move(*first)
    page.mouse.down()
    for x, y in others:
        page.mouse.move(x, y, steps=5)
    page.mouse.up()


def answer(page: Page, path: str, **options: Any) -> None:
    """Answers requests for a path in place of the server."""
    page.route(f"**{path}", lambda route: route.fulfill(**options))


def test_a_digit_drawn_with_the_mouse_is_read(page):
    expect(page.locator("h1")).to_have_text("Draw a digit")
    expect(page.locator("#about")).to_contain_text("A CNN trained on MNIST, ")
    draw(page, SEVEN)
    expect(page.locator("#label")).to_have_text("7")
    expect(page.locator("#bars .best .name")).to_have_text("7")
    expect(page.locator("#sure")).to_contain_text("% probability")
    expect(page.locator("#spoken")).to_contain_text("7, ")
    expect(page.locator("#maps img")).to_have_count(1)
    seen = pixels_of(page.locator("#seen").get_attribute("src") or "")
    assert seen.shape == (28, 28)
    assert seen.max() == 255


@pytest.mark.slow
def test_drawings_are_undone_and_cleared_by_key_and_button(page):
    draw(page, SEVEN)
    draw(page, ((0.35, 0.5), (0.65, 0.5)))
    expect(page.locator("#label")).to_have_text("7")
    page.keyboard.press("Control+z")
    page.locator("#undo").click()
    expect(page.locator("#label")).to_have_class("none")
    expect(page.locator("#undo")).to_be_disabled()
    expect(page.locator("#seen")).to_be_hidden()
    draw(page, ONE)
    expect(page.locator("#label")).to_have_text("1")
    page.keyboard.press("Escape")
    expect(page.locator("#sure")).to_have_text("Nothing is drawn yet.")
    draw(page, ONE)
    page.locator("#clear").click()
    expect(page.locator("#hint")).to_be_visible()


@pytest.mark.slow
def test_a_photo_is_read_and_a_bad_one_is_told(page):
    photo = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": FILES["colour"]()}
    page.locator("#file").set_input_files([photo])
    expect(page.locator("#label")).to_have_text("7")
    photo = {"name": "b.jpg", "mimeType": "image/jpeg", "buffer": b"no photo"}
    page.locator("#file").set_input_files([photo])
    expect(page.locator("#notice")).to_contain_text("is not a readable image")
    expect(page.locator("#label")).to_have_class("none")
    photo |= {"buffer": FILES["blank"]()}
    page.locator("#file").set_input_files([photo])
    expect(page.locator("#sure")).to_have_text("The picture shows nothing.")
    expect(page.locator("#notice")).to_be_hidden()
    draw(page, ONE)  # takes the photo's place
    expect(page.locator("#label")).to_have_text("1")


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["The server does not answer", "The server is busy."])
def test_a_lost_or_busy_server_is_reported_and_asked_again(page, problem):
    if "busy" in problem:
        answer(page, "/api/explain", status=503, json={"detail": "busy"})
    else:
        page.route(re.compile("/(api/explain|health)"), lambda route: route.abort())
    draw(page, SEVEN)
    expect(page.locator("#notice")).to_contain_text(problem)
    page.keyboard.press("Escape")
    draw(page, SEVEN)
    expect(page.locator("#sure")).to_have_text("Asking…")
    expect(page.locator("#notice")).to_contain_text(problem)
    page.unroute_all()
    expect(page.locator("#label")).to_have_text("7")
    expect(page.locator("#notice")).to_be_hidden()


@pytest.mark.slow
def test_a_server_that_fails_at_the_start_is_asked_again(page):
    problems = iter([500, 503])

    def fail(route: Route) -> None:
        status = next(problems, None)
        route.fulfill(status=status, json={"detail": "not yet"}) if status else route.continue_()

    page.route("**/api/network", fail)
    page.reload()
    expect(page.locator("h1")).to_have_text("Draw a digit")
    expect(page.locator("#notice")).to_be_hidden()


LATE_FRAMES = """window.requestAnimationFrame = (draw) => {
    window.frames_to_come++
    return setTimeout(() => { window.frames_to_come--; draw() }, 300)
}
window.frames_to_come = 0"""


@pytest.mark.slow
def test_the_last_answer_is_of_all_that_is_drawn(page):
    """A point may come after the canvas was redrawn and before the next request."""
    asked, held = [], []
    page.on("request", lambda request: asked.append(request.post_data_buffer))
    page.route("**/api/explain", lambda route: route.continue_() if held else held.append(route))
    page.evaluate(LATE_FRAMES)
    draw(page, ONE)
    wait_until(lambda: page.wait_for_timeout(50) or held)
    draw(page, SEVEN)  # while the first drawing is being asked about
    held[0].continue_()

    def is_asked() -> bool:
        sheet = pixels_of(page.locator("#canvas").evaluate("(canvas) => canvas.toDataURL()"))
        with Image.open(io.BytesIO(asked[-1])) as last:
            return len(asked) > 1 and np.array_equal(np.asarray(last), sheet)

    wait_until(lambda: page.evaluate("window.frames_to_come === 0"))
    wait_until(is_asked)


@pytest.mark.slow
def test_the_likeliest_of_many_classes_are_shown(page):
    names = ["constructor", "__proto__", *(f"class {number}" for number in range(2, 300))]
    probabilities = {name: number / sum(range(300)) for number, name in enumerate(names)}
    network = {"architecture": "resnet", "dataset": "things", "params": 1, "step": 1}
    network |= {"label_names": names, "image_shape": [32, 32, 3], "drawings": False}
    found = {"label": "class 299", "probability": 0.01, "problem": "the network is not sure"}
    found |= {"runner_up": "class 298", "runner_up_probability": 0.009}
    found |= {"probabilities": probabilities, "seen": "data:,", "feature_maps": {}}
    answer(page, "/api/network", json=network | {"test_accuracy": None})
    answer(page, "/api/explain", json=found)
    page.reload()
    expect(page.locator("#about")).to_contain_text("300 classes. It was trained on pictures")
    expect(page.locator("#bars .share")).to_have_text([""] * 10)
    draw(page, SEVEN)
    expect(page.locator("#label")).to_have_text("class 299")
    expect(page.locator("#doubt")).to_have_text("The network is not sure.")
    expected = [f"class {number}" for number in range(299, 289, -1)]
    expect(page.locator("#bars .name")).to_have_text(expected)


PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.mark.slow
@pytest.mark.parametrize("page", [PHONE, PHONE | {"color_scheme": "dark"}], indirect=True)
def test_a_digit_drawn_on_a_phone_with_a_finger_is_read(page):
    finger = page.context.new_cdp_session(page)
    moves = [("touchMove", [{"x": x, "y": y}]) for x, y in on_canvas(page, SEVEN)]
    for kind, points in (("touchStart", moves[0][1]), *moves[1:], ("touchEnd", [])):
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    expect(page.locator("#label")).to_have_text("7")
    assert page.evaluate("scrollY") == 0  # the finger draws
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    bottom = page.locator("#bars li").last.bounding_box()
    assert bottom["y"] + bottom["height"] <= 844  # canvas and answer are seen together
    fits = "box => { box.textContent = '>99.9%'; return box.scrollWidth <= box.clientWidth }"
    assert page.locator("#bars .best .share").evaluate(fits)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    is_dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (max(map(int, re.findall(r"\d+", ground))) < 64) == is_dark


@pytest.mark.slow
@pytest.mark.parametrize("page", [{"viewport": {"width": 640, "height": 320}}], indirect=True)
def test_a_phone_on_its_side_shows_canvas_and_answer_side_by_side(page):
    draw(page, SEVEN)
    expect(page.locator("#label")).to_have_text("7")
    canvas = page.locator("#canvas").bounding_box()
    bars = page.locator("#bars").bounding_box()
    assert canvas["width"] > 200
    assert bars["x"] > canvas["x"] + canvas["width"]  # side by side
    assert max(box["y"] + box["height"] for box in (canvas, bars)) <= 320
    first, second = (page.locator("#bars .track").nth(n).bounding_box() for n in (0, 1))
    assert second["y"] - first["y"] - first["height"] > 2  # bars apart
    assert page.evaluate("document.documentElement.scrollWidth") <= 640
