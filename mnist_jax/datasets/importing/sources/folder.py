"""Folders of image files, with a folder for each class or a table of labels."""

import itertools
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnist_jax.datasets.importing.sources.label_table import find_table
from mnist_jax.datasets.importing.sources.part import (
    BLOCK_BYTES,
    ROLES,
    Block,
    Keep,
    Part,
    Source,
    natural,
    role,
    some,
)
from mnist_jax.messages import one_line

# Names of folders of a whole part's images, not a class's.
GENERIC = {"images", "image", "imgs", "img", "jpegimages", "labels", "annotations", "masks"}
EXPECTED = "expected CLASS/IMAGE, or train/CLASS/IMAGE and test/CLASS/IMAGE"
EMPTY = " (no images)"
BLOCK = 1024  # images per block, at most
KEPT_BYTES = 256 << 20  # of decoded images, kept for the second pass

Examples = list[tuple[Path, str]]  # image files and their classes


class NoLabelsError(ValueError):
    """Images without classes."""


class Folder(NamedTuple):
    """A folder with its direct content."""

    path: Path
    images: list[Path]
    folders: list["Folder"]  # those that contain images, directly or deeper
    others: list[str]

    @property
    def only(self) -> "Folder | None":
        """The folder in it, if there is exactly one."""
        return self.folders[0] if len(self.folders) == 1 else None

    @property
    def files(self) -> list[str]:
        """Everything in it except `folders`."""
        return [*self.others, *map(str, self.images)]


class Found(NamedTuple):
    """The findings below a root so far."""

    root: Path
    places: list[str]  # of labels, for messages
    columns: set[str]  # names of tables' label columns
    unused: dict[Path, set[str]]  # by table: names without an image so far
    ignored: list[str]  # unused files and folders


def read_folders(paths: Sequence[Path]) -> Source:
    """Lists the images of folders in `natural` order of file names, then of classes.

    A folder holds CLASS/IMAGE or CLASS/images/IMAGE, or one such folder per part, or images with a
    table for `find_table`, or a single folder of these kinds. Several folders are named by their
    parts. Raises ValueError if folders are missing or have no labels.
    """
    found = Found(Path(), [], set(), {}, [])
    parts: dict[str, Examples] = {}
    for path in sorted(paths, key=lambda path: [*ROLES, "all"].index(role(path))):
        below = _parts(_scan(path), found._replace(root=path))
        if len(paths) > 1 and len(below) > 1:
            raise ValueError(
                f"{path} has several parts itself; give it alone, or one folder for each part"
            )
        parts |= below if len(paths) == 1 else {role(path): next(iter(below.values()))}
    memory = Memory()
    for files in parts.values():
        files.sort(key=lambda example: (natural(example[0].name), natural(example[1])))
    ignored = [line for line in found.ignored if Path(line) not in found.unused]
    ignored += [
        f"{path} ({len(names):,} rows without an image)"
        for path, names in found.unused.items()
        if names
    ]
    return Source(
        "image files",
        " and ".join(dict.fromkeys(found.places)),
        {part: picture_part(files, memory) for part, files in parts.items()},
        ignored,
    )


def _scan(path: Path, around: tuple[tuple[int, int], ...] = ()) -> Folder:
    """Lists a folder's content, except hidden files."""
    from mnist_jax.datasets.image_files import image_suffixes

    suffixes = image_suffixes()
    status = path.stat()
    around = (*around, (status.st_dev, status.st_ino))
    if len(set(around)) < len(around):
        raise ValueError(f"{path} is a link to a folder around it; remove it")
    folder = Folder(path, [], [], [])
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        inner = path / entry.name
        kind = inner if entry.is_symlink() else entry  # only a Path accepts a broken link
        if entry.name.startswith("."):
            continue
        if kind.is_dir():
            below = _scan(inner, around)
            if below.images or below.folders:
                folder.folders.append(below)
            else:
                folder.others.append(f"{inner}{EMPTY}")
        # Pipes and sockets are not opened: reading might never end.
        elif inner.suffix.lower() in suffixes and kind.is_file():
            folder.images.append(inner)
        else:
            folder.others.append(str(inner))
    return folder


def _is_generic(folder: Folder) -> bool:
    return folder.path.name.lower() in GENERIC or role(folder.path) != "all"


def _flat(folder: Folder) -> Folder | None:
    """Returns the folder that directly holds all images; None if folders of classes do.

    Images beside several folders are previews or stray files.
    """
    if folder.images and len(folder.folders) < 2:
        return folder
    return _flat(folder.only) if folder.only and _is_generic(folder.only) else None


def _parts(folder: Folder, found: Found) -> dict[str, Examples]:
    """Returns a folder's parts, named by its folders, or "all"."""
    split = [below for below in folder.folders if role(below.path) != "all"]
    is_split = split and all(map(_is_generic, folder.folders))
    if is_split or not all(map(_flat, split)):
        return _split_parts(folder, split, found)
    if folder.only and not folder.only.images:
        found.ignored.extend(folder.files)
        return _parts(folder.only, found)
    return {"all": _examples(folder, "all", found)}


