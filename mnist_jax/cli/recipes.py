"""The recipes of the package, as their docstrings describe them."""

import ast
import re
from typing import NamedTuple

from mnist_jax.config import recipe_folder


class Recipe(NamedTuple):
    """A recipe of the package.

    Attributes:
        name: The name, as `--config` takes it.
        purpose: The first sentence of the docstring.
        accuracy: Test accuracy such as "99.08 %"; "" if the docstring has none.
        time: Training time such as "6 s"; "" if the docstring has none.
    """

    name: str
    purpose: str
    accuracy: str
    time: str


def describe_recipe(name: str) -> Recipe:
    """Reads a recipe's docstring, without running the recipe.

    A result reads "Test accuracy 99.08 % in 6 s".
    """
    source = (recipe_folder() / f"{name}.py").read_text(encoding="utf-8")
    doc = ast.get_docstring(ast.parse(source)) or ""
    result = re.search(r"Test accuracy ([\d.]+ %)(?:.*?\bin (?:about )?([\d.]+ (?:s|min))\b)?", doc)
    accuracy, time = result.groups(default="") if result else ("", "")
    return Recipe(name, doc.partition("\n")[0].rstrip("."), accuracy, time)
