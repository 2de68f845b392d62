"""The documentation does what it says: examples run, commands parse, links lead somewhere."""

import ast
import dataclasses
import doctest
import functools
import importlib
import itertools
import os
import re
import runpy
import shlex
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from helpers import ROOT, TINY
from PIL import Image
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

import mnist_jax
from mnist_jax.cli.commands import COMMANDS
from mnist_jax.cli.main import main, parse
from mnist_jax.config import Config, recipe_names
from mnist_jax.datasets import load_dataset
from mnist_jax.datasets.prepare import prepared_dir

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
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def parsed(path: Path, *more: Any):
    return Sybil([PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS), *more]).parse(path)


def run_examples(path: Path, *more: Any) -> None:
    """Runs all of a page in order, in one namespace; what a page hides in a comment, too."""
    with mock.patch.dict(os.environ):
        for example in parsed(path, *more).examples():
            example.evaluate()


RECIPES = recipe_names()
RUN = ("look_at_it", "laboratory", "your_data", "reproducibility")
FEW = ["--data.train-split", "train[:1280]", "--data.test-split", "test[:500]"]


def run_commands(example: Example) -> None:
    """Runs the `mnist-jax` lines of a shell block; trainings see 1,280 images."""
    for line in re.findall(r"^mnist-jax (.*)$", example.parsed, re.MULTILINE):
        args = shlex.split(line, comments=True)
        assert main(args + FEW * (args[0] == "train")) == 0, line


# README's takes half a minute on all images; own parts are tried with the wheel, in test_wheel.py.
ELSEWHERE = ("README", "change_it", "first_hour")
WITH_EXAMPLES = [
    path for path in PAGES if path.stem not in ELSEWHERE and [*parsed(path).examples()]
]


@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=name)
def test_examples_of_a_page_run(path, tmp_path, monkeypatch):
    """What a page imports is not left in the user's data directory."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "mnist_idx").symlink_to(prepared_dir("mnist", None).parent)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data))
    monkeypatch.chdir(tmp_path)
    run_examples(path)


def test_the_example_of_the_readme_runs_on_few_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mnist_jax, "Config", functools.partial(dataclasses.replace, TINY))
    run_examples(ROOT / "README.md")
    assert (tmp_path / "runs" / "demo" / "result.json").exists()


@pytest.mark.slow
def test_the_first_hour_runs_command_by_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mnist_jax, "Config", functools.partial(dataclasses.replace, TINY))
    run_examples(ROOT / "docs/first_hour.md", CodeBlockParser("sh", run_commands))
    left = ["digit.png.seen.png", "comparison.html", "runs/faster/result.json"]
    assert [name for name in left if not (tmp_path / name).exists()] == []


REFERENCE = runpy.run_path(str(ROOT / "docs/reference.py"))


def test_the_reference_is_current():
    pages = REFERENCE["outdated"]()
    assert not pages, f"{' and '.join(pages)} out of date: run make reference"


def test_the_reference_has_every_public_name_and_what_pages_import():
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    described = {*re.findall(r"^### (\w+)$", text, re.MULTILINE)}
    modules = {*re.findall(r"^In \[`mnist_jax\.([\w.]+)`\]", text, re.MULTILINE)} | {"events"}
    assert {*mnist_jax.__all__} - modules <= described
    for path in PAGES:
        imports = re.compile(r"^(?:>>> )?from (mnist_jax\S*) import ([^(\n]+)", re.MULTILINE)
        for module, names in imports.findall(path.read_text("utf-8")):
            assert {*names.strip().split(", ")} <= described | modules, (path, module)


def is_text(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(ast.Constant(str())):
            return True
    return False


def test_a_docstring_is_the_first_statement_of_its_function():
    for path in sorted(ROOT.glob("mnist_jax/**/*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                late = [each.lineno for each in function.body[1:] if is_text(each)]
                assert not late, path


def test_examples_in_docstrings_run():
    for file in (ROOT / "mnist_jax").rglob("*.py"):
        if ">>>" in file.read_text(encoding="utf-8"):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            assert doctest.testmod(importlib.import_module(name)).failed == 0, name


def python_of(path: Path) -> list[str]:
    """The blocks of Python of a page."""
    return [block for kind, block in FENCE.findall(path.read_text("utf-8")) if kind == "python"]


def commands_of(path: Path) -> list[str]:
    """The `mnist-jax` lines of a page's shell blocks, or of a recipe's docstring."""
    text = path.read_text(encoding="utf-8")
    shell = [block for kind, block in FENCE.findall(text) if kind == "sh"]
    return [
        line
        for block in ([text] if path.suffix == ".py" else shell)
        for line in re.findall(
            r"^ *(?:[A-Z_]+=\S+ )?(mnist-jax .*?) *(?:#.*)?$", block, re.MULTILINE
        )
    ]


def arguments(line: str) -> list[str]:
    """The arguments of a command; a recipe of the reader's is written as the reference recipe."""
    args = shlex.split(line)[1:]
    for before, arg in itertools.pairwise(args):
        if before == "--config" and arg.removeprefix("configs/").removesuffix(".py") not in RECIPES:
            Path(arg).parent.mkdir(parents=True, exist_ok=True)
            text = "{}" if arg.endswith(".json") else "from mnist_jax import Config as get_config"
            Path(arg).write_text(text, encoding="utf-8")
    return args


