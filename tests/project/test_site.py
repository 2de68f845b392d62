"""The site of the documentation: built without a warning, offline, and readable on a phone."""

import re
from pathlib import Path

import pytest
from helpers import ROOT, python

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("site")
    strict = ["-W", "--keep-going", "-q"]
    done = python("-m", "sphinx", *strict, "-b", "html", ROOT / "docs", built)
    assert (done.returncode, done.stderr) == (0, "")
    return built


def test_the_site_needs_no_network(site):
    fetched = re.compile(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"')
    for page in site.glob("*.html"):
        assert not fetched.findall(page.read_text(encoding="utf-8")), page


def test_no_page_of_the_site_is_wider_than_a_phone(site, browser):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    widths = {}
    for file in site.glob("*.html"):
        page.goto(file.as_uri())
        widths[file.name] = page.evaluate("document.documentElement.scrollWidth")
    assert len(widths) > 15
    assert {name: width for name, width in widths.items() if width > 390} == {}
