"""CSV files with a row per image: its label and pixels."""

import contextlib
import csv
import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnist_jax.datasets.importing.sources.part import (
    BLOCK_BYTES,
    COLOUR_ROWS,
    Block,
    Keep,
    Part,
    Shape,
    Size,
    Source,
    flat_shape,
)
from mnist_jax.datasets.importing.sources.streams import open_unpacked, reading

LABEL_NAMES = {
    *("label", "labels", "class", "target", "y", "category", "digit", "letter", "character")
}
INDEX_NAMES = "|unnamed: ?[0-9]+|id|ids|index|idx|row|image_?id|row_?id"
SAMPLE = 500  # rows to find the label's column
MAX_LINE = 16 << 20  # characters: a million pixels in colour


class Layout(NamedTuple):
    """The places of a table's columns."""

    width: int  # number of columns
    label: int | None  # the label's index, if any
    pixels: list[int]  # their indices, in the order H, W, C
    shape: Shape  # of an image
    names: list[str]  # the columns', if any
    unused: list[int]  # the other indices
    delimiter: str | None  # None for blanks

    def title(self, index: int) -> str:
        """Returns a column's name for messages."""
        name = f"{self.names[index]!r} ({index + 1})" if self.names else str(index + 1)
        return f"the column {name}"


def read_csv(path: Path, size: Size, label_column: str | None = None) -> Source:
    """Describes a file, which may be gzipped, as a source.

    Arguments and errors are those of `find_layout`.
    """
    layout, notes = find_layout(path, size, label_column), []
    if layout.shape[2] == 3 and not any("*" in _pattern(name)[0] for name in layout.names):
        notes.append(COLOUR_ROWS)
    if layout.names and all(_number(name) is not None for name in layout.names):
        notes.append(
            f"the first row of {path} ({_shown(layout.names)}) was read as names; if it is an "
            "image, add a row of names"
        )
    label = layout.label or 0

    def blocks(keep: Keep) -> Iterator[Block]:
        for images, rows in read_rows(path, layout, keep):
            yield images, [_label(path, number, row[label]) for number, row in rows]

    images = Part(blocks, lambda index: f"image {index} of {path}")
    left_out = [f"{path}: {layout.title(index)}" for index in layout.unused]
    return Source("a CSV file", layout.title(label), {"all": images}, left_out, notes)


def find_layout(
    path: Path,
    size: Size,
    label_column: str | None = None,
    num_pixels: int | None = None,
) -> Layout:
    """Finds the columns of the label and of the pixels.

    The label's column has one of `LABEL_NAMES`, or is the only one not named like the others.
    Without a header it is the first or last one, if unlike the pixels beside it. Pixels are in the
    order of the numbers in their names. Commas, semicolons, tabs or blanks separate columns.

    Arguments are `import_dataset`'s; with `num_pixels`, the label may be missing. Raises ValueError
    for invalid rows or an ambiguous label.
    """
    first = next(_lines(path), None)
    if first is None:
        raise ValueError(f"{path} is empty; expected rows of pixels, with a label")
    delimiter = find_delimiter(first[1])
    names = [name.strip() for name in _fields(path, *first, delimiter)]
    width = len(names)
    if width < 2:
        raise ValueError(f"{path} must have rows of a label and pixels, separated by commas")
    has_header = _is_header(names)
    used = {
        index: name
        for index, name in enumerate(names)
        if not (has_header and re.fullmatch(INDEX_NAMES, name.lower()))
        and (name or index < width - 1)  # not after a comma at the end
    }
    is_counted = all(_number(name) is not None for name in names)
    is_named = has_header and not is_counted and not _counts_label([*used.values()], size)
    if num_pixels and not 0 <= len(used) - num_pixels <= (len(used) if is_named else 1):
        raise ValueError(
            f"{path} has {len(used):,} columns; expected the {num_pixels:,} pixels of the "
            "network's images, with or without a label"
        )
    if label_column is not None:
        label = _chosen(path, names if has_header else [], label_column.strip(), width)
    elif len(used) == num_pixels:
        label = None
    elif is_named:
        label = _named(path, used, may_lack=num_pixels is not None)
    else:
        rows = [_fields(path, *line, delimiter) for line in _spread(path)[has_header:]]
        label = _unlike(path, [row for row in rows if len(row) == width], [*used])
    pixels = {index: name for index, name in used.items() if index != label}
    if is_named:
        order, shape = _ordered(path, pixels, size)
    else:
        order, shape = [*pixels], flat_shape(len(pixels), size, str(path))
    unused = sorted({*range(width)} - {*order, label})
    return Layout(width, label, order, shape, names if has_header else [], unused, delimiter)


