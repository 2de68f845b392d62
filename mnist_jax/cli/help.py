"""The texts of `--help` and `--help-all`."""

import dataclasses
import shutil
import textwrap
import typing
from collections.abc import Iterable, Iterator, Mapping

from mnist_jax.cli.parser import Command, Option, recipe_options
from mnist_jax.config import Config, recipe_names

# The fields of a recipe that `--help` shows.
FREQUENT = (
    "--epochs",
    "--batch-size",
    "--optimizer.learning-rate",
    "--optimizer.name",
    "--model.name",
    "--data.dataset",
    "--seed",
    "--precision",
)
RARE = ("--tensorboard", "--profile", "--distributed", "--no-compilation-cache")
INDENT = 30


def overview(commands: Mapping[str, Command]) -> str:
    """Returns the text of `mnist-jax --help`."""
    width = _width()
    lines = ["usage: mnist-jax COMMAND [OPTIONS]", "", "commands:"]
    for name, command in commands.items():
        lines += _entry(name, command.run.__doc__ or "", width, 12)
    lines += ["", "examples:", "  mnist-jax train --config fast", "  mnist-jax report runs/fast"]
    lines += ["  mnist-jax predict digit.png --workdir runs/fast", ""]
    lines += _wrapped(f"recipes: {', '.join(recipe_names())}", width)
    return "\n".join([*lines, "mnist-jax COMMAND --help shows the options of a command."])


def command_help(command: Command, *, everything: bool) -> str:
    """Returns the text of `mnist-jax COMMAND --help`, or of `--help-all` with `everything`."""
    width = _width()
    arguments = [option for option in command.options if option.name[0] != "-"]
    own = [option for option in command.options if option.name[0] == "-"]
    words = [option.name + "..." * option.values.endswith("...") for option in arguments]
    if command.plain == "workdir":
        words = ["[WORKDIR...]" if own[0].values.endswith("...") else "[WORKDIR]"]
    usage = " ".join(["usage: mnist-jax", command.name, *words, "[OPTIONS]"])
    lines = [usage, "", *_wrapped(command.run.__doc__ or "", width)]
    if arguments:
        lines += ["", "arguments:", *_entries(arguments, width)]
    if everything:
        lines += ["", "options:", *_entries(own, width)]
        for title, fields in _groups() if command.takes_recipe else ():
            lines += ["", *_wrapped(title, width), *_entries(fields, width)]
    else:
        shown = [option for option in own if not option.name.startswith(RARE)]
        if command.takes_recipe:
            found = {option.name: option for option in recipe_options()}
            shown[-3:-3] = [_first_sentence(found[name]) for name in FREQUENT]
        lines += ["", "options:", *_entries(shown, width)]
    lines += ["", "examples:", *(f"  {line}" for line in command.example.splitlines())]
    if command.takes_recipe:
        lines += ["", *_wrapped(f"recipes: {', '.join(recipe_names())}", width)]
    if not everything:
        lines += [f"mnist-jax {command.name} --help-all shows all options."]
    return "\n".join(lines)


def _groups() -> Iterator[tuple[str, list[Option]]]:
    """Yields a title and the options of each part of a recipe."""
    options = [*recipe_options()]
    yield "recipe:", [option for option in options if "." not in option.name]
    types = typing.get_type_hints(Config)
    for field in dataclasses.fields(Config):
        group = [option for option in options if option.name.startswith(f"--{field.name}.")]
        if group:
            doc = str(types[field.name].__doc__).partition("\n\nAttributes:")[0]
            yield f"{field.name}: {' '.join(doc.split())}", group


def _first_sentence(option: Option) -> Option:
    return option._replace(help=option.help.partition("; ")[0].rstrip(".") + ".")


def _entries(options: Iterable[Option], width: int) -> Iterator[str]:
    for option in options:
        usage = option.usage if option.name[0] == "-" else option.name
        text = option.help
        default = _default(option)
        if default and "default:" not in text:
            text = f"{text.rstrip('.')} (default: {default})."
        yield from _entry(usage, text, width, INDENT)


def _default(option: Option) -> str:
    default = option.default
    if option.values and default is None and not option.required:
        field = option.name.removeprefix("--").replace("-", "_")
        part, _, name = field.rpartition(".")
        holder = getattr(Config(), part, None) if part else Config()
        default = getattr(holder, name, "")
    if isinstance(default, list):
        default = " ".join(map(str, default))
    return "" if default is None or isinstance(default, bool) else str(default)


def _entry(name: str, text: str, width: int, indent: int) -> Iterator[str]:
    """Yields a name and its text beside it; below it if the name is long."""
    filled = _wrapped(text, width - indent)
    head = f"  {name}"
    if len(head) > indent - 2:
        yield head
    else:
        filled[0] = head.ljust(indent) + filled[0]
        yield filled[0]
        filled = filled[1:]
    yield from (" " * indent + line for line in filled)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), max(width, 20), break_on_hyphens=False) or [""]


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 100)
