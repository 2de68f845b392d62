"""Folders of image files, a folder for each class."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mnist_jax.datasets.importing.sources.part import Block, Part, Source, natural, role


def read_folder(path: Path) -> Source:
    """Lists the images of a folder, whatever order the file system has them in.

    They are ordered by the names of the files, and those of one name by their class: so numbered
    files come in the order of their numbers.

    Args:
        path: a folder of CLASS/IMAGE, or of train/CLASS/IMAGE and test/CLASS/IMAGE.

    Raises:
        ValueError: there are no such folders, one has no images, or has folders in it.
    """
    roots: dict[str, Path] = {}
    ignored: list[str] = []
    for folder in _folders(path):
        if role(folder) != "all" and _folders(folder):
            first = roots.setdefault(role(folder), folder)
            if first != folder:
                raise ValueError(f"{first} and {folder} could both be the {role(folder)} part")
    if roots:
        ignored = [str(other) for other in _shown(path) if other not in roots.values()]
    else:
        roots = {"all": path}
    parts = {}
    for part in sorted(roots, reverse=True):  # train, test
        files, others = _list(roots[part])
        ignored += others
        blocks = functools.partial(_blocks, files)
        parts[part] = Part(blocks, lambda index, files=files: str(files[index][0]))
    return Source("image files", "the folders' names", parts, ignored)


def _shown(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _folders(folder: Path) -> list[Path]:
    return [path for path in _shown(folder) if path.is_dir()]


def _list(root: Path) -> tuple[list[tuple[Path, str]], list[str]]:
    """Returns the images with their classes, and the files that are none."""
    from PIL import Image

    from mnist_jax.datasets.image_files import FORMATS

    suffixes = {end for end, kind in Image.registered_extensions().items() if kind in FORMATS}
    files, ignored = [], [str(path) for path in _shown(root) if not path.is_dir()]
    for folder in _folders(root):
        images = []
        for path in _shown(folder):
            if path.is_dir():
                raise ValueError(
                    f"{path} is a folder in that of a class; expected images only: move them up, "
                    "or import a folder that is further down"
                )
            # A pipe or a socket is no file, and is not opened: reading it might never end.
            if path.is_file() and path.suffix.lower() in suffixes:
                images.append((path, folder.name))
            else:
                ignored.append(str(path))
        if not images:
            raise ValueError(f"{folder} holds no images; expected those of the class {folder.name}")
        files += images
    if not files:
        raise ValueError(
            f"{root} holds no folders of images; expected CLASS/IMAGE, or train/CLASS/IMAGE and "
            "test/CLASS/IMAGE"
        )
    files.sort(key=lambda example: (natural(example[0].name), natural(example[1])))
    return files, ignored


def _blocks(files: Sequence[tuple[Path, str]], keep: np.ndarray | None) -> Iterator[Block]:
    from mnist_jax.datasets.image_files import read_image

    for path, name in files if keep is None else itertools.compress(files, keep):
        pixels = np.asarray(read_image(path))
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        if (pixels == pixels[..., :1]).all():  # grey, however it is stored
            pixels = pixels[..., :1]
        yield pixels[None], [name]