def _number(field: str) -> float | None:
    """Parses a number, also with a decimal comma; None for other text."""
    try:
        return None if "_" in field else float(field.replace(",", "."))
    except ValueError:
        return None


def _is_header(names: Sequence[str]) -> bool:
    """Tells whether a row names columns: by words, by counting, or like pandas."""
    words = [name for name in names if _number(name) is None]
    if 2 * len(words) > len(names):
        return True
    seen: Counter[str] = Counter()
    for name in names:  # pandas renames a second column "0" to "0.1"
        base, _, count = name.partition(".")
        if count != str(seen[base] or ""):
            break
        seen[base] += 1
    else:
        if len(names) > 4 and max(seen.values()) > 2:
            return True
    numbers = sorted(int(name) for name in names if re.fullmatch("[0-9]{1,9}", name))
    counts = len(numbers) > 3 and numbers == [*range(numbers[0], numbers[0] + len(numbers))]
    is_label = any(name.lower() in LABEL_NAMES for name in words)
    # A few numbers may be an image, labelled "y" in "y,0,1,2,3".
    return counts and numbers[0] < 2 and (is_label or len(numbers) > 256 or names[0] == "0")


def _shown(names: Iterable[str]) -> str:
    some = [*map(repr, names)]
    return ", ".join([*some[:3], "...", *some[-2:]] if len(some) > 6 else some)[:200]


def _chosen(path: Path, names: Sequence[str], column: str, width: int) -> int:
    if names.count(column) == 1:
        return names.index(column)
    if column.isdecimal() and 1 <= int(column) <= width:
        return int(column) - 1
    expected = f"a number from 1 to {width}" + (f" or a name: {_shown(names)}" if names else "")
    raise ValueError(f"{path} has no column {column!r:.60}; expected {expected}")


def _pattern(name: str) -> tuple[str, tuple[int, ...]]:
    """Splits a name into its pattern and numbers, the last one for its colour."""
    name = name.lower()
    colours = [*re.finditer(r"(?<![a-z])(r|g|b|red|green|blue)(?![a-z])", name)]
    colour = colours[-1] if colours else None  # in "r0c0_r" the first is a row
    channel = "rgb".index(colour[0][0]) if colour else 0
    pattern = name[: colour.start()] + "*" + name[colour.end() :] if colour else name
    numbers = [int(digits) for digits in re.findall("[0-9]{1,9}", name)]
    pattern = re.sub("[0-9]+", "#", pattern)
    if re.search(r"(x|c|col|column)[^a-z#]*#.*(y|r|row|\*)[^a-z#]*#", pattern):
        numbers.reverse()
    return pattern, (*numbers, channel)


def _pixel_pattern(names: Mapping[int, str]) -> str | None:
    """Returns most names' pattern, if it has a number."""
    (pattern, count), *_ = Counter(_pattern(name)[0] for name in names.values()).most_common(1)
    return pattern if "#" in pattern and 2 * count >= len(names) else None


def _counts_label(names: Sequence[str], size: Size) -> bool:
    """Tells whether the label is numbered like the pixels, as in V1 to V785."""
    if len({_pattern(name)[0] for name in names}) == 1:
        for num_pixels in (len(names), len(names) - 1):
            with contextlib.suppress(ValueError):
                flat_shape(num_pixels, size, "")
                return num_pixels < len(names)
    return False


