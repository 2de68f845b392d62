"""The parts of a source, as every reader gives them: their examples come a few at a time."""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Images of real numbers [n, H, W, C], in order, and the names of their classes [n].
Block = tuple[np.ndarray, list[str]]
BLOCK_BYTES = 4 << 20  # of an image file's values in memory; a larger image is a block of its own
MAX_CHANNELS = 16
MAX_VALUES = 300_000_000  # of an image: those of the largest image files, in colour
COLOUR_ROWS = (
    "rows of pixels were read as H, W, C, the three colours of a pixel side by side; if they are "
    "C, H, W, as CIFAR's, save them as [N, H, W, C]"
)


class Part(NamedTuple):
    """The training part of a source, another part, or all of it. It can be read many times."""

    # keep -> the examples, all of them or those where keep (bool [N]) is true.
    blocks: Callable[[np.ndarray | None], Iterator[Block]]
    where: Callable[[int], str]  # index -> the example's name in messages
    # A line for each file that cannot be read; complete when all blocks were read once.
    unreadable: Sequence[str] = ()

    def map(self, change: Callable[[np.ndarray, list[str]], Block]) -> "Part":
        """Returns the part with a change to each of its blocks."""
        return self._replace(blocks=lambda keep: itertools.starmap(change, self.blocks(keep)))


class Source(NamedTuple):
    """The content of a source as a reader found it; `import` prints it."""

    kind: str  # such as "a CSV file"
    labels: str  # their place, such as "the column 'digit'"
    # "train", and "validation" and "test" where there are such; "all" where nothing tells.
    parts: dict[str, Part]
    ignored: list[str]  # unused files, or arrays of a file, with the reason if it is not plain
    notes: Sequence[str] = ()  # lines that say more about the images


# The words that tell a part, those of Hugging Face's `datasets` and some more. Another word may
# begin with the long ones only: "training", but not "value".
ROLES = {
    "train": r"train|trn(?![a-z])",
    "validation": r"(valid(ation)?|val|dev)(set|data|images?)?(?![a-z])",
    "test": r"test|t10k|(tst|eval(uation)?)(set|data|images?)?(?![a-z])",
}


def role(path: Path) -> str:
    """Returns the part that a name tells: "train", "validation" or "test", or else "all"."""
    name = path.name.lower()
    roles = [part for part, words in ROLES.items() if re.search(rf"(?<![a-z])({words})", name)]
    return roles[0] if len(roles) == 1 else "all"


def flat_shape(num_pixels: int, size: tuple[int, int] | None, title: str) -> tuple[int, int, int]:
    """Returns [H, W, C] of an image that is given as one row of pixels, grey or in colour.

    Raises ValueError if the pixels do not fill `size`, or without it no square.
    """
    for channels in (1, 3):
        side = round((num_pixels / channels) ** 0.5)
        height, width = size or (side, side)
        if num_pixels and height * width * channels == num_pixels:
            return height, width, channels
    wanted = f"{size[0]}x{size[1]}" if size else "a square (give the size, as HEIGHT WIDTH, if so)"
    raise ValueError(
        f"{title} has {num_pixels:,} pixels an image, which is not {wanted}, once or three times"
    )


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Returns a key to sort by in which "class10" comes after "class9"."""
    pieces = re.findall(r"([0-9]{1,1000})|([^0-9]+)", name)
    return tuple((not digits, int(digits or 0), text) for digits, text in pieces)
