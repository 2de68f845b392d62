"""CSV files: a row for each image, of its label and its pixels."""

import csv
import functools
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mnist_jax.datasets.importing.sources.part import BLOCK_BYTES, Block, Part, Source, flat_shape
from mnist_jax.datasets.importing.sources.streams import open_unpacked, reading

LABEL_COLUMNS = {"label", "class", "target", "y"}
MAX_LINE = 16 << 20  # bytes: a million pixels in colour


def read_csv(path: Path, size: tuple[int, int] | None) -> Source:
    """Reads the first row of a file, which may be packed by gzip.

    Args:
        path: a file with or without a header. The label is the column label, class, target or y,
            else the first. The others are pixels in row-major order, their colours side by side.
        size: H and W; None where images are square.

    Raises:
        ValueError: the first row is not of that kind.
    """
    row = next((row for _, row in _rows(path)), None)
    if row is None:
        raise ValueError(f"{path} is empty; expected rows of a label and pixels")
    label, has_header = _layout(path, row)
    shape = flat_shape(len(row) - 1, size, str(path))
    blocks = functools.partial(_blocks, path, label, has_header, shape)
    part = Part(blocks, lambda index: f"image {index} of {path}")
    return Source("a CSV file", f"column {label + 1}", {"all": part}, [])


def _layout(path: Path, row: list[str]) -> tuple[int, bool]:
    """Returns the number of the label's column, and whether the first row names the columns."""
    if len(row) < 2:
        raise ValueError(f"{path} must have rows of a label and pixels, separated by commas")
    labels = [i for i, field in enumerate(row) if field.strip().lower() in LABEL_COLUMNS]
    others = [field.strip() for i, field in enumerate(row) if i != (labels or [0])[0]]
    # A header may number the pixels, one after the other; "y,0,0,0,0" is an image of the letter y.
    first = 1 if others[0] == "1" else 0
    counts = others == [str(first + i) for i in range(len(others))] and len(others) > 3
    if any(map(_is_number, others)) and not (counts and (labels or row[0] == "0")):
        return 0, False
    if len(labels) > 1:
        raise ValueError(f"{path} has several columns that could be the label: {labels}")
    return (labels or [0])[0], True


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _blocks(
    path: Path,
    label: int,
    has_header: bool,
    shape: tuple[int, int, int],
    keep: np.ndarray | None,
) -> Iterator[Block]:
    num_pixels = math.prod(shape)
    images, names = [], []
    for index, (line, row) in enumerate(itertools.islice(_rows(path), has_header, None)):
        if len(row) != num_pixels + 1:
            raise ValueError(
                f"{path}, line {line}: it has {len(row):,} columns, the first line has "
                f"{num_pixels + 1:,}"
            )
        if keep is not None and not keep[index : index + 1].all():
            continue
        names.append(row.pop(label).strip())
        try:
            images.append(np.fromiter(map(float, row), np.float64, num_pixels))
        except ValueError:
            text = next(field for field in row if not _is_number(field))
            raise ValueError(f"{path}, line {line}: the pixel {text[:40]!r} is no number") from None
        if len(images) * num_pixels * 8 >= BLOCK_BYTES:
            yield np.stack(images).reshape(-1, *shape), names
            images, names = [], []
    if images:
        yield np.stack(images).reshape(-1, *shape), names


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the rows that are not empty, with the numbers of their lines."""
    with reading(path), open_unpacked(path) as stream:
        number = 0
        while line := stream.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise ValueError(
                    f"{path}, line {number}: it is longer than {MAX_LINE:,} bytes; expected a "
                    "label and pixels"
                )
            if b"\0" in line:
                raise ValueError(f"{path}, line {number}: it has NUL bytes, so it is no text")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
                row = next(csv.reader([text], strict=True)) if '"' in text else text.split(",")
            except (UnicodeError, csv.Error) as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            if text.strip():
                yield number, row
