"""Tables in their usual forms: the label's column, and the order of pixels."""

import csv
import gzip
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from imports import all_images, assert_holds

from mnist_jax.datasets.importing import describe, import_dataset

pytestmark = pytest.mark.usefixtures("data_dir")

Rows = Sequence[Sequence[object]]
PIXELS = [f"pixel{i}" for i in range(784)]
GRID = [f"{row}x{column}" for row in range(1, 29) for column in range(1, 29)]


def permuted(names: Sequence[str], order: Sequence[int]) -> Callable[[Rows], Rows]:
    """Reorders pixels, which are named by their places, and puts the label last."""

    def make(rows: Rows) -> Rows:
        header: list[object] = [names[i] for i in order]
        return [[*header, "label"], *([*(row[1:][i] for i in order), row[0]] for row in rows)]

    return make


def numbered(rows: Rows, first: int = 0) -> Rows:
    return [[number, *row] for number, row in enumerate(rows, first)]


def mangled(row: Sequence[object]) -> list[object]:
    """Writes a row of data like pandas, when it has read the row as a header."""
    return [f"{x}.{n}" if (n := [*row[:place]].count(x)) else str(x) for place, x in enumerate(row)]


SHUFFLED = [int(i) for i in np.random.default_rng(0).permutation(784)]
# Rows of a label and 784 pixels as tables that hold the same.
# Rows of a label and 784 pixels as tables that hold the same.
TABLES: dict[str, Callable[[Rows], Rows]] = {
    "names": lambda rows: [["label", *PIXELS], *rows],
    "label last, other name": lambda rows: [
        [*PIXELS, "digit"],
        *([*row[1:], row[0]] for row in rows),
    ],
    "a name nobody knows": lambda rows: [["Ziffer", *PIXELS], *rows],
    "numbers from 1": lambda rows: [["category", *(f"p_{i + 1:03}" for i in range(784))], *rows],
    "numbered label": lambda rows: [[*range(785)], *rows],
    "pandas' index, saved twice": lambda rows: [
        ["Unnamed: 0", *PIXELS, "letter"],
        *([*row[:1], *row[2:], row[1]] for row in numbered(rows)),
    ],
    "an id": lambda rows: [["id", "label", *PIXELS], *numbered(rows, 7)],
    "another column beside it": lambda rows: [
        ["a", "label", *PIXELS],
        *(["w1", *row] for row in rows),
    ],
    "pandas took a row for the header": lambda rows: [mangled(rows[0]), *rows],
    "R": lambda rows: [[f"V{i + 1}" for i in range(785)], *rows],
    "shuffled": permuted(PIXELS, SHUFFLED),
    "rows and columns, shuffled": permuted(GRID, SHUFFLED),
    "columns first": permuted([f"x{i % 28}_y{i // 28}" for i in range(784)], SHUFFLED),
    "no names, label first": lambda rows: rows,
    "no names, label last": lambda rows: [[*row[1:], row[0]] for row in rows],
    "a comma at each end": lambda rows: [["label", *PIXELS, ""], *([*row, ""] for row in rows)],
}


