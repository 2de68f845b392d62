"""Reports of other data than MNIST, and of other networks, and how a browser shows pages."""

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SMALL
from playwright.sync_api import Browser, Page
from reports import HOSTILE, check_command, check_page, import_images, own_config
from reports import easy as easy
from reports import hostile as hostile
from reports import other as other
from reports import own_data as own_data
from reports import small as small

from mnist_jax import report, train
from mnist_jax.config import ModelConfig

pytestmark = pytest.mark.slow


def test_hostile_names_of_classes_are_text_in_a_report(hostile):
    check_command(hostile)
    said = check_page(report(hostile).path)
    assert HOSTILE[0] in said
    assert HOSTILE[1] in said
    assert "classified as" in said
    assert "Augmentation Training images are changed" in said
    assert "--augment.mixup-alpha 0.2" in said
    assert "colour images of 12x16 pixels, 3 classes" in said


def test_the_report_of_a_network_without_mistakes_says_so(easy):
    written = report(easy)
    said = check_page(written.path)
    assert written.networks[0]["errors"] == 0
    assert "Test accuracy 100.00%" in said
    assert "None: every answer is right" in said
    assert "None among these 26 images" in said
    assert "This network has no convolution over the image" in said
    assert "which was the best in validation" in said


def test_an_epoch_that_was_chosen_by_the_images_shown_is_said_to_be(easy, small, tmp_path):
    for run, chosen in ((easy, True), (small, False)):
        workdir = Path(shutil.copytree(run, tmp_path / run.name))
        (workdir / "result.json").unlink()
        said = check_page(report(workdir).path)
        assert ("The epoch was chosen by these images" in said) == chosen


def test_a_report_of_a_thousand_classes_shows_those_with_the_lowest_f1(own_data, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3000, 8, 8), np.uint8)
    import_images(own_data, "many", images, np.arange(3000) % 1000)
    train(own_config("many"), tmp_path)
    written = report(tmp_path)
    said = check_page(written.path)
    assert "The 30 of 1,000 classes with the lowest F1" in said
    assert "1,000 classes" in said
    assert written.path.stat().st_size < 1_500_000


@pytest.mark.parametrize(("name", "layers"), [("resnet", 3), ("transformer", 1)])
def test_each_layer_has_its_maps_in_a_report(name, layers, tmp_path):
    model = ModelConfig(name=name, features=4, kernel_size=7 if name == "transformer" else 3)
    data = dataclasses.replace(SMALL.data, train_split="train[:256]", test_split="test[:100]")
    train(dataclasses.replace(SMALL, epochs=1, model=model, data=data), tmp_path)
    said = check_page(report(tmp_path).path)
    assert "Filters of the first layer" in said
    assert said.count("Feature maps of") == layers
    assert "after the convolution and its pooling." in said


