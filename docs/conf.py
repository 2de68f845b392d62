"""The documentation site: `python -m sphinx -W --keep-going -b html docs build/docs`."""

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import mnist_jax
from mnist_jax.cli.commands import COMMANDS
from mnist_jax.cli.main import main

REPOSITORY = "https://github.com/mnist-jax/mnist_jax"
ROOT = Path(__file__).parent.parent

project = "mnist_jax"
author = "the authors of mnist_jax"
project_copyright = f"{author}, Apache-2.0"
version = release = mnist_jax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_heading_anchors = 3
suppress_warnings = ["myst.html"]
default_role = "literal"  # docstrings write `x` for code
autodoc_member_order = "bysource"
napoleon_use_rtype = False  # "(images, labels): ..." is no type
napoleon_attr_annotations = False
napoleon_use_ivar = True  # attributes of a tuple are told once, by its docstring
python_maximum_signature_line_length = 88
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = "mnist_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
    "light_css_variables": {"color-brand-primary": "#2457c5", "color-brand-content": "#2457c5"},
    "dark_css_variables": {"color-brand-primary": "#8fb4ff", "color-brand-content": "#8fb4ff"},
}


def link_to_repository(_: Sphinx, __: str, content: list[str]) -> None:
    """Has links to files beside docs/ lead to the repository; on GitHub they work as they are."""

    def link(found: re.Match[str]) -> str:
        path = found[1]
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"]({REPOSITORY}/{kind}/main/{path}"

    content[0] = re.sub(r"\]\(\.\./([^)#]+)", link, content[0])


def describe_commands(_: Sphinx, name: str, content: list[str]) -> None:
    """Appends to the page of the commands what each prints for --help."""
    if name == "commands":
        for command in COMMANDS:
            content[0] += f"\n## {command}\n\n```text\n{help_of(command)}\n```\n"


def help_of(command: str) -> str:
    """Returns what `mnist-jax COMMAND --help` prints, without the rules below headings."""
    os.environ["COLUMNS"] = "88"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main([command, "--help"])
    lines = [line.rstrip() for line in printed.getvalue().splitlines()]
    return "\n".join(line for line in lines if not line or line.strip(" -"))


def keep_colons(_: Sphinx, what: str, __: str, ___: Any, ____: Any, lines: list[str]) -> None:
    """Begins a field's docstring with an empty comment; Napoleon would read it as `type: text`."""
    if what in ("attribute", "property"):
        lines[:0] = ["..", ""]


def without_parent(*event: Any) -> tuple[str, str] | None:
    """Takes what Linen adds to each module off its signature."""
    signature, returns = event[-2:]
    return signature and (re.sub(r", parent: .*", ")", signature), returns)


def is_alias(*event: Any) -> bool | None:
    """Leaves out the fields of tuples, which the docstring of the class tells already."""
    return True if str(event[3].__doc__).startswith("Alias for field") else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the functions that change pages and docstrings before they are read."""
    app.connect("source-read", link_to_repository)
    app.connect("source-read", describe_commands)
    app.connect("env-get-outdated", lambda *_: ["commands"])  # it is made of the code
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # before Napoleon
    app.connect("autodoc-process-signature", without_parent)
    app.connect("autodoc-skip-member", is_alias)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