def _named(path: Path, used: Mapping[int, str], may_lack: bool) -> int | None:
    """Finds the label's column by name; None if there is none and it `may_lack`."""
    pattern = _pixel_pattern(used)
    others = [index for index in used if pattern and _pattern(used[index])[0] != pattern]
    known = [index for index in used if used[index].lower() in LABEL_NAMES]
    for candidates in (known, others):
        if len(candidates) == 1:
            return candidates[0]
    if may_lack:
        return None
    raise ValueError(
        f"{path} has {'several columns' if known or others else 'no column'} that could be the "
        f"label: {_shown(used[index] for index in known or others or used)}; name it with "
        "--label-column NAME" + ("" if known or others else ", or import a file with labels")
    )


def _ordered(path: Path, names: Mapping[int, str], size: Size) -> tuple[list[int], Shape]:
    """Returns the pixels' columns in the order H, W, C, and an image's shape."""
    pattern = _pixel_pattern(names)
    if pattern is None:
        if re.search("[0-9]", "".join(names.values())):
            raise ValueError(
                f"{path} has columns of several kinds: {_shown(names.values())}; expected a label "
                "and pixels numbered alike"
            )
        return [*names], flat_shape(len(names), size, str(path))
    keys = {index: _pattern(name) for index, name in names.items()}
    places = {index: key for index, (found, key) in keys.items() if found == pattern}
    order = sorted(places, key=lambda index: places[index])
    axes = [sorted(set(axis)) for axis in zip(*places.values(), strict=True)]
    is_whole = len(set(places.values())) == len(places) == math.prod(map(len, axes))
    if not is_whole or any(axis != [*range(axis[0], axis[-1] + 1)] for axis in axes):
        raise ValueError(
            f"{path} has pixels with a number missing or twice, between {names[order[0]]!r} and "
            f"{names[order[-1]]!r}; expected each number once"
        )
    *grid, colours = map(len, axes)
    if len(grid) == 3:
        grid, colours = grid[:2], grid[2] * colours
    if len(grid) > 2 or colours not in (1, 3):
        shown = _shown(names[index] for index in order)
        expected = "one number per pixel, or its row and its column"
        raise ValueError(f"{path} has pixels named {shown}; expected {expected}")
    if len(grid) == 1:
        return order, flat_shape(len(order), size, str(path))
    in_columns = sorted(places, key=lambda index: places[index][1::-1])
    # Files usually list pixels by rows; otherwise either meaning is possible.
    if not re.search("[a-wyz]", pattern) and grid[0] > 1 and in_columns == [*places]:
        one, other = places[in_columns[1]][:2]
        raise ValueError(
            f"{path} does not say whether the row or the column is first in "
            f"{names[in_columns[1]]!r}; name it r{one}c{other} or x{one}y{other}"
        )
    return order, (grid[0], grid[1], colours)


def _unlike(path: Path, rows: Sequence[Sequence[str]], used: Sequence[int]) -> int:
    """Returns the label's column, the first or last, by some rows' values."""
    numbers = {index: [_number(row[index]) for row in rows] for index in used}
    words = [index for index in used if 2 * numbers[index].count(None) > len(rows)]
    if len(words) == 1 or len(used) < 4 or len(rows) < 2:
        return (words or used)[0]

    def difference(one: int, other: int) -> float:
        """Returns the total variation distance of two columns."""
        found = (np.array([x for x in numbers[index] if x is not None]) for index in (one, other))
        values = [column[np.isfinite(column)] for column in found]
        if not all(map(len, values)):
            return 1
        edges = np.histogram_bin_edges(np.concatenate(values), 16)
        counts = [np.histogram(column, edges)[0] / len(column) for column in values]
        return float(np.abs(counts[0] - counts[1]).sum() / 2)

    first, last = difference(used[0], used[1]), difference(used[-1], used[-2])
    if max(first, last) >= 0.4 and min(first, last) <= max(first, last) / 2:
        return used[0] if first > last else used[-1]
    if len(rows) < 10:  # too few to call them ambiguous
        return used[0]
    shown = ["; ".join(row[index].strip() for row in rows[:5]) for index in (used[0], used[-1])]
    raise ValueError(
        f"{path} does not name its columns, and the first ({shown[0]:.60}) or the last "
        f"({shown[1]:.60}) could be the label: choose with --label-column 1 or {used[-1] + 1}"
    )


