"""The recipes of the package, as their docstrings describe them."""

import ast
import re
from typing import NamedTuple

from mnist_jax.config import recipe_folder


class Recipe(NamedTuple):
    """A recipe of the package, with "" for what its docstring lacks."""

    name: str
    purpose: str  # first sentence of the docstring
    accuracy: str  # on the test split: "99.08 %"
    time: str  # of a training: "6 s"


def describe_recipe(name: str) -> Recipe:
    """Reads a recipe's docstring, whose result is written as "Test accuracy 99.08 % in 6 s"."""
    source = (recipe_folder() / f"{name}.py").read_text(encoding="utf-8")
    doc = ast.get_docstring(ast.parse(source)) or ""
    result = re.search(r"Test accuracy ([\d.]+ %)(?: in ([\d.]+ (?:s|min)))?", doc)
    accuracy, time = result.groups(default="") if result else ("", "")
    return Recipe(name, doc.partition("\n")[0].rstrip("."), accuracy, time)
