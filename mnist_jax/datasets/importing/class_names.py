"""Names of classes, from a source's spellings."""

import functools
import re
import unicodedata
from collections.abc import Iterable

from mnist_jax.datasets.importing.sources.part import natural

LONGEST = 255  # characters of a name, like a folder's
REFUSED = ("Cc", "Cs", "Zl", "Zp")  # control characters, surrogates, separators of lines
# Integers as NumPy and pandas write them: 5, 05, 5.0, 5.000e+00. "1e5" may be a name.
INTEGER = r"([+-]?[0-9]+)(\.0*)?|[+-]?[0-9](\.[0-9]+)?e[+-][0-9]{2}"
FULL_WIDTH = {0xFF10 + digit: str(digit) for digit in range(10)}
MISSING = {"nan", "na", "n/a", "null", "none", "inf", "-inf", "?"}


@functools.lru_cache(maxsize=1 << 16)
def class_name(text: str) -> str:
    """Returns the class's name for a source's spelling; all spellings of an integer are one.

    Letters are composed, because a Mac's folders have them decomposed. Case matters.
    """
    name = unicodedata.normalize("NFC", text.strip())
    number = re.fullmatch(INTEGER, name.translate(FULL_WIDTH), re.IGNORECASE)
    if not number or len(name) > LONGEST:
        return name
    if number[1]:
        return str(int(number[1]))
    return str(int(float(number[0]))) if float(number[0]).is_integer() else name


def class_order(names: Iterable[str]) -> list[str]:
    """Sorts names: integers by value, others by `natural`.

    Raises ValueError for fewer than two names, or one that is not a line or marks a missing value.
    """
    names = list(names)
    for name in names:
        expected = ""
        if not 1 <= len(name) <= LONGEST:
            expected = f"of 1 to {LONGEST} characters"
        elif any(unicodedata.category(character) in REFUSED for character in name):
            expected = "without control characters"
        if expected:
            raise ValueError(f"the class {name[:40]!r} must have a name {expected}")
    if len(names) < 2:
        raise ValueError(f"there must be two or more classes, found only {', '.join(names)!r}")
    words = [name for name in names if not re.fullmatch("-?[0-9]+", name)]
    if len(words) == 1 and words[0].lower() in MISSING:
        raise ValueError(
            f"one class is {words[0]!r} and the others are integers: a label is missing; leave out "
            "its image"
        )
    return (
        sorted(names, key=lambda name: (natural(name), name)) if words else sorted(names, key=int)
    )