@pytest.fixture
def show(browser: Browser):
    """Opens a file in the browser; whatever it asks for, says or pops up is an error."""
    contexts = []

    def open_page(path: Path, **options: Any) -> Page:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(120_000)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: pytest.fail(message.text))
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        page.goto(path.as_uri())
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def pages(small, other, hostile, tmp_path_factory) -> list[Path]:
    """Of one run, of several, and of one with names that are long."""
    root = tmp_path_factory.mktemp("pages")
    return [
        report(small, root / "one.html").path,
        report([small, other, hostile], root / "three.html").path,
        report(hostile, root / "hostile.html").path,
    ]


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_a_report_is_never_wider_than_the_screen(pages, show, width):
    for path in pages:
        page = show(path, viewport={"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
        sizes = page.eval_on_selector_all(
            "figure > svg", "all => all.map(svg => svg.getBoundingClientRect().width)"
        )
        assert sizes
        assert all(width * 0.3 < size <= width for size in sizes)


def test_letters_of_figures_have_eleven_pixels_on_a_phone(pages, show):
    for path in pages:
        page = show(path, viewport={"width": 390, "height": 844})
        sizes = page.eval_on_selector_all(
            "figure svg text",
            """all => all.map(text => {
                const { a, b } = text.getScreenCTM()
                return Math.hypot(a, b) * parseFloat(getComputedStyle(text).fontSize)
            })""",
        )
        assert min(sizes) >= 11, path.name


def test_the_table_of_classes_fits_a_phone(pages, show):
    page = show(pages[0], viewport={"width": 390, "height": 844})
    box = page.locator("#classes .scroll")
    assert box.evaluate("box => box.scrollWidth <= box.clientWidth")


def test_a_comparison_on_a_phone_shows_the_test_and_the_difference(small, show, tmp_path):
    page = show(
        report([small, small], tmp_path / "page.html").path, viewport={"width": 390, "height": 844}
    )
    for heading in ("validation", "test", "difference to A"):
        box = page.get_by_role("columnheader", name=heading, exact=True).bounding_box()
        assert box
        assert box["x"] + box["width"] <= 390 - 16, heading
    shown = page.locator("td small").first
    assert shown.evaluate("shown => getComputedStyle(shown).display") == "block"


def test_contents_and_confusions_lead_to_their_places(pages, show):
    page = show(pages[0])
    assert page.locator("nav a").count() == page.locator("section").count()
    page.locator("nav a", has_text="Calibration").click()
    assert page.locator("#calibration h2").bounding_box()["y"] < 200  # type: ignore[index]
    link = page.locator("#matrix svg a").first
    place = link.get_attribute("href")
    link.click()
    assert page.url.endswith(f"{place}")
    assert page.locator(".pictures li:target").count() == 1
    assert "classified as" in (link.locator("title").text_content() or "")


def test_filters_of_a_report_have_transparent_gutters(pages, show):
    page = show(pages[0], color_scheme="dark")
    image = page.locator("#filters figure:nth-of-type(2) img")
    assert image.evaluate("image => getComputedStyle(image).backgroundColor") == "rgba(0, 0, 0, 0)"
    alphas = image.evaluate(
        """image => {
            const paper = new OffscreenCanvas(image.naturalWidth, image.naturalHeight)
            const drawing = paper.getContext("2d")
            drawing.drawImage(image, 0, 0)
            const { data } = drawing.getImageData(0, 0, paper.width, paper.height)
            return [...data.filter((_, i) => i % 4 == 3)]
        }"""
    )
    assert {*alphas} == {0, 255}


def test_letters_of_a_report_are_legible_in_the_dark(pages, show):
    page = show(pages[0], color_scheme="dark")
    ground, ink = page.evaluate(
        "(style => [style.backgroundColor, style.color])(getComputedStyle(document.body))"
    )
    assert sum(map(int, re.findall(r"\d+", ground)[:3])) < 150
    assert sum(map(int, re.findall(r"\d+", ink)[:3])) > 600
    fills = page.eval_on_selector_all(
        "figure svg text", "all => all.map(text => getComputedStyle(text).fill)"
    )
    assert {*fills} == {ink}
    backgrounds = page.eval_on_selector_all(
        "figure svg", "all => all.map(svg => getComputedStyle(svg).backgroundColor)"
    )
    assert {*backgrounds} == {"rgba(0, 0, 0, 0)"}


def test_a_name_that_turns_the_text_around_ends_with_itself_in_a_report(pages, show):
    page = show(pages[2])
    for part in ("strong", "h3", "tbody .name", ".pictures span"):
        found = page.eval_on_selector_all(
            part, "all => all.map(each => getComputedStyle(each).unicodeBidi)"
        )
        assert {*found} == {"isolate"}, part


def test_no_figure_of_a_report_is_cut_in_print(pages, show):
    page = show(pages[0], color_scheme="dark")
    page.emulate_media(media="print")
    breaks = page.eval_on_selector_all(
        "figure, .pictures li, tr", "all => all.map(each => getComputedStyle(each).breakInside)"
    )
    assert {*breaks} == {"avoid"}
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
