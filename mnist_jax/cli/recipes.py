"""The recipes of the package, as their docstrings describe them."""

import ast
import re

from mnist_jax.config import recipe_folder


def describe_recipe(name: str) -> dict[str, str]:
    """Returns a recipe's name, purpose, test accuracy ("99.08 %") and time ("6 s"), "" for none.

    The docstring begins with the purpose; its result reads "Test accuracy 99.08 % in 6 s".
    """
    source = (recipe_folder() / f"{name}.py").read_text(encoding="utf-8")
    doc = ast.get_docstring(ast.parse(source)) or ""
    result = re.search(r"Test accuracy ([\d.]+ %)(?: in ([\d.]+ (?:s|min)))?", doc)
    accuracy, time = result.groups(default="") if result else ("", "")
    purpose = doc.partition("\n")[0].rstrip(".")
    return {"name": name, "purpose": purpose, "accuracy": accuracy, "time": time}
