"""The parser of the command line: options as data, values by argparse, mistakes in one line."""

import argparse
import dataclasses
import difflib
import itertools
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from mnist_jax.config import FIELD_DOCS, Config, load_config, recipe_names, replace_fields

# Words from other programs, with the options that mean the same here.
ALIASES = {
    "--lr": "--optimizer.learning-rate",
    "--learning-rate": "--optimizer.learning-rate",
    "--model": "--model.name",
    "--arch": "--model.name",
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
    "-v": "--debug",
    "-q": "--quiet",
    "-o": "--output",
}
ACCELERATOR = "JAX uses a GPU or TPU if it finds one, as mnist-jax doctor reports"
# Words for what needs no option.
NEEDLESS = {
    "--resume": "to resume, run the same command again",
    "--gpu": ACCELERATOR,
    "--device": ACCELERATOR,
    "--cuda": ACCELERATOR,
}


class Option(NamedTuple):
    """An option of a command, or its plain arguments.

    Attributes:
        name: The option with its dashes; for plain arguments a word without.
        values: Placeholders of its values: "" for a flag, "N", "HEIGHT WIDTH", "PATH..." for
            several, "a|b" for a choice.
        help: What it does; the first sentence must make sense alone.
        kind: Function from the text of a value to the value; ValueError if it is invalid.
        default: The value of an option that is not given.
        required: Whether it must be given.
        repeated: Whether it may be given several times, each adding its value.
    """

    name: str
    values: str
    help: str
    kind: Callable[[str], Any] = str
    default: Any = None
    required: bool = False
    repeated: bool = False

    @property
    def attribute(self) -> str:
        """The name of its value in the parsed arguments."""
        return self.name.lstrip("-").replace("-", "_").lower()

    @property
    def usage(self) -> str:
        """The option with its placeholders, as it is typed."""
        return f"{self.name} {self.values}".rstrip()


class Command(NamedTuple):
    """A command.

    Attributes:
        name: The word after `mnist-jax`.
        run: Function of the parsed arguments that prints for people, and returns the JSON result.
        options: Its options, those of a recipe apart.
        example: Command lines that show its use.
        plain: Attributes of the options whose values its plain arguments are, such as "workdir".
        takes_recipe: Whether a recipe's fields are options.
        is_good: Function of the result: whether the exit code is 0.
        needs_jax: Whether it uses JAX.
    """

    name: str
    run: Callable[[argparse.Namespace], Any]
    options: tuple[Option, ...]
    example: str
    plain: str = ""
    takes_recipe: bool = False
    is_good: Callable[[Any], bool] = lambda _: True
    needs_jax: bool = True


def parse(args: Sequence[str], commands: Mapping[str, Command]) -> argparse.Namespace:
    """Reads the arguments behind `mnist-jax`.

    Args:
        args: The arguments; the first one is the name of a command.
        commands: The commands by name.

    Returns:
        The values of the command's options by name, `command`, and for one that takes a recipe
        `recipe`, a Config.

    Raises:
        ValueError: An argument is unknown, missing or invalid.
        OSError: The recipe cannot be read.
    """
    name, *words = args or [""]
    if name not in commands:
        raise ValueError(f"{_not_a_command(name, commands)} (see mnist-jax --help)")
    command = commands[name]
    fields = [*recipe_options()] if command.takes_recipe else []
    options = {option.name: option for option in (*command.options, *fields)}
    try:
        values, plain = _read(words, options)
        _take_plain(command, words, values, plain, options)
        missing = [
            option.usage if option.name[0] == "-" else option.name
            for option in command.options
            if option.required and values[option.attribute] in (None, [])
        ]
        if missing:
            raise ValueError(f"{name} needs {', '.join(missing)}")
    except ValueError as error:
        raise ValueError(f"{error} (see mnist-jax {name} --help)") from None
    given = {option.attribute: values.pop(option.attribute, None) for option in fields}
    if command.takes_recipe:
        recipe = Config()
        if values["config"] is not None:
            recipe = load_config(values["config"])
            values["config"] = Path(values["config"])
        changes = {field: value for field, value in given.items() if value is not None}
        values["recipe"] = replace_fields(recipe, changes)
    return argparse.Namespace(command=command, **values)


