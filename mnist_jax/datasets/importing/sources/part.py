"""A source's parts, which yield blocks of examples."""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

Shape = tuple[int, int, int]  # H, W, C
Size = tuple[int, int] | None  # H, W; None if not given
Keep = np.ndarray | None  # examples to keep, bool [N]; None for all
Block = tuple[np.ndarray, list[str]]  # real images [n, H, W, C], and their classes' names [n]
BLOCK_BYTES = 4 << 20  # of values in a block, unless one image is larger
MAX_CHANNELS = 16
MAX_VALUES = 300_000_000  # per image: the largest image files, in colour
COLOUR_ROWS = (
    "rows of pixels were read as H, W, C, the three colours of a pixel side by side; if they are "
    "C, H, W like CIFAR's, save them as [N, H, W, C]"
)


class Part(NamedTuple):
    """Examples of a source, which can be read repeatedly."""

    blocks: Callable[[Keep], Iterator[Block]]
    where: Callable[[int], str]  # index -> the example's name in messages
    unreadable: Sequence[str] = ()  # lines about files, after a pass over all blocks

    def map(self, change: Callable[[np.ndarray, list[str]], Block]) -> "Part":
        """Applies a change to each block."""
        return self._replace(blocks=lambda keep: itertools.starmap(change, self.blocks(keep)))


class Source(NamedTuple):
    """A reader's description of a source; `import` prints it."""

    kind: str  # such as "a CSV file"
    labels: str  # their place, such as "the column 'digit'"
    parts: dict[str, Part]  # by `role`
    ignored: list[str]  # unused files or arrays
    notes: Sequence[str] = ()  # about the images


# Mostly Hugging Face's words. Only long ones may begin another: "training", but not "value".
ROLES = {
    "train": r"train|trn(?![a-z])",
    "validation": r"(valid(ation)?|val|dev)(set|data|images?)?(?![a-z])",
    "test": r"test|t10k|(tst|eval(uation)?)(set|data|images?)?(?![a-z])",
}


def role(path: Path) -> str:
    """Returns the part in a path's name: "train", "validation" or "test", else "all"."""
    name = path.name.lower()
    roles = [part for part, words in ROLES.items() if re.search(rf"(?<![a-z])({words})", name)]
    return roles[0] if len(roles) == 1 else "all"


def flat_shape(num_pixels: int, size: Size, title: str) -> Shape:
    """Returns the shape [H, W, C] of an image in a row of pixels, grey or in colour.

    Raises ValueError if the pixels do not fill `size`, by default a square.
    """
    for channels in (1, 3):
        side = round((num_pixels / channels) ** 0.5)
        height, width = size or (side, side)
        if num_pixels and height * width * channels == num_pixels:
            return height, width, channels
    wanted = f"{size[0]}x{size[1]}" if size else "a square (otherwise give --size HEIGHT WIDTH)"
    raise ValueError(
        f"{title} has {num_pixels:,} pixels per image, which is not {wanted}, once or three times"
    )


def some(words: Sequence[str], most: int = 10) -> str:
    """Joins words, up to `most`."""
    return ", ".join(words[:most]) + (", ..." if len(words) > most else "")


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Returns a sort key that puts "class10" after "class9"."""
    pieces = re.findall(r"([0-9]{1,1000})|([^0-9]+)", name)
    return tuple((not digits, int(digits or 0), text) for digits, text in pieces)
