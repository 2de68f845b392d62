"""Tables of image files and their labels, instead of folders of classes."""

import csv
import io
import itertools
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mnist_jax.datasets.importing.sources.csv_file import LABEL_NAMES, find_delimiter
from mnist_jax.datasets.importing.sources.part import role
from mnist_jax.datasets.importing.sources.streams import reading

FILE_COLUMNS = {
    *("filename", "file", "image", "imagename", "imageid", "imagepath", "img", "id", "idcode"),
    *("name", "path", "filepath"),
}
LABEL_COLUMNS = LABEL_NAMES - {"letter", "character"}
LABEL_COLUMNS |= {"classes", "classid", "classname", "labelname"}
# Columns of parts, which must be folders instead.
PART_COLUMNS = {
    *("split", "set", "subset", "dataset", "partition", "usage", "istrain", "isvalid", "istest")
}
MAX_BYTES = 256 << 20  # per table
MAX_COLUMNS = 64  # per table; others hold pixels


class LabelTable(NamedTuple):
    """The labels of some image files."""

    path: Path
    column: str  # of the labels; empty without a header
    title: str  # for messages
    labels: dict[Path, str]  # by file
    names: set[str]  # all file names in the table
    used: set[str]  # those of these files


def find_table(
    folder: Path, root: Path, images: Sequence[Path], part: str, columns: set[str]
) -> LabelTable | None:
    """Finds the table of labels in the images' folder or one around it, up to `root`.

    A table is a .csv, .tsv or .jsonl file, or a .txt file of annotations or labels, but neither a
    contest's submission nor another part's. It names files by their paths, from the table or the
    folder, or names, with or without suffix. The label's column is one of `columns` (of other
    parts' tables) if any; otherwise it has a usual name or is the second of two.

    Raises ValueError if a table is damaged, its label is ambiguous, or two tables differ.
    """
    for place in (folder, *folder.parents):
        paths = sorted(path for path in place.iterdir() if _may_be_table(path, part))
        tables = [table for path in paths if (table := _read(path, folder, images, part, columns))]
        for one, other in itertools.pairwise(tables):
            if one.labels != other.labels:
                raise ValueError(
                    f"{one.title} and {other.title} give the images in {folder} different labels; "
                    "keep one table there"
                )
        if tables or place == root:
            return next(iter(tables), None)
    return None


def _may_be_table(path: Path, part: str) -> bool:
    kinds = r"(?!\.|.*submission).*(\.(csv|tsv|jsonl)|(annotation|label).*\.txt)"
    is_of_part = part == "all" or role(path) in ("all", part)
    return bool(re.fullmatch(kinds, path.name.lower())) and is_of_part and path.is_file()


def _read(
    path: Path, folder: Path, images: Sequence[Path], part: str, columns: set[str]
) -> LabelTable | None:
    """Reads a table; None if it does not label these images."""
    if path.stat().st_size > MAX_BYTES:
        return None
    with reading(path):
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".jsonl":
            rows = _json_rows(path, text)
        else:
            delimiter = find_delimiter(text.partition("\n")[0]) or " "
            lines = io.StringIO(text, newline="")
            rows = [*filter(any, csv.reader(lines, delimiter=delimiter, skipinitialspace=True))]
    if not rows or not 2 <= len(rows[0]) <= MAX_COLUMNS:
        return None
    by_name = _names(path.parent, folder, images)
    suffixes = tuple({image.suffix for image in images})
    has_header = not any(
        _plain_path(field) in by_name or field.strip().endswith(suffixes) for field in rows[0]
    )
    header = [field.strip() for field in rows[0]] if has_header else [""] * len(rows[0])
    rows = [row for row in rows[has_header:] if len(row) == len(header)]
    files = _file_column(header, rows, by_name)
    label = None if files is None else _label_column(path, header, files, columns)
    if files is None or label is None:
        return None
    labels: dict[Path, str] = {}
    names = [_plain_path(row[files]) for row in rows]
    for name, row in zip(names, rows, strict=True):
        image, text = by_name.get(name), row[label].strip()
        if image and text and labels.setdefault(image, text) != text:
            raise ValueError(f"{path} gives {image} two labels, {labels[image]!r} and {text!r}")
        if image and text.startswith(("[", "{")):
            raise ValueError(f"{path} gives {image} the label {text:.40}; expected one class")
    column = header[label]
    is_other = column and not _is_label(column) and 2 * len({*labels.values()}) > len(labels)
    if is_other or not labels:  # too many values for classes
        return None
    for i, name in enumerate(header):
        if part == "all" and _plain(name) in PART_COLUMNS and len({row[i] for row in rows}) > 1:
            raise ValueError(
                f"{path} gives the parts in the column {name!r}, which is not read; put the images "
                "of each part into a folder of its name"
            )
    used = {name for name in names if by_name.get(name) in labels}
    title = f"{path}, column {column or label + 1}"
    return LabelTable(path, column, title, labels, {*names}, used)


def _names(table: Path, folder: Path, images: Sequence[Path]) -> dict[str, Path]:
    """Returns images by all their unambiguous names."""
    by_name: dict[str, Path | None] = {}
    for image in images:
        names = {os.path.relpath(image, table), os.path.relpath(image, folder), image.name}
        for name in {*names, *(name.removesuffix(image.suffix) for name in names)}:
            by_name[name] = image if name not in by_name else None
    return {name: image for name, image in by_name.items() if image}


def _json_rows(path: Path, text: str) -> list[list[str]]:
    def field(value: object) -> str:
        return value if isinstance(value, str) else "" if value is None else json.dumps(value)

    try:
        records = [json.loads(line) for line in text.split("\n") if line.strip()]
        header = [*records[0]] if records else []
        return [header, *([field(record.get(key)) for key in header] for record in records)]
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} must hold a JSON object per line: {error}") from error


def _file_column(
    header: Sequence[str], rows: Sequence[Sequence[str]], by_name: dict[str, Path]
) -> int | None:
    """Returns the column that names most images, preferably with a usual name."""
    enough = min(len(rows), len({*by_name.values()})) / 2
    found = []
    for i, name in enumerate(header):
        count = len({by_name.get(_plain_path(row[i])) for row in rows} - {None})
        if count and count >= enough:
            found.append((_plain(name) in FILE_COLUMNS, not _is_label(name), count, -i))
    return -max(found)[-1] if found else None


def _label_column(path: Path, header: list[str], files: int, columns: set[str]) -> int | None:
    others = [i for i in range(len(header)) if i != files]
    if not header[files]:
        is_tiny_imagenet = path.name.lower() == "val_annotations.txt"
        return others[0] if len(others) == 1 or is_tiny_imagenet else None
    if columns:
        return next((i for i in others if header[i] in columns), None)
    if header.count("label") == 1 and header.index("label") != files:  # Hugging Face's name
        return header.index("label")
    labels = [i for i in others if _is_label(header[i])]
    if len(labels) > 1:
        names = ", ".join(header[i] for i in labels)
        raise ValueError(f"{path} has several columns that could be the label: {names}")
    return labels[0] if labels else others[0] if len(others) == 1 else None


def _is_label(column: str) -> bool:
    return _plain(column) in LABEL_COLUMNS


def _plain_path(field: str) -> str:
    return field.strip().replace("\\", "/").removeprefix("./")


def _plain(column: str) -> str:
    return "".join(filter(str.isalnum, column.lower()))