def recipe_options() -> Iterator[Option]:
    """Yields an option for each field of a recipe, such as `--optimizer.learning-rate`.

    Its value stays None where it is not given: the recipe has the default.
    """
    for field in dataclasses.fields(Config):
        if field.default is not dataclasses.MISSING:
            yield _field_option(Config, field, "")
        else:
            part = typing.get_type_hints(Config)[field.name]
            for inner in dataclasses.fields(part):
                yield _field_option(part, inner, f"{field.name}.")


def _field_option(cls: Any, field: dataclasses.Field[Any], group: str) -> Option:
    kind: Any = typing.get_type_hints(cls)[field.name]
    choices = "|".join(typing.get_args(kind)) if typing.get_origin(kind) is Literal else ""
    values = choices or {int: "N", float: "X", bool: "", str: "NAME"}[kind]
    doc = FIELD_DOCS[cls].get(field.name, "")
    name = f"--{group}{field.name}".replace("_", "-")
    return Option(name, values, doc, str if choices else kind)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _read(words: list[str], options: dict[str, Option]) -> tuple[dict[str, Any], list[str]]:
    """Returns the options' values by attribute, and the arguments that belong to no option."""
    parser = _Parser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in options.values():
        if option.name[0] != "-":
            parser.set_defaults(**{option.attribute: option.default})
        elif option.values:
            parser.add_argument(option.name, **_how(option))
        else:
            parser.add_argument(option.name, action="store_true", default=option.default)
            if option.default is None:  # a field that the recipe may have switched on
                head, dot, tail = option.name.removeprefix("--").rpartition(".")
                off, to = f"--{head}{dot}no-{tail}", option.attribute
                parser.add_argument(off, dest=to, action="store_false", default=None)
    typed = [word.partition("=")[0] for word in words]
    for option in options.values():
        if option.values.endswith("...") and typed.count(option.name) > 1:
            raise ValueError(f"{option.name} is given twice; give it once, with all its values")
    try:
        values, rest = parser.parse_known_args([_with_hyphens(word, options) for word in words])
    except argparse.ArgumentError as error:
        name = error.argument_name or ""
        usage = f"; type {options[name].usage}" if "expected" in error.message else ""
        if "ignored explicit" in error.message:
            raise ValueError(f"{name} takes no value") from None
        colon = "" if error.message.startswith("must") else ":"
        raise ValueError(f"{name}{colon} {error.message}{usage}") from None
    return vars(values), rest


def _how(option: Option) -> dict[str, Any]:
    count = len(option.values.split())
    how: dict[str, Any] = {"dest": option.attribute, "default": option.default}
    how["type"] = _choice(option.values) if "|" in option.values else option.kind
    if option.values.endswith("..."):
        how["nargs"] = "+"
    elif count > 1:
        how["nargs"] = count
    if option.repeated:
        how["action"] = "append"
    return how


def _choice(values: str) -> Callable[[str], str]:
    def kind(text: str) -> str:
        choices = values.split("|")
        if text not in choices:
            near = difflib.get_close_matches(text.lower(), choices, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise argparse.ArgumentTypeError(
                f"must be one of {', '.join(choices)}, got {text!r}{hint}"
            )
        return text

    return kind


def path(text: str) -> Path:
    """Returns the path; ArgumentTypeError for "", which a Path would make "."."""
    if not text:
        raise argparse.ArgumentTypeError("must be a path, got ''")
    return Path(text)


def _with_hyphens(word: str, options: Mapping[str, Option]) -> str:
    """Spells `--batch_size=3` as the option is: `--batch-size=3`."""
    name, equals, value = word.partition("=")
    spelled = name.replace("_", "-")
    return spelled + equals + value if spelled in options else word


def _take_plain(
    command: Command,
    words: list[str],
    values: dict[str, Any],
    plain: list[str],
    options: dict[str, Option],
) -> None:
    """Gives the plain arguments to the option that takes them; ValueError for unknown options."""
    behind = plain.index("--") if "--" in plain else len(plain)
    for word in plain[:behind]:
        if word.startswith("-") or not command.plain:
            raise ValueError(_unknown(word, words, options))
    plain = plain[:behind] + plain[behind + 1 :]
    if plain and not command.plain:
        raise ValueError(_unknown(plain[0], words, options))
    for attribute in command.plain.split() if plain else ():
        option = next(each for each in command.options if each.attribute == attribute)
        if option.name[0] == "-" and any(word.partition("=")[0] == option.name for word in words):
            raise ValueError(f"{option.name} and {plain[0]!r} are both given; leave one out")
        several = option.values.endswith("...")
        taken, plain = (plain, []) if several else (plain[:1], plain[1:])
        try:
            found = [option.kind(word) for word in taken]
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"{attribute} {error}") from None
        values[attribute] = found if several else found[0]
    if plain:
        raise ValueError(_unknown(plain[0], words, options))