def _spread(path: Path) -> list[tuple[int, str]]:
    """Samples the whole file's lines, because they may be sorted by label."""
    kept, stride = list[tuple[int, str]](), 1
    for index, line in enumerate(_lines(path)):
        if index % stride == 0:
            kept.append(line)
        if len(kept) > SAMPLE:
            kept, stride = kept[::2], 2 * stride
    return kept


def find_delimiter(line: str) -> str | None:
    """Detects the character between a line's columns; None for blanks."""
    line = re.sub('"[^"]*"', "", line)
    counts = {mark: line.count(mark) for mark in "\t;,"}
    if counts[";"] and counts[";"] + 1 >= counts[","] and counts[";"] > counts["\t"]:
        return ";"  # commas are decimal
    if not any(counts.values()):
        return None if len(line.split()) > 1 else ","
    return max(counts, key=lambda mark: counts[mark])


def _fields(path: Path, number: int, line: str, delimiter: str | None) -> list[str]:
    if '"' not in line:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], strict=True, delimiter=delimiter or " "))
    except csv.Error as error:
        raise ValueError(f"{path}, line {number}: {error}") from error


def read_rows(
    path: Path, layout: Layout, keep: Keep = None
) -> Iterator[tuple[np.ndarray, list[tuple[int, list[str]]]]]:
    """Yields images, float64 [n, H, W, C], with their line numbers and fields."""
    lines = enumerate(itertools.islice(_lines(path), bool(layout.names), None))
    kept = (line for index, line in lines if keep is None or keep[index : index + 1].all())
    size = max(1, BLOCK_BYTES // (len(layout.pixels) * 8))
    while block := [*itertools.islice(kept, size)]:
        rows = [(number, _fields(path, number, line, layout.delimiter)) for number, line in block]
        for number, row in rows:
            if len(row) != layout.width:
                found = f"it has {len(row):,} columns, the first line has {layout.width:,}"
                raise ValueError(f"{path}, line {number}: {found}")
        text = [line.replace(",", ".") if layout.delimiter == ";" else line for _, line in block]
        options = {"delimiter": layout.delimiter, "comments": None, "quotechar": '"', "ndmin": 2}
        try:
            pixels = np.loadtxt(text, np.float64, usecols=layout.pixels, **options)
        except ValueError as error:
            for number, row in rows:
                for field in (row[index] for index in layout.pixels):
                    if _number(field) is None:
                        raise ValueError(
                            f"{path}, line {number}: the pixel {field[:40]!r} is not a number"
                        ) from None
            raise ValueError(f"{path}, near line {block[0][0]}: {error}") from error
        yield pixels.reshape(-1, *layout.shape), rows


def _label(path: Path, number: int, field: str) -> str:
    label = field.strip()
    if not label:
        raise ValueError(f"{path}, line {number}: the label is missing; expected a name")
    value = _number(label)
    if value is None:
        return label
    if not value.is_integer():
        raise ValueError(
            f"{path}, line {number}: the label {label[:40]!r} is neither an integer nor a name; "
            "choose the label's column with --label-column"
        )
    return label.replace(",", ".")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the lines that are not empty, with their numbers."""
    with reading(path), open_unpacked(path) as stream:
        begin = stream.peek(2)[:2]  # type: ignore[attr-defined]
        encoding = "utf-16" if begin in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        text = io.TextIOWrapper(stream, encoding, "surrogateescape")
        for number, line in enumerate(iter(lambda: text.readline(MAX_LINE + 1), ""), 1):
            problem = ""
            if len(line) > MAX_LINE:
                problem = f"is longer than {MAX_LINE:,} bytes; expected a label and pixels"
            elif "\0" in line:
                problem = "has NUL bytes, so it is not text"
            elif not line.isascii() and re.search("[\udc80-\udcff]", line):
                problem = "is not UTF-8; save the table as UTF-8"
            if problem:
                raise ValueError(f"{path}, line {number}: it {problem}")
            line = line.strip("\r\n")
            is_of_excel = number == 1 and re.fullmatch("sep=.", line.strip())
            if line.strip(" \t") and not is_of_excel:
                yield number, line
