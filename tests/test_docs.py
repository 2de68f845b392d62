"""The documentation does what it says: examples run, commands parse, links lead somewhere."""

import contextlib
import dataclasses
import doctest
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import mnist_jax
from mnist_jax import Config
from mnist_jax.cli import _parse, main
from mnist_jax.commands import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = [
    *map(ROOT.joinpath, ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MADE_UP = {"mnist_jax/models/tiny.py"}  # the reader's


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(path: Path) -> str:
    """The text of a page without its code blocks."""
    return FENCE.sub("", path.read_text())


def parsed(path: Path):
    return Sybil([PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS)]).parse(path)


@pytest.mark.parametrize("path", [path for path in PAGES if [*parsed(path).examples()]], ids=name)
def test_examples_run(path, tmp_path, monkeypatch):
    """All of a page in order, in one namespace; what a page hides in a comment, too."""
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(os.environ):
        for example in parsed(path).examples():
            example.evaluate()


def test_examples_in_docstrings_run():
    for file in (ROOT / "mnist_jax").rglob("*.py"):
        if ">>>" in file.read_text():
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            assert doctest.testmod(importlib.import_module(name)).failed == 0, name


def commands_of(path: Path) -> list[str]:
    """The `mnist-jax` lines of a page's shell blocks, or of a recipe's docstring."""
    text = path.read_text()
    shell = [block for kind, block in FENCE.findall(text) if kind == "sh"]
    return [
        line
        for block in ([text] if path.suffix == ".py" else shell)
        for line in re.findall(r"^ *(mnist-jax .*?) *(?:#.*)?$", block, re.MULTILINE)
    ]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, id=f"{path.name}: {line}")
        for path in [*PAGES, *sorted((ROOT / "configs").glob("*.py"))]
        for line in commands_of(path)
    ],
)
def test_commands_are_understood(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = shlex.split(line)[1:]
    for number, arg in enumerate(args):
        if args[number - 1] == "--config" and Path(arg).parent.name != "configs":  # the reader's
            Path(arg).parent.mkdir(parents=True, exist_ok=True)
            Path(arg).write_text(
                json.dumps(dataclasses.asdict(Config()))
                if arg.endswith(".json")
                else "from mnist_jax import Config as get_config"
            )
    if "--help" in args:
        assert main(args) == 0
    else:
        _parse(args)


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """The options of each command, as its help tells them."""
    found = {}
    for command in COMMANDS:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            main([command, "--help"])
        found[command] = set(re.findall(r"--[a-z][\w.-]*", printed.getvalue()))
    return found


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_options_in_the_text_exist(path, options):
    known = set().union(*options.values())
    for code in re.findall(r"`([^`]+)`", prose(path)):
        words = code.split()
        if words[0] == "mnist-jax" and len(words) > 1 and words[1] != "COMMAND":
            assert words[1] in COMMANDS, code
            assert {w.partition("=")[0] for w in words if w[:2] == "--"} <= options[words[1]], code
        elif words[0].startswith("--"):
            assert {w.partition("=")[0] for w in words if w[:2] == "--"} <= known, code


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub, and MyST like it, makes of headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        page = path.parent / file if file else path
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), target


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_files_that_are_named_exist(path):
    """In code: configs/x.py, benchmarks/x.py, tests/x.py, mnist_jax/x.py; NAME stands for any."""
    text = path.read_text()
    for found in re.findall(r"\b(?:configs|benchmarks|tests|mnist_jax)/[\w/*.]+\.(?:py|c)\b", text):
        assert "NAME" in found or found in MADE_UP or [*ROOT.glob(found)], found


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_targets_of_make_exist(path):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    text = path.read_text()
    code = [*re.findall(r"`(make [^`]+)`", text), *re.findall(r"^make .*$", text, re.MULTILINE)]
    for line in code:
        named = [word for word in line.partition("#")[0].split()[1:] if "=" not in word]
        assert {*named} <= {*targets}, line


def test_every_page_is_on_the_site():
    listed = re.findall(r"^\w+$", (ROOT / "docs/index.md").read_text(), re.MULTILINE)
    assert {*listed} == {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}


def test_the_site_is_built_without_a_warning(tmp_path):
    strict = ["-W", "--keep-going", "-q"]
    command = [sys.executable, "-m", "sphinx", *strict, "-b", "html", ROOT / "docs", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    api = (tmp_path / "api.html").read_text()
    for public in mnist_jax.__all__:
        assert re.search(rf'id="mnist_jax\.(config\.)?{public}"', api), public
    fetched = re.compile(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"')
    for page in tmp_path.glob("*.html"):
        assert not fetched.findall(page.read_text()), page  # the site works without a network