def _unknown(word: str, words: list[str], options: dict[str, Option]) -> str:
    """The message for an argument that the command does not have, with what was meant."""
    name = word.partition("=")[0]
    before, behind = "", ""
    for one, other in itertools.pairwise(["", *words]):
        before = one if other == word else before
        behind = other if one == word and other[:1] != "-" else behind
    if not name.startswith("-") or name == "-":
        if before in options and not options[before].values:
            return f"unexpected argument {word!r}: {before} takes no value"
        meant = "--config" if word in recipe_names() else "--workdir"
        hint = f"; did you mean {meant} {word}?" if meant in options else ""
        return f"unexpected argument {word!r}{hint}"
    if name in NEEDLESS and name not in options:
        return f"unknown option {name}: {NEEDLESS[name]}"
    near = nearest_option(name, [known for known in options if known.startswith("--")])
    value = f" {behind}" if near and options[near].values else ""
    return f"unknown option {name}" + (f"; did you mean {near}{value.rstrip()}?" if near else "")


def nearest_option(name: str, known: Sequence[str]) -> str:
    """Returns the option that was meant by an unknown one, or "".

    Slips of one letter come first, then other programs' words, abbreviations, and names that are
    alike as a whole or in their last part.
    """
    lower = name.lower()
    slips = [other for other in known if is_one_slip(lower, other)]
    if slips:
        return max(slips, key=lambda other: _alike(name, other))
    if ALIASES.get(lower) in known:
        return ALIASES[lower]
    if len(lower) > 3 and (longer := [other for other in known if other.startswith(lower)]):
        return min(longer, key=len)
    last = {other.lstrip("-").rpartition(".")[2]: other for other in reversed(known)}
    initials = {"".join(word[:1] for word in short.split("-")): it for short, it in last.items()}
    group, _, word = lower.lstrip("-").rpartition(".")
    word = word.removeprefix("no-")
    within = {s: o for s, o in (initials | last).items() if o.startswith(f"--{group}.")}
    for among in (within, last):
        if close := difflib.get_close_matches(word, among, 1, 0.7):
            return among[close[0]]
    return next(iter(difflib.get_close_matches(lower, known, 1, 0.7)), "")


def is_one_slip(typed: str, meant: str) -> bool:
    """Whether one letter is missing, added or wrong, or two neighbours have changed places."""
    start = _alike(typed, meant)
    typed, meant = typed[start:], meant[start:]
    end = _alike(typed[::-1], meant[::-1])
    typed, meant = typed[: len(typed) - end], meant[: len(meant) - end]
    return max(len(typed), len(meant)) <= 1 or (len(typed) == 2 and typed == meant[::-1])


def _alike(one: str, other: str) -> int:
    """The number of letters at the start that are the same."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _not_a_command(name: str, commands: Mapping[str, Command]) -> str:
    if not name or name == "--":
        return f"a command is missing; expected one of {', '.join(commands)}"
    if name in ("help", "-h", "--h"):
        return "help is not a command; did you mean --help?"
    if name in ("-v", "-V", "version"):
        return f"{name} is not a command; did you mean --version?"
    if re.match("-", name):
        return f"unknown option {name} before the command; a command comes first"
    near = difflib.get_close_matches(name.lower(), commands, 1)
    slips = [other for other in commands if is_one_slip(name.lower(), other)] or near
    hint = f"; did you mean {slips[0]}?" if slips else ""
    return f"unknown command {name!r}{hint or '; expected one of ' + ', '.join(commands)}"