def test_commands_of_pages_and_recipes_are_understood(subtests, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pages = [*PAGES, *sorted((ROOT / "configs").glob("*.py"))]
    lines = {line: path.name for path in pages for line in commands_of(path)}
    assert len(lines) > 50
    for line, page in lines.items():
        with subtests.test(msg=f"{page}: {line}"):
            args = arguments(line)
            if "--help" in args:
                assert main(args) == 0
            else:
                parse(args)


def test_no_two_trainings_of_the_pages_share_a_work_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained: dict[str, Any] = {"runs/default": (Config(), [])}  # by `make train`
    for path in PAGES:
        for line in commands_of(path):
            args = arguments(line)
            if args[0] not in ("train", "population") or {"--extend", "--help"} & {*args}:
                continue
            given = parse(args)
            recipe = Path(given.config or "default").stem
            workdir = given.workdir or f"runs/{recipe}{'-population' * (args[0] == 'population')}"
            run = (given.recipe, [arg for arg in args if arg in ("--tensorboard", "--profile")])
            assert trained.setdefault(str(workdir), run) == run, (path, line)
        for workdir in {*re.findall(r'"(runs/[\w-]+)"', "".join(python_of(path)))}:
            assert trained.setdefault(workdir, path) == path, (path, workdir)


def made_for_commands() -> None:
    """Files that the commands of pages read: photographs, a folder of them, a table."""
    images, labels = load_dataset("mnist", "test[:60]")
    for number, (image, label) in enumerate(zip(images[..., 0], labels, strict=True)):
        Path(f"photos/{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(f"photos/{label}/{number}.png")
    Path("scans").mkdir()
    for name in ("photo.jpg", "scan.png", "new.jpg", "scans/1.png"):
        Image.fromarray(255 - images[0, :, :, 0]).resize((140, 140)).save(name)
    rows = [",".join(f"pixel{i}" for i in range(784))]
    rows += [",".join(map(str, image.reshape(-1))) for image in images[:3]]
    Path("test.csv").write_text("\n".join(rows), encoding="utf-8")


def as_run(line: str) -> list[str]:
    """The arguments of a command after the shell's patterns; trainings see few images and seeds."""
    args = []
    for arg in arguments(line):
        found = sorted(map(str, Path().glob(arg))) if "*" in arg else []
        args += found or ["2" if args and args[-1] == "--seeds" else arg]
    return args + FEW * (args[0] in ("train", "population") and "letters" not in args)


# Not run: a server, and what takes minutes or needs its result.
NOT_RUN = re.compile("serve|sweep|accurate|--seeds 5")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}.md" for name in RUN)])
def test_commands_of_a_page_run_after_make_train(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    made_for_commands()
    assert main(["train", *FEW]) == 0
    for line in commands_of(ROOT / page):
        if not NOT_RUN.search(line):
            assert main(as_run(line)) == 0, line


def options_of(command: str) -> set[str]:
    """The options in the full help of a command."""
    return {*re.findall(r"--[a-z][\w.-]*", REFERENCE["help_of"](command))}


def test_options_in_the_text_of_pages_exist():
    options = {command: options_of(command) for command in COMMANDS}
    known = set().union(*options.values())
    for path in PAGES:
        for code in re.findall(r"`([^`]+)`", prose(path)):
            words = code.split()
            named = {word.partition("=")[0] for word in words if re.match("--(?!xla_)", word)}
            if words[0] == "mnist-jax" and len(words) > 1 and words[1] != "COMMAND":
                assert words[1] in COMMANDS, (path, code)
                assert named <= options[words[1]], (path, code)
            elif words[0].startswith("--"):
                assert named <= known, (path, code)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub, and MyST like it, makes of headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_of_pages_lead_somewhere():
    for path in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
            if "://" in target:
                continue
            file, _, anchor = target.partition("#")
            page = path.parent / file if file else path
            assert page.exists(), (path, target)
            assert not anchor or anchor in anchors(page), (path, target)


def test_files_and_targets_of_make_that_pages_name_exist():
    """In code: configs/x.py, benchmarks/x.py, tests/x.py, mnist_jax/x.py; NAME stands for any."""
    place = re.compile(r"\b(?:configs|benchmarks|tests|mnist_jax)/[\w/*.]+\.(?:py|c)\b")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {*re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)}
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for found in place.findall(text):
            assert "NAME" in found or found in MADE_UP or [*ROOT.glob(found)], (path, found)
        for line in re.findall(r"(?:^|`)(make (?:[^`\n]+))", text, re.MULTILINE):
            named = [word for word in line.partition("#")[0].split()[1:] if "=" not in word]
            assert {*named} <= targets, (path, line)


def test_every_page_is_on_the_site_and_leads_to_the_next():
    listed = re.findall(r"^\w+$", (ROOT / "docs/index.md").read_text("utf-8"), re.MULTILINE)
    assert {*listed} == {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    for page, following in itertools.pairwise(["index", *listed, "index"]):
        if page not in ("commands", "api"):  # written by `make reference`
            text = (ROOT / f"docs/{page}.md").read_text("utf-8")
            assert re.findall(r"^Next: \[[^]]+\]\((\w+)\.md\)\.$", text, re.MULTILINE) == [
                following
            ]
