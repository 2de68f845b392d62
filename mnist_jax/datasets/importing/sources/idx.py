"""IDX files, the format of MNIST: http://yann.lecun.com/exdb/mnist/."""

import functools
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnist_jax.datasets.importing.sources.arrays import Array, Arrays, add_array, array_parts
from mnist_jax.datasets.importing.sources.part import Block, Part, Source, role
from mnist_jax.datasets.importing.sources.streams import open_unpacked, reading

# Types by a file's third byte; the first two are 0, the fourth is the number of axes.
TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
USUAL_NAME = r"(?i)(?!\.).*(images|labels)[-.]idx\d-\w+(\.gz)?"
AROUND = r"(?i)raw|gzip|\w*mnist"  # torchvision's and EMNIST's folders
# For "emnist-letters" in "emnist-letters-train-images-idx3-ubyte".
DATASET = r"(?i)(.*?)[-_. ]?(train|test|t10k|mapping|images|labels).*"
TRANSPOSED = "EMNIST's own files hold their images transposed: --transpose turns them upright"


def is_idx(head: bytes) -> bool:
    """Tells whether a file with these first bytes is an IDX file."""
    return len(head) >= 4 and head[:2] == b"\0\0" and head[2] in TYPES and head[3] > 0


def idx_files(folder: Path) -> list[Path]:
    """Returns the files with usual names in a folder and its folders."""
    inside = sorted(folder.iterdir())
    usual = [path for path in inside if re.fullmatch(USUAL_NAME, path.name)]
    around = usual or [path for path in inside if re.fullmatch(AROUND, path.name)]
    files = [path for path in usual if path.is_file()]
    return files + [file for path in around if path.is_dir() for file in idx_files(path)]


def read_idx(paths: Sequence[Path], part: str | None = None) -> Source:
    """Reads the headers of files or of a folder's files, gzipped or not.

    The number of axes distinguishes images from labels, names the parts. `part` chooses one of
    several datasets, such as EMNIST's "letters". Raises ValueError if labels are missing or
    repeated, or a header is invalid.
    """
    found = [file for path in paths for file in (idx_files(path) if path.is_dir() else [path])]
    files, arrays = _once(found), Arrays()
    datasets: dict[str, list[Path]] = {}
    for path in files:
        datasets.setdefault(_dataset(path).lower().removeprefix("emnist-"), []).append(path)
    if part is not None:
        name = part.lower().removeprefix("emnist-")
        if name not in datasets:
            raise ValueError(f"there is no part {part!r}; expected {_listed(datasets)}")
        datasets = {name: (files := datasets[name])}
    for path in files:
        array = read_header(path)
        what = role(path), "labels" if len(array.shape) < 3 else "images"
        if len(datasets) > 1 and (what in arrays or "emnist" in path.name.lower()):
            title = f"{', '.join(map(str, paths)):.200} holds several datasets"
            raise ValueError(f"{title}; choose one with --part {_listed(datasets)}")
        add_array(arrays, what, array)
    labels = [array for (_, what), array in arrays.items() if what == "labels"]
    first_column = any(array.dtype.kind == "i" and array.shape[1:] == (8,) for array in labels)
    first_column |= any(len(a.shape) == 2 and "qmnist" in a.title.lower() for a in labels)
    parts, text = array_parts(arrays, None, first_column), "the files of labels"
    if first_column:
        text += ", their first column, as in QMNIST"
    elif any(array.shape[1:] not in ((), (1,)) for array in labels):
        text += ", the column of each row's 1"
    mappings = {path.with_name(f"{_dataset(path)}-mapping.txt") for path in files}
    mappings = set(filter(Path.is_file, mappings))
    if len(mappings) == 1:
        (mapping,) = mappings
        parts = _named(parts, mapping)
        text += f", named by {mapping.name}"
    inside = {inner for path in paths if path.is_dir() for inner in path.iterdir()}
    used = {*files, *mappings, *(folder for path in files for folder in path.parents)}
    unused = {*found, *inside} - used
    ignored = [str(path) for path in sorted(unused) if path.parent not in unused]
    is_emnist = any("emnist" in path.name.lower() for path in files)
    return Source("IDX files", text, parts, ignored, [TRANSPOSED] if is_emnist else [])


def _once(files: Sequence[Path]) -> list[Path]:
    """Leaves out copies: packed beside unpacked files, or in a folder of their name."""
    chosen: dict[tuple[Path, str], tuple[bool, bool]] = {}
    kept = []
    for inside, packed, path in sorted(
        (bool(re.fullmatch(USUAL_NAME, path.parent.name)), path.suffix.lower() == ".gz", path)
        for path in files
    ):
        folder = path.parent.parent if inside else path.parent
        name = path.name[:-3] if packed else path.name
        key = folder, name.lower().replace(".", "-")
        if chosen.setdefault(key, (inside, packed)) == (inside, packed):
            kept.append(path)
    return kept


def _dataset(path: Path) -> str:
    found = re.fullmatch(DATASET, path.name)
    return found[1] if found else ""


def _listed(datasets: dict[str, list[Path]]) -> str:
    return " or ".join(filter(None, datasets)) or "none, because there is only one dataset"


def _named(parts: dict[str, Part], path: Path) -> dict[str, Part]:
    """Names labels by an EMNIST mapping, whose lines are labels and characters' codes."""
    with reading(path):
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    try:
        names = {str(int(label)): chr(int(code)) for label, code, *_ in filter(None, lines)}
    except (ValueError, OverflowError) as error:
        expected = "a label and the code of its character in each line"
        raise ValueError(f"{path} must have {expected}; correct it, or move it away") from error
    if len({*names.values()}) < len(names):
        raise ValueError(f"{path} has one character for two labels; correct it, or move it away")

    def name(images: np.ndarray, labels: list[str]) -> Block:
        for label in {*labels} - {*names}:
            raise ValueError(f"{path} has no line for the label {label}")
        return images, [names[label] for label in labels]

    return {title: part.map(name) for title, part in parts.items()}


def read_header(path: Path) -> Array:
    """Reads an IDX file's header; ValueError if it holds neither images nor labels."""
    with reading(path), open_unpacked(path) as stream:
        magic = stream.read(4)
        if not is_idx(magic):
            raise ValueError(f"{path} is not an IDX file: it begins with {magic!r}")
        num_axes = magic[3]
        sizes = stream.read(4 * num_axes)
    may_be_labels = "label" in path.name.lower() or magic[2] == 12  # QMNIST's are int32 [N, 8]
    expected = (1, 2, 3, 4) if may_be_labels else (1, 3, 4)
    if len(sizes) < 4 * num_axes or num_axes not in expected:
        raise ValueError(
            f"{path} has {num_axes} axes; expected 1 (labels), 3 (images) or 4 (in colour)"
        )
    shape = struct.unpack(f">{num_axes}I", sizes)
    dtype, offset = np.dtype(TYPES[magic[2]]), 4 + 4 * num_axes
    return Array(str(path), shape, dtype, offset, functools.partial(open_unpacked, path))