def _split_parts(folder: Folder, split: Sequence[Folder], found: Found) -> dict[str, Examples]:
    by_role: dict[str, Folder] = {}
    for part in ROLES:
        of_part = [below for below in split if role(below.path) == part]
        of_part = [below for below in of_part if not _flat(below)] or of_part
        if len(of_part) > 1:
            both = " and ".join(str(below.path) for below in of_part)
            raise ValueError(f"{both} could both be the {part} part")
        if of_part:
            by_role[part] = of_part[0]
    if len(by_role) > 1 and "train" not in by_role:
        names = ", ".join(below.path.name for below in split)
        raise ValueError(
            f"{folder.path} holds {names}, but no folder to train on; expected train/CLASS/IMAGE"
        )
    for line in folder.others:
        empty = Path(line.removesuffix(EMPTY))
        if line.endswith(EMPTY) and role(empty) not in ("all", *by_role):
            raise ValueError(f"{empty} holds no images; put the part's there, or remove it")
    unused = [str(below.path) for below in folder.folders if below not in by_role.values()]
    found.ignored.extend([*folder.files, *unused])
    parts = {}
    for part, below in by_role.items():
        try:
            parts[part] = _examples(below, part, found)
        except NoLabelsError:
            if not parts:
                raise
            found.ignored.append(f"{below.path} (no labels)")
    return parts


def _examples(folder: Folder, part: str, found: Found) -> Examples:
    """Returns a part's images, labelled by folders or by a table."""
    while folder.only and not folder.images and not _flat(folder.only):
        found.ignored.extend(folder.others)
        folder = folder.only
    flat = _flat(folder)
    if flat or (
        not folder.images and all(below.path.name.lower() in GENERIC for below in folder.folders)
    ):
        return _labelled_by_table(flat or folder, part, found)
    found.ignored.extend(folder.files)
    found.places.append("the folders' names")
    examples, names = [], set()
    for below in folder.folders:
        inner = below if below.images else below.only or below
        names.add("" if inner is below else inner.path.name)
        if inner.folders or len(names) > 1:
            odd = (inner.folders or below.folders or folder.folders[0].folders)[0]
            deeper = f", or import a deeper folder, such as {below.path}"
            raise ValueError(
                f"{odd.path} is a folder inside a class's folder; {EXPECTED}: move the images up"
                f"{'' if below.images or _is_generic(odd) else deeper}"
            )
        found.ignored.extend([*below.others, *(inner.others if inner is not below else ())])
        examples += [(path, below.path.name) for path in inner.images]
    return examples


def _labelled_by_table(flat: Folder, part: str, found: Found) -> Examples:
    if not flat.images:
        names = [below.path.name for below in flat.folders] + [*map(os.path.basename, flat.others)]
        but = f", but {some(names, 3)}" if names else ""
        raise ValueError(f"{flat.path} holds no folders of classes{but}; {EXPECTED}")
    table = find_table(flat.path, found.root, flat.images, part, found.columns)
    if table is None:
        raise NoLabelsError(
            f"{flat.path} holds images such as {flat.images[0].name}, but "
            f"neither folders of classes nor a table of labels; {EXPECTED}: put the images of each "
            "class into a folder of its name, or add a labels.csv of file_name,label"
        )
    found.places.append(table.title)
    found.columns.update({table.column} - {""})
    unused = found.unused.get(table.path, table.names)
    for twice in sorted(table.used - unused):
        raise ValueError(
            f"{table.path} names {twice!r}, which is in two parts; name the files by their paths, "
            "or the table by its part, such as train_labels.csv"
        )
    found.unused[table.path] = unused - table.used
    found.ignored.extend(flat.others)
    found.ignored.extend(f"{path} (no label)" for path in flat.images if path not in table.labels)
    return [*table.labels.items()]


class Memory:
    """The shared state of a source's parts."""

    def __init__(self):
        self.room = KEPT_BYTES  # bytes that may still be kept
        self.kept: dict[Path, np.ndarray] = {}  # decoded images
        self.lightnesses: dict[Path, float] = {}  # of transparent pictures


def picture_part(files: list[tuple[Path, str]], memory: Memory) -> Part:
    """Makes a part of image files and their classes.

    The first pass leaves out unreadable files. Transparent pictures get one ground in all parts:
    white, or black if most are light.
    """
    from mnist_jax.datasets.image_files import best_ground, lightness, on_ground, read_pixels

    readable, unreadable = [*files], list[str]()

    def read(path: Path) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # checked sizes, odd metadata
            return read_pixels(path)

    def read_first() -> Iterator[tuple[np.ndarray, str]]:
        readable.clear()
        unreadable.clear()
        for path, name in files:
            if path in memory.kept:  # it may have changed
                memory.room += memory.kept.pop(path).nbytes
            try:
                pixels = read(path)
            except (OSError, ValueError) as error:
                unreadable.append(one_line(error))
                continue
            if pixels.shape[2] == 4:
                memory.lightnesses[path] = lightness(pixels)
            if memory.room >= pixels.nbytes:
                memory.room -= pixels.nbytes
                memory.kept[path] = pixels
            readable.append((path, name))
            yield pixels, name

    def read_again(keep: np.ndarray) -> Iterator[tuple[np.ndarray, str]]:
        for path, name in itertools.compress(readable, keep):
            yield memory.kept[path] if path in memory.kept else read(path), name

    def blocks(keep: Keep) -> Iterator[Block]:
        lightnesses = [*memory.lightnesses.values()]
        ground = 255 if keep is None or not lightnesses else best_ground(lightnesses)
        images, names = list[np.ndarray](), list[str]()
        for pixels, name in read_first() if keep is None else read_again(keep):
            if pixels.shape[2] == 4:
                pixels = on_ground(pixels, ground)
            if pixels.shape[2] == 3 and (pixels == pixels[..., :1]).all():
                pixels = pixels[..., :1]  # grey
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
