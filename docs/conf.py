"""The documentation site: `python -m sphinx -W --keep-going -b html docs build/docs`."""

import re
import tomllib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import mnist_jax

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]

project = "mnist_jax"
author = "the authors of mnist_jax"
project_copyright = f"{author}, Apache-2.0"
version = release = mnist_jax.__version__

extensions = ["myst_parser", "sphinx_copybutton"]
myst_heading_anchors = 3
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


def adapt(_: Sphinx, __: str, content: list[str]) -> None:
    """Links files beside docs/ to the repository; drops the next page, which Furo adds itself."""

    def link(found: re.Match[str]) -> str:
        path = found[1]
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"]({REPOSITORY}/{kind}/main/{path}"

    content[0] = re.sub(r"\]\(\.\./([^)#]+)", link, content[0])
    content[0] = re.sub(r"^Next: .*\n", "", content[0], flags=re.MULTILINE)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the function that changes pages before they are read."""
    app.connect("source-read", adapt)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
