"""Sources that are damaged, or made to do harm: one line that names it, and nothing is written.

Each table maps what is wrong to a source and a part of the message.
"""

import contextlib
import gzip
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sources import (
    GOOD_CSV,
    WHOLE,
    Case,
    X,
    Y,
    file,
    folder,
    idx,
    idx_pair,
    made,
    npy,
    png,
    row,
    table,
    zipped,
)

from mnist_jax.datasets import importing
from mnist_jax.datasets.importing import import_dataset
from mnist_jax.datasets.importing.sources import streams


def pipe() -> list[str]:
    os.mkfifo("pipe.csv")
    return ["pipe.csv"]


BOTH = {f"{x}_{part}.npy": npy(v) for part in ("train", "test") for x, v in (("x", X), ("y", Y))}
KINDS: dict[str, Case] = {
    "no source": (list, "there is no source; expected"),
    "no file": (lambda: ["nothing.npz"], "there is no file or folder 'nothing.npz'"),
    "a pipe": (pipe, "pipe.csv is neither a file nor a folder"),
    "a device": (lambda: ["/dev/zero"], "/dev/zero is neither a file nor a folder"),
    "an empty file": (made(("x.npz", b"")), "x.npz is empty"),
    "an image": (made(("x.png", png())), "x.png is of an unknown kind; expected the"),
    "an unknown file": (made(("x.h5", b"\x89HDF\r\n")), "x.h5 is an HDF5 file: read it with h5py"),
    "text": (made(("x.txt", GOOD_CSV)), "x.txt is of an unknown kind"),
    "a zip of images": (made(("x.zip", zipped({"a/1.png": png()}))), "x.zip is an archive: unpack"),
    "an empty zip": (made(("x.npz", zipped({}))), "x.npz is an archive"),
    "two kinds": (made(("x.csv", GOOD_CSV), ("x.npz", WHOLE)), "NumPy's .npz or .npy files"),
    "two of unclear names": (made(("a.csv", GOOD_CSV), ("b.csv", GOOD_CSV)), "validation and test"),
    "three": (
        made(*((f"{part}.csv", GOOD_CSV) for part in ("train", "test", "train2"))),
        "expected one source, or one each with train, validation and test in its name",
    ),
    "one that has both parts, and another": (
        made(("train.npz", zipped(BOTH)), ("test.npz", WHOLE)),
        "train.npz: x_test and test.npz: x both hold the images of the test part",
    ),
}

