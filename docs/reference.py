"""Writes the reference below the marker in commands.md and api.md: `python docs/reference.py`.

With `--check` it writes nothing, and fails with a line for each page that is out of date.
"""

import ast
import contextlib
import inspect
import io
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from mnist_jax.cli.commands import COMMANDS
from mnist_jax.cli.main import main

DOCS = Path(__file__).parent
MARKER = "<!-- What follows is written by `make reference`. -->\n"
# The names on the page by heading and module: all public ones, and the pieces that pages teach.
NAMES = {
    "Train and use": {
        "training": "train Run",
        "evaluation": "evaluate",
        "network": "predict load_network Network Predictions",
        "datasets": "load_dataset load_splits train_validation_split",
        "datasets.arrays": "Split",
        "datasets.importing": "import_dataset",
        "datasets.info": "DataInfo",
        "exporting.export": "export",
        "reporting.report": "report",
        "serving.serve": "serve",
    },
    "Many trainings": {
        "laboratory.population": "population",
        "laboratory.comparison": "compare",
        "laboratory.sweep": "sweep load_search_space",
        "laboratory.verify": "verify",
    },
    "The recipe": {
        "config": "Config DataConfig ModelConfig OptimizerConfig AugmentConfig WatchConfig "
        "CheckpointConfig"
    },
    "Listeners and events": {
        "progress": "console",
        "reporting.tensorboard": "tensorboard",
        "reporting.profile": "profile",
        "events": "Listener Event Begin Chunk Save Epoch Plateau Diverged Stop Done Failed",
    },
    "The pieces": {
        "rng": "stream streams",
        "models": "create_model",
        "ops": "conv_pool",
        "augment": "augment mixup",
        "optimizer": "create_optimizer",
        "state": "TrainState create_train_state",
        "steps": "to_float train_step run_steps eval_step predict_step LossOptions StepOptions",
        "metrics": "mean_metrics mean_and_spread wilson_interval",
        "sharding": "create_mesh replicated split_batch",
        "loader": "epoch_order chunk_index take_chunk train_chunks",
        "program": "compile_program Program",
        "reporting.summary": "summarize step_flops",
        "datasets.prepare": "prepared_dir",
    },
}


def commands() -> str:
    """Returns the help of each command; options that another one has told are named only."""
    text, told = "", {}
    for command in COMMANDS:
        groups = re.split(r"\n\n(?=[\w ]+ options\n)", help_of(command))
        own = [group for group in groups if told.setdefault(group, command) == command]
        known = [group.partition(" options\n")[0] for group in groups if group not in own]
        shown = "\n\n".join(own)
        text += f"\n## {command}\n\n```text\n{shown}\n```\n"
        if known:
            text += f"\nAs [train](#train): the options {', '.join(known)}.\n"
    return text


