"""Parts of a source, which every reader returns, and which yield blocks of examples."""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Images of real numbers [n, H, W, C], in order, and the names of their classes [n].
Block = tuple[np.ndarray, list[str]]
BLOCK_BYTES = 4 << 20  # of values in a block; a larger image is a block of its own
MAX_CHANNELS = 16
MAX_VALUES = 300_000_000  # per image: the largest image files, in colour
COLOUR_ROWS = (
    "rows of pixels were read as H, W, C, the three colours of a pixel side by side; if they are "
    "C, H, W like CIFAR's, save them as [N, H, W, C]"
)


class Part(NamedTuple):
    """A part of a source, or all of it, which can be read repeatedly."""

    # keep -> the examples where keep (bool [N]) is true; all for None.
    blocks: Callable[[np.ndarray | None], Iterator[Block]]
    where: Callable[[int], str]  # index -> the example's name in messages
    # A line for each unreadable file; complete after the first pass over all blocks.
    unreadable: Sequence[str] = ()

    def map(self, change: Callable[[np.ndarray, list[str]], Block]) -> "Part":
        """Applies a change to each block."""
        return self._replace(blocks=lambda keep: itertools.starmap(change, self.blocks(keep)))


class Source(NamedTuple):
    """A reader's description of a source; `import` prints it."""

    kind: str  # such as "a CSV file"
    labels: str  # their place, such as "the column 'digit'"
    # "train" and optionally "validation" and "test"; or "all" if the names do not say.
    parts: dict[str, Part]
    ignored: list[str]  # unused files or arrays, with a reason unless it is obvious
    notes: Sequence[str] = ()  # lines about the images


# Words for each part, mostly those of Hugging Face's `datasets`. Only the long ones may begin
# another word: "training", but not "value".
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


def flat_shape(num_pixels: int, size: tuple[int, int] | None, title: str) -> tuple[int, int, int]:
    """Returns the shape [H, W, C] of an image in a row of pixels, grey or in colour.

    Raises ValueError if the pixels do not fill `size`, or a square if `size` is None.
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


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Returns a sort key that puts "class10" after "class9"."""
    pieces = re.findall(r"([0-9]{1,1000})|([^0-9]+)", name)
    return tuple((not digits, int(digits or 0), text) for digits, text in pieces)
