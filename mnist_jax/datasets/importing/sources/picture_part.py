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
    """The common state of a source's parts."""

    def __init__(self):
        self.room: int = KEPT_BYTES  # bytes that may still be kept
        self.lightnesses: dict[Path, float] = {}  # of each transparent picture, by file


def picture_part(files: list[tuple[Path, str]], memory: Memory) -> Part:
    """Returns image files and their classes as a part.

    Files that cannot be read are not among the examples, once all were read. What is transparent
    gets one ground in all parts of the source: white, or black where most pictures are light.
    """
    from mnist_jax.datasets.image_files import best_ground, lightness, on_ground, read_pixels

    readable, unreadable = [*files], list[str]()
    kept: list[np.ndarray] = []  # the pixels of the first files

    def read(path: Path) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked, and of odd metadata
            return read_pixels(path)

    def read_first() -> Iterator[tuple[np.ndarray, str]]:
        memory.room += sum(pixels.nbytes for pixels in kept)
        for known in (readable, unreadable, kept):
            known.clear()
        for path, name in files:
            try:
                pixels = read(path)
            except (OSError, ValueError) as error:
                unreadable.append(one_line(error))
                continue
            if pixels.shape[2] == 4:
                memory.lightnesses[path] = lightness(pixels)
            if len(kept) == len(readable) and memory.room >= pixels.nbytes:
                memory.room -= pixels.nbytes
                kept.append(pixels)
            readable.append((path, name))
            yield pixels, name

    def read_again(keep: np.ndarray) -> Iterator[tuple[np.ndarray, str]]:
        examples = itertools.zip_longest(readable, kept)
        for (path, name), pixels in itertools.compress(examples, keep):
            yield (read(path) if pixels is None else pixels), name

    def blocks(keep: np.ndarray | None) -> Iterator[Block]:
        lightnesses = [*memory.lightnesses.values()]
        ground = 255 if keep is None or not lightnesses else best_ground(lightnesses)
        images, names = list[np.ndarray](), list[str]()
        for pixels, name in read_first() if keep is None else read_again(keep):
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

    return Part(blocks, lambda i: str((readable[i : i + 1] or files)[0][0]), unreadable)