FILE = "train-images-idx3-ubyte"
IDX: dict[str, Case] = {
    "cut short": (idx_pair(idx(X)[:-1]), "images is cut short: its header says 6, it holds 5"),
    "too long": (idx_pair(idx(X) + b"0"), "images holds more than the 6 its header says"),
    "gzip cut short": (idx_pair(gzip.compress(idx(X))[:-9]), "images is damaged: Compressed file"),
    "gzip of nothing": (idx_pair(gzip.compress(b"")), "images is empty"),
    "gzip and more": (idx_pair(gzip.compress(idx(X)) + b"more"), "images is damaged: Not a gzip"),
    "255 axes": (idx_pair(b"\0\0\x08\xff" + bytes(1020)), "images has 255 axes"),
    "an unknown type": (idx_pair(idx(X, kind=7)), "images is of an unknown kind"),
    "no images": (idx_pair(idx(X[:0]), idx(Y[:0])), "images must hold images"),
    "17 channels": (idx_pair(idx(X, (1, 2, 2, 17)), idx(Y[:1])), "images has 17 channels; at most"),
    "sizes that overflow": (idx_pair(idx(X, (6, 2**32 - 1, 2**32 - 1))), "expected 300,000,000"),
    "a count that lies": (
        idx_pair(idx(X, (2**32 - 1, 4, 4)), idx(Y, (2**32 - 1,))),
        "images is cut short: its header says 4,294,967,295, it holds 6",
    ),
    "unequal counts": (idx_pair(idx(X), idx(Y[:5])), "images has 6 images, but labels has 5 label"),
    "labels missing": (made((FILE, idx(X))), "images-idx3-ubyte are missing"),
    "images missing": (made(("train-labels-idx1-ubyte", idx(Y))), "the images of"),
    "the test labels missing": (
        made(("train-images", idx(X)), ("train-labels", idx(Y)), ("t10k-images", idx(X))),
        "the labels of t10k-images are missing",
    ),
    "several datasets": (
        lambda: [made(*((f"emnist/{x}-{FILE}", idx(X)) for x in "ab"))(), "emnist"][1:],
        "emnist holds several datasets; choose one with --part a or b",
    ),
    "names that tell only one part": (
        made(("train-a", idx(X)), ("train-b", idx(Y)), ("a", idx(X)), ("b", idx(Y))),
        "all names must say whether they are",
    ),
    "floats as labels": (
        idx_pair(idx(X), idx(np.frombuffer(np.full(6, 0.5, ">f4"), np.uint8), (6,), 13)),
        "labels must hold integers, found 0.5",
    ),
    "the parts are of two sizes": (
        made(
            ("train-images", idx(X)),
            ("train-labels", idx(Y)),
            ("test-images", idx(X, (6, 2, 8))),
            ("test-labels", idx(Y)),
        ),
        "image 0 of train-images is 4x4, image 0 of test-images is 2x8: images must be of one size",
    ),
}

PNG = png()
FOLDERS: dict[str, Case] = {
    "empty": (folder(), "images holds no folders of classes; expected CLASS/IMAGE, or train/CLASS"),
    "a class without images": (folder(a__1_png=PNG, b__1_txt="x"), "two or more classes, found"),
    "a loop": (
        lambda: [*folder(a__1_png=PNG)(), Path("images/a/b").symlink_to("..")][:1],
        "images/a/b is a link to a folder around it",
    ),
    "no image": (folder(a__1_png=PNG, b__1_png="x"), "images/b/1.png is not a readable image"),
    "two sizes": (folder(a__1_png=PNG, b__2_png=png(3, 5)), "must be of one size; --size HEIGHT W"),
    "one class": (folder(a__1_png=PNG), "there must be two or more classes, found only 'a'"),
    "two parts for training": (
        folder(train__a__1_png=PNG, training__a__1_png=PNG),
        "images/train and images/training could both be the train part",
    ),
    "an empty test part": (
        folder(train__a__1_png=PNG, train__b__1_png=PNG, test__a__1_txt="x"),
        "images/test holds no images",
    ),
    "files of another kind": (folder(train_csv=GOOD_CSV), "images holds no folders of classes"),
}

CSV: dict[str, Case] = {
    "only empty lines": (table("\n\n"), "x.csv is empty; expected rows of pixels, with a label"),
    "only a header": (table("label,a,b,c,d\n"), "there are no images: image 0 of x.csv is missing"),
    "one column": (table("a\n"), "x.csv must have rows of a label and pixels, separated by commas"),
    "no square": (table(row("a", 0, 0, 0, 0, 0)), "has 5 pixels per image, which is not a sq"),
    "a row too short": (table(GOOD_CSV, row("a", 0, 0, 0)), "x.csv, line 3: it has 4 columns, the"),
    "a pixel missing": (table(GOOD_CSV, row("a", 0, "", 0, 0)), "3: the pixel '' is not a number"),
    "a huge number": (table(GOOD_CSV, row("a", 0, "9" * 999, 0, 0)), "has a pixel of inf"),
    "no label": (table(GOOD_CSV, row("", 0, 0, 0, 0)), "x.csv, line 3: the label is missing"),
    "UTF-16": (made(("x.csv", GOOD_CSV.encode("utf-16-le"))), "x.csv, line 1: it has NUL bytes"),
    "Latin-1": (made(("x.csv", "é,0,1,2,3\n".encode("latin-1"))), "x.csv, line 1: it is not UTF-8"),
    "a quote without an end": (table(GOOD_CSV, '"a,0,0,0,0\n', GOOD_CSV), "line 3: unexpected"),
    "a long field": (table(row('"' + "a" * 200_000 + '"', 0, 0, 0, 0)), "line 1: field larger"),
    "gzip cut short": (made(("x.csv.gz", gzip.compress(GOOD_CSV.encode())[:-5])), "x.csv.gz is da"),
    "an image as CSV": (made(("x.csv", PNG)), "x.csv, line 1: "),
}


