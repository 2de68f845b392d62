"""The names of classes, and the order that people expect of them."""

import re
import unicodedata
from collections.abc import Iterable

LONGEST = 255  # characters, as of a folder's name
# Unicode's line and paragraph separators, control characters, and half characters.
REFUSED = ("Cc", "Cs", "Zl", "Zp")


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key to sort by in which "class10" comes after "class9"."""
    pieces = re.findall(r"([0-9]{1,1000})|([^0-9]+)", name)
    return tuple((not digits, int(digits or 0), text) for digits, text in pieces)


def class_order(names: Iterable[str]) -> list[str]:
    """Returns names in order: integers by their value, others as `natural` has it.

    Raises ValueError for fewer than two, or one that a line of text cannot hold.
    """
    names = list(names)
    for name in names:
        if name != name.strip() or not 1 <= len(name) <= LONGEST:
            raise ValueError(
                f"the class {name[:40]!r} must have a name of 1 to {LONGEST} characters, without "
                "spaces around it"
            )
        if any(unicodedata.category(character) in REFUSED for character in name):
            raise ValueError(f"the class {name[:40]!r} must have a name without control characters")
    if len(names) < 2:
        raise ValueError(f"there must be two classes or more, found only {', '.join(names)!r}")
    if all(re.fullmatch("[+-]?[0-9]+", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names, key=lambda name: (natural(name), name))