def help_of(command: str) -> str:
    """Returns the full help of a command, without the rules below headings."""
    for flag in ("--help-all", "--help"):
        printed = io.StringIO()
        with (
            mock.patch.dict(os.environ, COLUMNS="88"),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            if main([command, flag]) == 0:
                break
    lines = [line.rstrip() for line in printed.getvalue().splitlines()]
    kept = "\n".join(line for line in lines if not line or line.strip(" -"))
    return re.sub(r"(?m)^ (?=\w)", "", kept).strip()


def api() -> str:
    """Returns the signature and the docstring of each name, as Markdown."""
    text = ""
    for heading, modules in NAMES.items():
        text += f"\n## {heading}\n"
        for module, names in modules.items():
            path = module.replace(".", "/")
            folder = (DOCS.parent / "mnist_jax" / path).is_dir()
            file = f"../mnist_jax/{path}{'/__init__' * folder}.py"
            source = (DOCS / file).read_text(encoding="utf-8")
            body = ast.parse(source).body
            text += f"\nIn [`mnist_jax.{module}`]({file}):\n"
            for name in names.split():
                text += f"\n### {name}\n\n{described(name, body, source)}"
    return text


def described(name: str, body: list[ast.stmt], source: str) -> str:
    """Returns the description of a function, a class or a type of a module."""
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return function(node, source)
        if isinstance(node, ast.ClassDef) and node.name == name:
            return class_(node, source)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return code(ast.get_source_segment(source, node)) + markdown(string(following))
    sys.exit(f"docs/reference.py: there is no {name}; change NAMES there")


def function(node: ast.FunctionDef, source: str) -> str:
    """Returns a function's signature, as the source has it, and its docstring."""
    lines = source.splitlines()[node.lineno - 1 : node.body[0].lineno - 1]
    return code(textwrap.dedent("\n".join(lines)).rstrip(":")) + markdown(ast.get_docstring(node))


def class_(node: ast.ClassDef, source: str) -> str:
    """Returns a class's docstring and fields, then its public methods."""
    bases = ", ".join(map(ast.unparse, [*node.bases, *node.keywords]))
    shown, fields, methods = [f"class {node.name}({bases})"], "", []
    for member, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(member, ast.AnnAssign):
            if explained := string(following):
                fields += f"- `{field(member)}`: {' '.join(explained.split())}\n"
            else:
                shown.append(f"    {field(member)}")
        elif isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
            methods.append(function(member, source))
    parts = [code("\n".join(shown)) + markdown(ast.get_docstring(node)), fields, *methods]
    return "\n".join(part for part in parts if part)


def field(node: ast.AnnAssign) -> str:
    """Returns a field's name, type and default; what limits its values is in the source."""
    text = re.sub(r"Annotated\[(\w+), .*\]", r"\1", ast.unparse(node.annotation))
    simple = {"Count": "int", "Seed": "int", "DatasetName": "str"}
    simple |= dict.fromkeys(("Fraction", "Positive", "NotNegative"), "float")
    default = ast.unparse(node.value) if node.value else ""
    made = re.fullmatch(r"field\(default_factory=(\w+)\)", default)
    default = f"{made[1]}()" if made else default
    return f"{ast.unparse(node.target)}: {simple.get(text, text)}{default and ' = '}{default}"


def string(node: ast.stmt | None) -> str:
    """Returns the text of a string that stands alone, as below a field, or ""."""
    value = node.value if isinstance(node, ast.Expr) else None
    return inspect.cleandoc(str(value.value)) if isinstance(value, ast.Constant) else ""


def code(text: str | None) -> str:
    """Returns a block of code; `py`, because the tests run those of `python`."""
    return f"```py\n{text}\n```\n"


def markdown(docstring: str | None) -> str:
    """Returns a docstring with its Google sections as bold words and lists."""

    def lines() -> Iterator[str]:
        section = ""
        for line in (docstring or "").splitlines():
            entry = re.fullmatch(r"    ([*\w][*\w, ]*): (.*)", line)
            if title := re.fullmatch(r"(Args|Attributes|Returns|Raises|Yields):", line):
                section = title[1]
                yield f"\n**{section}**\n"
            elif section in LISTS and entry:
                yield f"- `{entry[1]}`: {entry[2]}"
            elif line.startswith("    "):
                yield ("  " if section in LISTS else "") + line.strip()
            else:
                yield line
                section = section if not line else ""

    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines()))
    return f"\n{text}\n" if text else ""


LISTS = ("Args", "Attributes", "Raises")
PAGES = {"commands.md": commands, "api.md": api}


def outdated(*, write: bool = False) -> list[str]:
    """Returns the pages that are not what the code says, and writes them if that is wanted."""
    found = []
    for page, reference in PAGES.items():
        path = DOCS / page
        old = path.read_text(encoding="utf-8")
        new = old.partition(MARKER)[0] + MARKER + reference()
        if new != old:
            found.append(f"docs/{page}")
        if write:
            path.write_text(new, encoding="utf-8")
    return found


if __name__ == "__main__":
    write = "--check" not in sys.argv
    pages = outdated(write=write)
    for page in pages:
        print(f"{page} is {'written' if write else 'out of date: run `make reference`'}")
    sys.exit(bool(pages) and not write)
