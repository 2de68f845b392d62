"""Sources of images, and their readers."""

from collections.abc import Sequence
from pathlib import Path

from mnist_jax.datasets.file_kinds import describe_file
from mnist_jax.datasets.importing.sources.csv_file import read_csv
from mnist_jax.datasets.importing.sources.folder import read_folders
from mnist_jax.datasets.importing.sources.idx import TRANSPOSED, idx_files, is_idx, read_idx
from mnist_jax.datasets.importing.sources.numpy_files import MAGIC, is_npz, numpy_files, read_numpy
from mnist_jax.datasets.importing.sources.part import ROLES, Part, Size, Source, role
from mnist_jax.datasets.importing.sources.streams import open_unpacked, reading

__all__ = ["Part", "Source", "open_source"]

KINDS = (
    "the IDX files of images and labels, NumPy's .npz or .npy files, .csv files, or a folder "
    "with a folder of images for each class"
)
TABLES = tuple(f"{end}{packed}" for end in (".csv", ".tsv") for packed in ("", ".gz"))


def open_source(
    paths: Sequence[Path],
    size: Size,
    label_column: str | None = None,
    part: str | None = None,
    transpose: bool = False,
) -> Source:
    """Detects a source's kind and reads its headers.

    Arguments are `import_dataset`'s; `size` applies after a transposition. Raises FileNotFoundError
    if a file does not exist, and ValueError if the paths are not of one known kind or a header is
    invalid.
    """
    if not paths:
        raise ValueError(f"there is no source; expected {KINDS}")
    source = _read(paths, (size[1], size[0]) if size and transpose else size, label_column, part)
    notes = [note for note in source.notes if note != TRANSPOSED]
    if not transpose:
        is_emnist = any("emnist" in path.name.lower() and path.is_file() for path in paths)
        is_turned = is_emnist or TRANSPOSED in source.notes
        return source._replace(notes=[*notes, *[TRANSPOSED] * is_turned])
    parts = {
        title: part.map(lambda images, names: (images.swapaxes(1, 2), names))
        for title, part in source.parts.items()
    }
    return source._replace(parts=parts, notes=[*notes, "images were transposed"])


def _read(paths: Sequence[Path], size: Size, label_column: str | None, part: str | None) -> Source:
    kinds = {_kind(path) for path in paths}
    if len(kinds) != 1:
        raise ValueError(f"the source must be one of {KINDS}; got {' and '.join(sorted(kinds))}")
    (kind,) = kinds
    if label_column is not None and kind != "a .csv file":
        raise ValueError(f"label_column is for .csv files; the source is {kind}")
    if part is not None and kind != "IDX files":
        raise ValueError(f"part is for IDX files of several datasets; the source is {kind}")
    if kind == "IDX files":
        return read_idx(paths, part)
    if kind == "NumPy's files":
        return read_numpy(paths, size)
    if len(paths) == 1 and kind != "a folder":
        return read_csv(paths[0], size, label_column)
    by_role = {role(path): path for path in paths}
    if len(paths) > 1 and (len(by_role) < len(paths) or "train" not in by_role or "all" in by_role):
        raise ValueError(
            f"{', '.join(map(str, paths))}: expected one source, or one each with train, "
            "validation and test in its name"
        )
    if kind == "a folder":
        return read_folders(paths)
    names = [part for part in ROLES if part in by_role]
    sources = [read_csv(by_role[part], size, label_column) for part in names]
    return Source(
        sources[0].kind,
        " and ".join(dict.fromkeys(source.labels for source in sources)),
        {part: source.parts["all"] for part, source in zip(names, sources, strict=True)},
        [line for source in sources for line in source.ignored],
        [*dict.fromkeys(note for source in sources for note in source.notes)],
    )


def _kind(path: Path) -> str:
    if path.is_dir():
        if idx_files(path):
            return "IDX files"
        # A folder of classes may hold arrays, too.
        is_numpy = len(numpy_files(path)) > 1 and not any(map(Path.is_dir, path.glob("[!._]*")))
        return "NumPy's files" if is_numpy else "a folder"
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {str(path)!r}")
    if not path.is_file():
        raise ValueError(f"{path} is neither a file nor a folder; expected {KINDS}")
    with reading(path), open_unpacked(path) as stream:
        head = stream.read(262)
    if not head:
        raise ValueError(f"{path} is empty; expected {KINDS}")
    if is_idx(head):
        return "IDX files"
    is_npy = head.startswith(MAGIC) and path.suffix.lower() != ".gz"
    if is_npy or (head.startswith(b"PK\x03\x04") and is_npz(path)):
        return "NumPy's files"
    if path.name.lower().endswith(TABLES):
        return "a .csv file"
    with path.open("rb") as file:
        kind = describe_file(file) or "of an unknown kind"
    raise ValueError(f"{path} is {kind}; expected {KINDS}")
