"""The image files of a part, read once and kept while they are few."""

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mnist_jax.datasets.importing.sources.part import BLOCK_BYTES, Block, Part
from mnist_jax.messages import one_line

BLOCK = 1024  # images of a block, at most
KEPT_BYTES = 256 << 20  # of all parts together: what is kept is not decoded a second time


class Memory:
    """What the parts of a source have in common.

    Attributes:
        room: bytes that may still be kept.
        lightnesses: the lightness of each transparent picture, by file.
    """

    def __init__(self):
        self.room: int = KEPT_BYTES
        self.lightnesses: dict[Path, float] = {}


def picture_part(files: list[tuple[Path, str]], memory: Memory) -> Part:
    """Returns image files and their classes as a part.

    Files that cannot be read are not among the examples, once all were read. What is transparent
    gets one ground in all parts of the source: white, or black where most pictures are light.
    """
    reader = _Reader(files, memory)
    return Part(reader.blocks, reader.where, reader.unreadable)


class _Reader:
    """Reads the files, and remembers from the first time which can be read, and some pixels."""

    def __init__(self, files: list[tuple[Path, str]], memory: Memory):
        self.listed, self.files, self.memory = files, [*files], memory
        self.unreadable: list[str] = []
        self.kept: list[np.ndarray] = []  # of the first files

    def where(self, index: int) -> str:
        return str((self.files[index : index + 1] or self.listed)[0][0])

    def blocks(self, keep: np.ndarray | None) -> Iterator[Block]:
        from mnist_jax.datasets.image_files import best_ground, on_ground

        lightnesses = [*self.memory.lightnesses.values()]
        ground = 255 if keep is None or not lightnesses else best_ground(lightnesses)
        images: list[np.ndarray] = []
        names: list[str] = []
        for pixels, name in self._first() if keep is None else self._again(keep):
            if pixels.shape[2] == 4:
                pixels = on_ground(pixels, ground)
            if pixels.shape[2] == 3 and (pixels == pixels[..., :1]).all():
                pixels = pixels[..., :1]  # grey, however it is stored
            if images and (
                (pixels.shape, pixels.dtype) != (images[0].shape, images[0].dtype)
                or len(images) == BLOCK
                or len(images) * pixels.nbytes >= BLOCK_BYTES
            ):
                yield np.stack(images), names
                images, names = [], []
            images.append(pixels)
            names.append(name)
        if images:
            yield np.stack(images), names

    def _first(self) -> Iterator[tuple[np.ndarray, str]]:
        from mnist_jax.datasets.image_files import lightness

        self.memory.room += sum(pixels.nbytes for pixels in self.kept)
        self.files.clear()
        self.unreadable.clear()
        self.kept.clear()
        for path, name in self.listed:
            try:
                pixels = _read(path)
            except (OSError, ValueError) as error:
                self.unreadable.append(one_line(error))
                continue
            if pixels.shape[2] == 4:
                self.memory.lightnesses[path] = lightness(pixels)
            if len(self.kept) == len(self.files) and self.memory.room >= pixels.nbytes:
                self.memory.room -= pixels.nbytes
                self.kept.append(pixels)
            self.files.append((path, name))
            yield pixels, name

    def _again(self, keep: np.ndarray) -> Iterator[tuple[np.ndarray, str]]:
        examples = itertools.zip_longest(self.files, self.kept)
        for (path, name), pixels in itertools.compress(examples, keep):
            yield (_read(path) if pixels is None else pixels), name


def _read(path: Path) -> np.ndarray:
    from mnist_jax.datasets.image_files import read_pixels

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes, which are checked, and of odd metadata
        return read_pixels(path)
