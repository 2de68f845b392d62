"""The parser of the command line: argparse, with mistakes answered in one line."""

import argparse
import dataclasses
import difflib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnist_jax.config import FIELD_DOCS, Config, load_config, recipe_names, replace_fields

# Other programs' words for commands and options.
COMMANDS = {"fit": "train", "test": "evaluate", "classify": "predict", "plot": "report"}
COMMANDS |= {"help": "--help", "version": "--version", "-v": "--version", "-V": "--version"}
ALIASES = {
    "--lr": "--optimizer.learning-rate",
    "--learning-rate": "--optimizer.learning-rate",
    "--model": "--model.name",
    "--arch": "--model.name",
    "--optim": "--optimizer.name",
    "--optimizer": "--optimizer.name",
    "--dataset": "--data.dataset",
    "--bs": "--batch-size",
    "--out": "--output",
    "--output-dir": "--workdir",
    "--out-dir": "--workdir",
    "--logdir": "--workdir",
    "--checkpoint": "--step",
    "--recipe": "--config",
    "--verbose": "--debug",
    "-b": "--batch-size",
    "-c": "--config",
    "-e": "--epochs",
    "-o": "--output",
    "-q": "--quiet",
    "-v": "--debug",
}
# Words for what needs no option.
ACCELERATOR = "JAX uses a GPU or TPU if it finds one, as mnist-jax doctor reports"
NEEDLESS: dict[str, str] = dict.fromkeys(("--gpu", "--device", "--cuda"), ACCELERATOR)
NEEDLESS["--resume"] = "to resume, run the same command again"
PLACEHOLDERS = {int: "N", float: "X", bool: "", str: "NAME"}


class Option(NamedTuple):
    """An option of a command, or its plain arguments.

    The usage has placeholders: "--show" for a flag, "--size HEIGHT WIDTH", "--channels 1|3" for a
    choice, "--workdir PATH..." for several; for plain arguments "NAME" or "IMAGES...".
    """

    usage: str
    help: str  # of a flag an imperative, else a noun phrase; its first sentence makes sense alone
    kind: Callable[[str], Any] = str  # from text to value; ValueError if invalid
    default: Any = None
    required: bool = False
    repeated: bool = False  # may be given several times, each adding a value

    @property
    def name(self) -> str:
        """The option with its dashes, or the name of plain arguments."""
        return self.usage.split()[0].removesuffix("...")

    @property
    def values(self) -> str:
        """The placeholders; "" for a flag."""
        return self.usage.partition(" ")[2]

    @property
    def attribute(self) -> str:
        """The name of its value in the parsed arguments."""
        return self.name.lstrip("-").replace("-", "_").lower()

    @property
    def is_plain(self) -> bool:
        """Whether it stands for plain arguments."""
        return not self.usage.startswith("-")

    @property
    def takes_several(self) -> bool:
        """Whether it takes any number of values."""
        return self.usage.endswith("...")


def flag(name: str, meaning: str) -> Option:
    """Returns an option without a value, False by default."""
    return Option(name, meaning, default=False)


class Command(NamedTuple):
    """A command."""

    name: str
    run: Callable[[argparse.Namespace], Any]  # prints lines, and returns the JSON result
    options: tuple[Option, ...]  # without those of a recipe
    example: str
    takes_recipe: bool = False  # has a recipe's fields as options
    is_good: Callable[[Any], bool] = lambda _: True  # of a result: exit code 0
    needs_jax: bool = True

    @property
    def plain(self) -> list[Option]:
        """Options that plain arguments stand for: of a trained network, its workdir."""
        own = [option for option in self.options if option.is_plain]
        trained = [] if self.takes_recipe else self.options
        return own or [option for option in trained if option.name == "--workdir"]