@pytest.mark.parametrize("cases", [KINDS, IDX, FOLDERS, CSV], ids=["kinds", "idx", "folder", "csv"])
def test_bad_sources_are_named(cases, refuse_each_source):
    refuse_each_source(cases)


def test_an_endless_line_is_not_read_to_its_end(refuse_source):
    with Path("x.csv").open("wb") as output:
        output.truncate(1 << 40)  # a terabyte, which takes no room
    assert "x.csv, line 1: it is longer than 16,777,216 bytes" in refuse_source(["x.csv"])


ZEROS = bytes(4 << 20)
LARGE = gzip.compress(idx(np.array([]), (1 << 30, 4, 4)) + ZEROS)
MEMBERS = zipped({"x.npy": ZEROS, "y.npy": npy(Y)}, zipfile.ZIP_DEFLATED)
BOMBS: dict[str, Case] = {
    "idx": (idx_pair(LARGE), "has 1,073,741,824 images"),
    "more than the header says": (idx_pair(gzip.compress(idx(X) + ZEROS)), "more than the 6"),
    "npz": (made(("x.npz", MEMBERS)), "unpacks to over 200 times its size"),
    "csv": (made(("x.csv", gzip.compress(GOOD_CSV.encode() * 100_000))), "over 200 times its"),
}


def test_decompression_bombs_are_not_unpacked(refuse_each_source, monkeypatch):
    """The limit is made small; the labels of the first case would tell, but come later."""
    monkeypatch.setattr(streams, "MAX_UNPACKED", 1 << 20)
    refuse_each_source(BOMBS)


@pytest.mark.parametrize(
    "changed",
    [
        GOOD_CSV * 5 + row("b", 0, 1, 2, 3) + GOOD_CSV * 5,
        GOOD_CSV * 5 + GOOD_CSV.replace("3", "300") * 5,
        GOOD_CSV * 5,
    ],
    ids=["labels", "pixels", "gone"],
)
def test_a_source_that_changes_while_it_is_imported_is_refused(changed, refuse_source, monkeypatch):
    file("x.csv", GOOD_CSV * 10)
    create = importing.create_builder

    def change_first(*args: Any) -> Any:
        file("x.csv", changed)
        return create(*args)

    monkeypatch.setattr(importing, "create_builder", change_first)
    message = refuse_source(["x.csv"])
    assert re.search("x.csv (changed|disappeared) while|has a pixel of 300", message)


@pytest.mark.usefixtures("here")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["x.npz", "x.csv", "images"]),
    *(st.floats(0, 1, exclude_max=True), st.integers(0, 7), st.booleans()),
)
def test_random_damage_is_an_error_of_one_line_or_none(kind, position, bit, cut):
    """A changed bit may still make a dataset; what may not be is an error of another kind."""
    content = bytearray({"x.npz": WHOLE, "x.csv": GOOD_CSV.encode(), "images": idx(X)}[kind])
    place = int(position * len(content))
    content[place] ^= 1 << bit
    sources = made((kind, bytes(content[:place] if cut else content)), ("labels", idx(Y)))()
    with contextlib.suppress(ValueError, OSError):
        options = {"overwrite": True, "test_fraction": 0.4}
        import_dataset("mine", sources if kind == "images" else sources[:1], **options)
