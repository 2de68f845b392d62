"""Reports of other data than MNIST, and of other networks, and how a browser shows pages."""

import base64
import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SMALL
from PIL import Image
from playwright.sync_api import Browser, Page
from reports import HOSTILE, check_command, check_page, import_images, own_config

from mnist_jax import report, train
from mnist_jax.config import replace_fields

pytestmark = pytest.mark.slow


def assert_says(path: Path, *parts: str) -> None:
    said = check_page(path)
    assert [part for part in parts if part not in said] == []


def test_hostile_names_of_classes_are_text_in_a_report(hostile):
    check_command(hostile)
    augmented = "Augmentation Training images are changed", "--augment.mixup-alpha 0.2"
    kind = "colour images (12x16 pixels, 3 classes"
    assert_says(report(hostile).path, *HOSTILE[:2], "classified as", *augmented, kind)


def test_the_report_of_a_network_without_mistakes_says_so(easy):
    written = report(easy)
    assert written.networks[0]["errors"] == 0
    none = "None: every answer is right", "None among these 26 images"
    no_maps = "This network has no convolution over the image"
    best = "which was the best in validation"
    assert_says(written.path, "Test accuracy 100.00%", *none, no_maps, best)


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
    path = report(tmp_path).path
    assert_says(path, "The 30 of 1,000 classes with the lowest F1")
    assert path.stat().st_size < 1_500_000


def test_each_layer_has_its_maps_in_a_report(tmp_path):
    changes = {"model.name": "resnet", "model.features": 4, "epochs": 1}
    changes |= {"data.train_split": "train[:256]", "data.test_split": "test[:100]"}
    train(replace_fields(SMALL, changes), tmp_path)
    said = check_page(report(tmp_path).path)
    assert "Filters of the first layer" in said
    assert said.count("Feature maps of") == 3
    assert "after the convolution and its pooling." in said


@pytest.fixture
def show(browser: Browser):
    """Opens a file in the browser; requests, messages and dialogs of the page are errors."""
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
    """Writes pages of one run, of several, and of one with long names."""
    root = tmp_path_factory.mktemp("pages")
    runs = [small, [small, other, hostile], hostile]
    return [report(run, root / f"{number}.html").path for number, run in enumerate(runs)]


def of_all(page: Page, selector: str, expression: str) -> list[Any]:
    """Evaluates an expression of `e` for each element, or a style's name."""
    code = expression if "." in expression else f"getComputedStyle(e).{expression}"
    return page.eval_on_selector_all(selector, f"all => all.map(e => {code})")


SCALE = "Math.hypot(e.getScreenCTM().a, e.getScreenCTM().b)"


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_a_report_is_never_wider_than_the_screen(pages, show, width):
    for path in pages:
        page = show(path, viewport={"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
        sizes = of_all(page, "figure > svg", "e.getBoundingClientRect().width")
        assert width * 0.3 < min(sizes) <= max(sizes) <= width


def test_on_a_phone_letters_have_eleven_pixels_and_the_table_of_classes_fits(pages, show):
    one, *others = (show(path, viewport={"width": 390, "height": 844}) for path in pages)
    for page in (one, *others):
        sizes = of_all(
            page, "figure svg text", f"{SCALE} * parseFloat(getComputedStyle(e).fontSize)"
        )
        assert min(sizes) >= 11, page.url
    assert of_all(one, "#classes .scroll", "e.scrollWidth <= e.clientWidth") == [True]


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
    image = "#filters figure:nth-of-type(2) img"
    assert of_all(page, image, "backgroundColor") == ["rgba(0, 0, 0, 0)"]
    (source,) = of_all(page, image, "e.src")
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
        assert {*np.unique(np.asarray(picture.convert("RGBA"))[..., 3])} == {0, 255}


def test_letters_of_a_report_are_legible_in_the_dark(pages, show):
    page = show(pages[0], color_scheme="dark")
    ground, ink = (of_all(page, "body", style)[0] for style in ("backgroundColor", "color"))
    assert sum(map(int, re.findall(r"\d+", ground)[:3])) < 150
    assert sum(map(int, re.findall(r"\d+", ink)[:3])) > 600
    assert {*of_all(page, "figure svg text", "fill")} == {ink}
    assert {*of_all(page, "figure svg", "backgroundColor")} == {"rgba(0, 0, 0, 0)"}


def test_a_name_that_turns_the_text_around_ends_with_itself_in_a_report(pages, show):
    page = show(pages[2])
    for part in ("strong", "h3", "tbody .name", ".pictures span"):
        assert {*of_all(page, part, "unicodeBidi")} == {"isolate"}, part


def test_no_figure_of_a_report_is_cut_in_print(pages, show):
    page = show(pages[0], color_scheme="dark")
    page.emulate_media(media="print")
    assert {*of_all(page, "figure, .pictures li, tr", "breakInside")} == {"avoid"}
    assert of_all(page, "body", "color") == ["rgb(0, 0, 0)"]
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