def parse(args: Sequence[str], commands: Mapping[str, Command]) -> argparse.Namespace:
    """Reads the arguments behind `mnist-jax`, first a command's name.

    Returns the `command`, its options' values by attribute and, if it takes one, the `recipe`, a
    Config. Raises ValueError if an argument is unknown, missing or invalid, and OSError if the
    recipe cannot be read.
    """
    name, *words = args or [""]
    if name not in commands:
        raise ValueError(f"{_not_a_command(name, words, commands)} (see mnist-jax --help)")
    command = commands[name]
    fields = [*recipe_options()] if command.takes_recipe else []
    options = {option.name: option for option in (*command.options, *fields)}
    try:
        values, plain = _read(words, options)
        _take_plain(command, words, values, plain, options)
        missing = [
            option.usage
            for option in command.options
            if option.required and values[option.attribute] in (None, [])
        ]
        if missing:
            raise ValueError(f"{name} needs {', '.join(missing)}")
    except ValueError as error:
        raise ValueError(f"{error} (see mnist-jax {name} --help)") from None
    if command.takes_recipe:
        given = {option.attribute: values.pop(option.attribute) for option in fields}
        recipe = load_config(values["config"]) if values["config"] else Config()
        changes = {field: value for field, value in given.items() if value is not None}
        values["recipe"] = replace_fields(recipe, changes)
    return argparse.Namespace(command=command, **values)


def recipe_options() -> Iterator[Option]:
    """Yields an option for each field of a recipe; None leaves the recipe's value."""
    fields_of = typing.get_type_hints
    groups: dict[str, Any] = {"": Config, **fields_of(Config)}
    for group, cls in groups.items():
        docs = FIELD_DOCS.get(cls, {})
        for field, kind in fields_of(cls).items() if dataclasses.is_dataclass(cls) else ():
            if dataclasses.is_dataclass(kind):
                continue
            choices = "|".join(typing.get_args(kind))
            name = f"--{group}.{field}".replace("--.", "--").replace("_", "-")
            usage = f"{name} {choices or PLACEHOLDERS[kind]}".rstrip()
            yield Option(usage, docs.get(field, ""), str if choices else kind)


