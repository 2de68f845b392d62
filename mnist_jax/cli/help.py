"""The texts of `--help` and `--help-all`."""

import shutil
import textwrap
import typing
from collections.abc import Iterable, Iterator, Mapping

from mnist_jax.cli.parser import Command, Option, recipe_options
from mnist_jax.config import Config, completed, recipe_names

# The fields of a recipe that `--help` shows.
FREQUENT = (
    "--epochs",
    "--batch-size",
    "--optimizer.learning-rate",
    "--optimizer.name",
    "--model.name",
    "--data.dataset",
    "--seed",
    "--watch.patience",
    "--precision",
)
RARE = ("--tensorboard", "--profile", "--distributed", "--no-compilation-cache")


def overview(commands: Mapping[str, Command]) -> str:
    """Returns the text of `mnist-jax --help`."""
    lines = ["usage: mnist-jax COMMAND [OPTIONS]", "", "commands:"]
    for name, command in commands.items():
        lines += _entry(name, command.run.__doc__ or "", 14)
    lines += ["", "examples:", "  mnist-jax train --config fast", "  mnist-jax evaluate runs/fast"]
    lines += ["  mnist-jax predict digit.png --workdir runs/fast", "", *_recipes()]
    return "\n".join([*lines, *_wrapped("mnist-jax COMMAND --help shows a command's options.")])


def command_help(command: Command, *, everything: bool) -> str:
    """Returns the text of `COMMAND --help`, or with `everything` of `--help-all`."""
    arguments = [option for option in command.options if option.is_plain]
    own = [option for option in command.options if not option.is_plain]
    words = []
    for option in command.plain:
        word = option.attribute.upper() + "..." * option.takes_several
        words.append(word if option.required else f"[{word}]")
    words += [option.usage for option in own if option.required]
    usage = " ".join(["usage: mnist-jax", command.name, *words, "[OPTIONS]"])
    lines = [*_wrapped(usage), "", *_wrapped(command.run.__doc__ or "")]
    if arguments:
        lines += ["", "arguments:", *_entries(arguments)]
    if everything:
        lines += ["", "options:", *_entries(own)]
        for title, fields in _groups() if command.takes_recipe else ():
            lines += ["", *_wrapped(title), *_entries(fields)]
    else:
        shown = [option for option in own if not option.name.startswith(RARE)]
        if command.takes_recipe:
            found = {option.name: option for option in recipe_options()}
            shown[-3:-3] = [_first_sentence(found[name]) for name in FREQUENT]
        lines += ["", "options:", *_entries(shown)]
    lines += ["", "examples:", *(f"  {line}" for line in command.example.splitlines()), ""]
    if command.takes_recipe:
        lines += _recipes()
    if not everything:
        lines += _wrapped(f"mnist-jax {command.name} --help-all shows all options.")
    return "\n".join(lines).rstrip()


def _recipes() -> list[str]:
    return _wrapped(f"recipes: {', '.join(recipe_names())}")


def _groups() -> Iterator[tuple[str, list[Option]]]:
    """Yields title and options of each part of a recipe."""
    options = [*recipe_options()]
    yield "recipe:", [option for option in options if "." not in option.name]
    for name, part in typing.get_type_hints(Config).items():
        if group := [option for option in options if option.name.startswith(f"--{name}.")]:
            yield f"{name}: {str(part.__doc__).partition('Attributes:')[0]}", group


def _first_sentence(option: Option) -> Option:
    return option._replace(help=option.help.partition("; ")[0].rstrip(".") + ".")


def _entries(options: Iterable[Option]) -> Iterator[str]:
    for option in options:
        text, default = option.help, _default(option)
        if default and "default:" not in text:
            text = f"{text.rstrip('.')} (default: {default})."
        yield from _entry(option.name if option.is_plain else option.usage, text, 30)


def _default(option: Option) -> str:
    if option.is_plain or not option.values:
        return ""
    default = completed({}).get(option.attribute) if option.default is None else option.default
    if default is None:
        return ""
    return " ".join(map(str, default)) if isinstance(default, list) else str(default)


def _entry(name: str, text: str, indent: int) -> Iterator[str]:
    """Yields a name and its text, beside it if there is room."""
    indent = indent if indent < _width() // 2 else 6
    head, lines = f"  {name}", [" " * indent + line for line in _wrapped(text, indent)]
    if len(head) > indent - 2:
        yield head
    else:
        lines[0] = head + lines[0][len(head) :]
    yield from lines


def _wrapped(text: str, indent: int = 0) -> list[str]:
    width = max(_width() - indent, 20)
    return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False) or [""]


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 100)