def write_table(path: Path, rows: Rows, delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


@pytest.mark.parametrize("how", TABLES)
def test_the_label_and_each_pixel_are_found(how, small, tmp_path):
    for split in ("train", "test"):
        rows = [
            [label, *image.ravel().tolist()]
            for image, label in zip(small[f"x_{split}"], small[f"y_{split}"].tolist(), strict=True)
        ]
        write_table(tmp_path / f"{split}.csv", TABLES[how](rows))
    packed = tmp_path / "test.csv.gz"
    packed.write_bytes(gzip.compress((tmp_path / "test.csv").read_bytes()))
    assert_holds(import_dataset("mine", [packed, tmp_path / "train.csv"]), small)


def test_a_table_without_names_may_be_sorted_by_its_labels(tmp_path):
    rows = [[n // 600, *[0] * 7, n % 7, *[0] * 8] for n in range(1200)]
    imported = import_dataset("mine", [write_table(tmp_path / "x.csv", rows)])
    assert imported.names == ["0", "1"]


def test_a_noisy_corner_is_not_the_label(small, tmp_path):
    x = small["x_train"].reshape(120, -1).copy()
    x[:, 0] = np.random.default_rng(0).integers(0, 4, 120)
    rows = [[*image, label] for image, label in zip(x.tolist(), small["y_train"], strict=True)]
    write_table(tmp_path / "x.csv", [[*PIXELS, "digit"], *rows])
    imported = import_dataset("mine", [tmp_path / "x.csv"])
    assert imported.names == [*"0123456789"]
    assert imported.source.labels == "the column 'digit' (785)"


@pytest.mark.parametrize("names", ["{0}_{1}", "r{0}c{1}", "{1}{0}", "pixel_{0}_{1}", "{1}.{0}"])
def test_colours_are_found_by_their_names(names, tmp_path):
    """The planes of colours follow each other, a common order."""
    images = np.arange(2 * 2 * 2 * 3).reshape(2, 2, 2, 3)
    letters = ["red", "green", "blue"] if "_" in names else "rgb"
    if names.startswith("r"):
        header = [f"r{i // 2}c{i % 2}_{c}" for c in "rgb" for i in range(4)]
    else:
        header = [names.format(i, c) for c in letters for i in range(4)]
    rows = [[*image.transpose(2, 0, 1).ravel(), n] for n, image in enumerate(images)]
    write_table(tmp_path / "x.csv", [[*header, "label"], *rows])
    import_dataset("mine", [tmp_path / "x.csv"], test_fraction=0.5, pixel_range=(0, 255))
    assert sorted(all_images().tolist()) == images.tolist()


FORMATS: dict[str, tuple[str, str]] = {
    "semicolons and decimal commas": ("label;a;b;c;d\nx;0,5;0;1,0;0,25\ny;1;0;0;0,5\n", "utf-8"),
    "tabs": ("label\ta\tb\tc\td\nx\t.5\t0\t1\t.25\ny\t1\t0\t0\t.5\n", "utf-8"),
    "blanks, as numpy.savetxt": ("x 5e-1 0 1 .25\ny  1 0 0 .5\n", "utf-8"),
    "UTF-16, as Excel": ("label\ta\tb\tc\td\r\nx\t.5\t0\t1\t.25\r\ny\t1\t0\t0\t.5\r\n", "utf-16"),
    "UTF-8 with a mark": ("label,a,b,c,d\r\n\r\nx,.5,0,1,.25\r\ny,1,0,0,.5\r\n", "utf-8-sig"),
    "quotes": ('"label","a","b","c","d"\n"x",".5","0","1",.25\n"y",1,0,"0",.5\n', "utf-8"),
    "a Mac of old": ("label,a,b,c,d\rx,.5,0,1,.25\ry,1,0,0,.5\r", "utf-8"),
}


@pytest.mark.parametrize("how", FORMATS)
def test_every_way_to_write_a_table_gives_the_same(how, tmp_path):
    text, encoding = FORMATS[how]
    (tmp_path / "x.csv").write_bytes(text.encode(encoding))
    imported = import_dataset("mine", [tmp_path / "x.csv"], test_fraction=0.5)
    images = all_images().reshape(2, 4).tolist()
    assert (imported.names, sorted(images)) == (["x", "y"], [[128, 0, 255, 64], [255, 0, 0, 128]])


@pytest.mark.parametrize(("column", "names"), [("label", "xy"), ("1", "ab"), ("6", "xy")])
def test_a_column_of_labels_can_be_named_or_numbered(tmp_path, column, names):
    rows = [["class", "p0", "p1", "p2", "p3", "label"]]
    rows += [["a", 1, 2, 3, 4, "x"], ["b", 2, 3, 4, 5, "y"]]
    table = write_table(tmp_path / "x.csv", rows)
    imported = import_dataset("mine", [table], label_column=column, test_fraction=0.5)
    assert imported.names == [*names]


ZEROS = [0] * 784
UNKNOWN: dict[str, tuple[Rows, str]] = {
    "no label": ([PIXELS, ZEROS], "x.csv has no column that could be the label: 'pixel0', 'pixe"),
    "two labels": (
        [["label", "class", *PIXELS], ["a", 1, *ZEROS]],
        "several columns that could be the label: 'label', 'class'; name it with --label-column",
    ),
    "a pixel missing": (
        [["label", *PIXELS[:5], *PIXELS[6:10]], ["a", *[0] * 9]],
        "pixels with a number missing or twice, between 'pixel0' and 'pixel9'",
    ),
    "rows or columns": (
        [["label", "0_0", "1_0", "0_1", "1_1"], ["a", *[0] * 4]],
        "does not say whether the row or the column is first in '1_0'; name it r1c0 or x1y0",
    ),
    "no names and noise": (
        np.random.default_rng(0).integers(0, 4, (40, 17)).tolist(),
        "does not name its columns, and the first (",
    ),
    "a fraction as label": (
        [["label", *PIXELS[:4]], [1, 0, 0, 0, 0], [0.5, 0, 0, 0, 0]],
        "x.csv, line 3: the label '0.5' is neither an integer nor a name",
    ),
    "no such column": ([["label", *PIXELS[:4]], ["a", 0, 0, 0, 0]], "has no column 'x'; expected"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_columns_that_cannot_be_known_are_shown_in_an_error(name, tmp_path):
    rows, message = UNKNOWN[name]
    column = "x" if name == "no such column" else None
    with pytest.raises(ValueError, match=re.escape(message)):
        import_dataset("mine", [write_table(tmp_path / "x.csv", rows)], label_column=column)


NOTES = {
    "colours": ([["label", *PIXELS[:12]], *[[i, *range(i, 12 + i)] for i in (0, 1)]], "H, W, C"),
    "an image as names": (
        [[5, *(f"0.{i}" if i else 0 for i in range(784))], *([i, *[9 + i] * 784] for i in (0, 1))],
        "was read as names; if it is an image",
    ),
    "a line of Excel": ([["sep=,"], ["label", *PIXELS[:4]], [0, 1, 2, 3, 4], [1, 5, 6, 7, 8]], ""),
}


@pytest.mark.parametrize("name", NOTES)
def test_a_guess_about_a_table_is_reported(name, tmp_path):
    rows, note = NOTES[name]
    (tmp_path / "x.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    imported = import_dataset("mine", [tmp_path / "x.csv"], test_fraction=0.5)
    assert imported.names == ["0", "1"]
    assert note in " ".join(describe(imported))
    assert len(imported.source.notes) == bool(note)