def _read(words: list[str], options: dict[str, Option]) -> tuple[dict[str, Any], list[str]]:
    """Returns the options' values by attribute, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    typed = [word.partition("=")[0] for word in words]
    for option in options.values():
        name, to = option.name, option.attribute
        if option.is_plain:
            parser.set_defaults(**{to: option.default})
        elif option.values:
            count = len(option.values.split())
            parser.add_argument(
                name,
                dest=to,
                default=option.default,
                type=_reader(option),
                nargs="+" if option.takes_several else count if count > 1 else None,
                action="append" if option.repeated else "store",
            )
        else:
            parser.add_argument(name, dest=to, action="store_true", default=option.default)
            if option.default is None:  # a field that the recipe may have switched on
                off = switched_off(option)
                parser.add_argument(off, dest=to, action="store_false", default=None)
        if option.takes_several and typed.count(name) > 1:
            raise ValueError(f"{name} is given twice; give it once, with all its values")
    try:
        end = words.index("--") if "--" in words else len(words)
        spelled = [_with_hyphens(word, options) for word in words[:end]]
        values, rest = parser.parse_known_args(spelled + words[end:])
    except argparse.ArgumentError as error:
        name, message = error.argument_name or "", error.message
        if "ignored explicit argument" in message:
            raise ValueError(f"{name} takes no value, got {message.split(' ', 3)[-1]}") from None
        if message.startswith("must"):
            raise ValueError(f"{name} {message}") from None
        raise ValueError(f"{name}: {message}; type {options[name].usage}") from None
    return vars(values), rest


def switched_off(option: Option) -> str:
    """Returns the name that switches a flag off: `--model.no-batch-norm`."""
    head, dot, tail = option.name.removeprefix("--").rpartition(".")
    return f"--{head}{dot}no-{tail}"


def _reader(option: Option) -> Callable[[str], Any]:
    choices = option.values.split("|")

    def read(text: str) -> Any:
        try:
            if len(choices) == 1 or text in choices:
                return option.kind(text)
            expected = f"one of {', '.join(choices)}"
        except ValueError:
            expected = EXPECTED.get(option.kind, option.values)
        near = difflib.get_close_matches(text.lower(), choices, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise argparse.ArgumentTypeError(f"must be {expected}, got {text!r}{hint}")

    return read


def path(text: str) -> Path:
    """Returns the path; ValueError for "", which a Path would make "."."""
    if not text:
        raise ValueError
    return Path(text)


EXPECTED: dict[Any, str] = {int: "a whole number", float: "a number", path: "a path"}


def _with_hyphens(word: str, options: Mapping[str, Option]) -> str:
    """Spells `--batch_size=3` as the option is: `--batch-size=3`."""
    name, equals, value = word.partition("=")
    spelled = name.replace("_", "-")
    known = spelled in options or spelled.replace("no-", "", 1) in options
    return spelled + equals + value if known else word


def _take_plain(
    command: Command,
    words: list[str],
    values: dict[str, Any],
    plain: list[str],
    options: dict[str, Option],
) -> None:
    """Adds the plain arguments to the values; ValueError if they or an option are unknown."""
    end = plain.index("--") if "--" in plain else len(plain)
    for word in plain[:end]:
        if word.startswith("-"):
            raise ValueError(_unknown(word, words, options))
    behind = plain[end + 1 :]
    plain = plain[:end] + behind
    for option in command.plain if plain else ():
        if not option.is_plain and any(word.partition("=")[0] == option.name for word in words):
            raise ValueError(f"{option.name} and {plain[0]!r} are both given; leave one out")
        count = len(plain) if option.takes_several else 1
        taken, plain = plain[:count], plain[count:]
        try:
            found = [_reader(option)(word) for word in taken]
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"{option.attribute} {error}") from None
        values[option.attribute] = found if option.takes_several else found[0]
    if plain and command.plain:
        raise ValueError(
            f"{command.name} takes one {command.plain[-1].attribute}, got {plain[0]!r} too"
        )
    if plain and plain[0] in behind:
        raise ValueError(f"unexpected argument {plain[0]!r}")
    if plain:
        raise ValueError(_unknown(plain[0], words, options))


def _unknown(word: str, words: list[str], options: dict[str, Option]) -> str:
    """Returns the message for an argument that the command lacks, with what was meant."""
    name, _, value = word.partition("=")
    at = words.index(word)
    before, behind = "".join(words[at - 1 : at]), "".join(words[at + 1 : at + 2])
    if not name.startswith("-") or name == "-":
        if before in options and not options[before].values:
            return f"unexpected argument {word!r}: {before} takes no value"
        meant = "--config" if word in recipe_names() else "--workdir"
        hint = f"; did you mean {meant} {word}?" if meant in options else ""
        return f"unexpected argument {word!r}{hint}"
    if name in NEEDLESS:
        return f"unknown option {name}: {NEEDLESS[name]}"
    near = nearest_option(name, [known for known in options if known.startswith("--")])
    if not near:
        return f"unknown option {name}"
    if options[near].values and behind[:1] != "-":
        near = f"{near} {value or behind}".rstrip()
    elif "no-" in name and options[near].default is None and not options[near].values:
        near = switched_off(options[near])
    return f"unknown option {name}; did you mean {near}?"


def nearest_option(name: str, known: Sequence[str]) -> str:
    """Returns the option meant by an unknown one, or ""."""
    name = name.lower()
    if ALIASES.get(name) in known:
        return ALIASES[name]
    if close := difflib.get_close_matches(name, known, 1, 0.8):
        return close[0]
    word = name.lstrip("-").rpartition(".")[2].removeprefix("no-")
    last = {option.lstrip("-").rpartition(".")[2]: option for option in reversed(known)}
    longer = [option for option in known if option.startswith(name)]
    longer = longer or [option for part, option in last.items() if part.startswith(word)]
    if len(word) > 2 and longer:
        return min(longer, key=len)
    near = difflib.get_close_matches(word, last, 1, 0.75)
    return last[near[0]] if near else ""


def _not_a_command(name: str, words: list[str], commands: Mapping[str, Command]) -> str:
    expected = f"expected one of {', '.join(commands)}"
    if name in ("", "--"):
        return f"a command is missing; {expected}"
    near = (
        [COMMANDS[name]]
        if name in COMMANDS
        else difflib.get_close_matches(name.lower(), commands, 1)
    )
    if name.startswith("-") and not near:
        return f"unknown option {name} before the command; a command comes first"
    if near == ["--help"] and words[:1] and words[0] in commands:
        near = [f"{words[0]} --help"]
    return f"unknown command {name!r}; {f'did you mean {near[0]}?' if near else expected}"
