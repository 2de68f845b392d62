"""Sources that are damaged, or made to do harm: one line that names it, and nothing is written.

Each table maps what is wrong to a source and a part of the message. The sources are made in an
empty directory, which is the current one.
"""

import contextlib
import gzip
import io
import os
import pickle
import re
import struct
import subprocess
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mnist_jax.datasets import importing
from mnist_jax.datasets.importing import import_dataset
from mnist_jax.datasets.sources import streams

X, Y = np.arange(96, dtype=np.uint8).reshape(6, 4, 4), np.array([0, 1, 2, 0, 1, 2])

Options = dict[str, Any]
# (a function that makes the sources and returns them, the message, options)
Case = tuple[Callable[[], list[str]], str]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Iterator[Path]:
    """The current directory, with a data directory beside, in which there is a dataset."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    theirs = tmp_path / "data/cats/1.0.0/dataset_info.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("{}")
    with contextlib.chdir(place):
        yield place


def listing(root: Path) -> dict[Path, bytes | None]:
    """What lies below a directory: files with their bytes."""
    return {path: path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def refuse(sources: list[str], name: str = "mine", **options: Any) -> str:
    """Imports sources that have to be refused; returns the message."""
    data = Path(os.environ["TFDS_DATA_DIR"])
    before = listing(data)
    with pytest.raises((ValueError, OSError)) as refused:
        import_dataset(name, sources, **options)
    assert listing(data) == before
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    assert 10 < len(message) < 600
    return message


def parametrize(table: dict[str, Case]):
    cases = [pytest.param(*case, id=name) for name, case in table.items()]
    return pytest.mark.parametrize(("make", "message"), cases)


def file(name: str, content: bytes | str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def made(*names_and_contents: tuple[str, bytes | str]) -> Callable[[], list[str]]:
    """Sources that are files with these contents."""
    return lambda: [file(name, content) for name, content in names_and_contents]


def folder(**contents: bytes | str) -> Callable[[], list[str]]:
    """A source that is a folder "images" of these files; "__" stands for a slash, "_" for a dot."""

    def make() -> list[str]:
        Path("images").mkdir()
        for name, content in contents.items():
            file("images/" + name.replace("__", "/").replace("_", "."), content)
        return ["images"]

    return make


def png(height: int = 4, width: int = 4, **options: Any) -> bytes:
    output = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(output, "PNG", **options)
    return output.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in members.items():
            archive.writestr(name.removesuffix("*"), content)
    return output.getvalue()


def npy(values: Any) -> bytes:
    output = io.BytesIO()
    np.save(output, values, allow_pickle=True)
    return output.getvalue()


def header(text: str, version: bytes = b"\1\0", length: int | None = None) -> bytes:
    """The beginning of an .npy file, true or not."""
    size = struct.pack(
        "<H" if version == b"\1\0" else "<I", len(text) if length is None else length
    )
    return b"\x93NUMPY" + version + size + text.encode()


def npz(**members: Any) -> Callable[[], list[str]]:
    """A source x.npz of x and y as they should be, but for the members that are given."""
    arrays = {"x": X, "y": Y} | members
    contents = {
        f"{key}.npy": value if isinstance(value, bytes) else npy(value)
        for key, value in arrays.items()
        if value is not None
    }
    return made(("x.npz", zipped(contents)))


def idx(values: np.ndarray, shape: tuple[int, ...] | None = None, kind: int = 8) -> bytes:
    shape = values.shape if shape is None else shape
    begin = struct.pack(f">HBB{len(shape)}I", 0, kind, len(shape), *shape)
    return begin + values.astype(np.uint8).tobytes()


def idx_pair(images: bytes, labels: bytes | None = None) -> Callable[[], list[str]]:
    return made(("images", images), ("labels", idx(Y) if labels is None else labels))


def row(label: object, *pixels: object) -> str:
    return ",".join(map(str, [label, *pixels])) + "\n"


def table(*rows: str) -> Callable[[], list[str]]:
    return made(("x.csv", "".join(rows)))


def damaged(content: bytes, position: int) -> bytes:
    """The content with one bit changed."""
    changed = bytearray(content)
    changed[position] ^= 1
    return bytes(changed)


def pipe() -> list[str]:
    os.mkfifo("pipe.csv")
    return ["pipe.csv"]


GOOD_CSV = row("a", 0, 1, 2, 3) + row("b", 0, 1, 2, 3)
WHOLE = zipped({"x.npy": npy(X), "y.npy": npy(Y)}, zipfile.ZIP_DEFLATED)

KINDS: dict[str, Case] = {
    "no source": (list, "there is no source; expected"),
    "no file": (lambda: ["nothing.npz"], "there is no file or folder 'nothing.npz'"),
    "a pipe": (pipe, "pipe.csv is no file and no folder"),
    "a device": (lambda: ["/dev/zero"], "/dev/zero is no file and no folder"),
    "an empty file": (made(("x.npz", b"")), "x.npz is empty"),
    "an image": (made(("x.png", png())), "x.png is of no kind that can be imported; expected the"),
    "an unknown file": (made(("x.h5", b"\x89HDF\r\n")), "x.h5 is of no kind"),
    "text": (made(("x.txt", GOOD_CSV)), "x.txt is of no kind"),
    "a zip of images": (made(("x.zip", zipped({"a/1.png": png()}))), "x.zip is an archive: unpack"),
    "an empty zip": (made(("x.npz", zipped({}))), "x.npz is an archive"),
    "a tar": (made(("x.tar.gz", gzip.compress(bytes(257) + b"ustar" + bytes(250)))), "an archive"),
    "two kinds": (
        made(("x.csv", GOOD_CSV), ("x.npz", WHOLE)),
        "the source must be one of: the IDX files of images and labels, an .npz file, .csv files",
    ),
    "two of unclear names": (made(("a.csv", GOOD_CSV), ("b.csv", GOOD_CSV)), "train and test in"),
    "three": (
        made(("train.csv", GOOD_CSV), ("test.csv", GOOD_CSV), ("train2.csv", GOOD_CSV)),
        "expected one source, or two with train and test in their names",
    ),
    "one that has both parts, and another": (
        made(
            (
                "train.npz",
                zipped(
                    {
                        f"{k}.npy": npy(v)
                        for k, v in [("x_train", X), ("y_train", Y), ("x_test", X), ("y_test", Y)]
                    }
                ),
            ),
            ("test.npz", WHOLE),
        ),
        "train.npz has a part for training and one for the test itself",
    ),
}

IDX: dict[str, Case] = {
    "cut short": (idx_pair(idx(X)[:-1]), "images is cut short: its header says 6, it holds 5"),
    "too long": (idx_pair(idx(X) + b"0"), "images holds more than the 6 its header says"),
    "labels cut short": (idx_pair(idx(X), idx(Y)[:-1]), "labels is cut short"),
    "labels too long": (idx_pair(idx(X), idx(Y) + b"0"), "labels holds more than the 6"),
    "gzip cut short": (idx_pair(gzip.compress(idx(X))[:-9]), "images is damaged: Compressed file"),
    "gzip damaged": (idx_pair(damaged(gzip.compress(idx(X)), -5)), "images is damaged: CRC check"),
    "gzip of nothing": (idx_pair(gzip.compress(b"")), "images is empty"),
    "gzip and more": (idx_pair(gzip.compress(idx(X)) + b"more"), "images is damaged: Not a gzip"),
    "header cut short": (idx_pair(idx(X)[:10]), "images has 3 axes; expected 1 (labels)"),
    "magic only": (idx_pair(idx(X)[:4]), "images has 3 axes; expected"),
    "two axes": (idx_pair(idx(X[0])), "images has 2 axes; expected 1 (labels), 3 (images)"),
    "255 axes": (idx_pair(b"\0\0\x08\xff" + bytes(1020)), "images has 255 axes"),
    "an unknown type": (idx_pair(idx(X, kind=7)), "images is of no kind that can be"),
    "no images": (idx_pair(idx(X[:0]), idx(Y[:0])), "images must hold images"),
    "no pixels": (idx_pair(idx(X[:, :0])), "images must hold images"),
    "17 channels": (idx_pair(idx(X, (1, 2, 2, 17)), idx(Y[:1])), "images has 17 channels, at most"),
    "sizes that overflow": (idx_pair(idx(X, (6, 2**32 - 1, 2**32 - 1))), "at most 300,000,000"),
    "a count that lies": (
        idx_pair(idx(X, (2**32 - 1, 4, 4)), idx(Y, (2**32 - 1,))),
        "images is cut short: its header says 4,294,967,295, it holds 6",
    ),
    "unequal counts": (idx_pair(idx(X), idx(Y[:5])), "images has 6 images, but labels has 5 label"),
    "labels missing": (
        made(("train-images-idx3-ubyte", idx(X))),
        "the labels that belong to train-images-idx3-ubyte are missing",
    ),
    "images missing": (made(("train-labels-idx1-ubyte", idx(Y))), "the images that belong to"),
    "the test labels missing": (
        made(
            ("train-images-idx3-ubyte", idx(X)),
            ("train-labels-idx1-ubyte", idx(Y)),
            ("t10k-images-idx3-ubyte", idx(X)),
        ),
        "the labels that belong to t10k-images-idx3-ubyte are missing",
    ),
    "several datasets": (
        lambda: [
            str(Path(file(f"emnist/{name}-train-images-idx3-ubyte", idx(X))).parent)
            for name in ("digits", "letters")
        ][:1],
        "letters-train-images-idx3-ubyte both hold images to train on: give the files of one",
    ),
    "names that tell only one part": (
        made(("train-a", idx(X)), ("train-b", idx(Y)), ("a", idx(X)), ("b", idx(Y))),
        "the names must tell which files are for training",
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

SHAPE = "{'descr': '|u1', 'fortran_order': False, 'shape': (6, 4, %s)}"
NPZ: dict[str, Case] = {
    "other names": (
        npz(x=None, images=X),
        "x.npz must hold x_train, y_train, x_test and y_test, or x and y; found 'images', 'y'",
    ),
    "names that lead elsewhere": (npz(x=None, **{"../x": X, "/y": Y}), "found '../x', '/y', 'y'"),
    "two of one name": (
        made(("x.npz", zipped({"x.npy": npy(X), "y.npy": npy(Y), "x.npy*": npy(X)}))),
        "x.npz holds two arrays of one name",
    ),
    "objects": (npz(y=np.array([{}, *"abcde"], object)), "y holds Python objects, which are not"),
    "a pickle": (npz(y=pickle.dumps(Y)), "x.npz: y is no array: the magic string is not correct"),
    "records": (npz(y=np.zeros(6, [("a", int)])), "y must hold integers or strings, found [('a'"),
    "complex": (npz(x=X.astype(complex)), "x must hold real numbers, found complex128"),
    "dates": (npz(y=Y.astype("M8[D]")), "y must hold integers or strings, found datetime64"),
    "by columns": (npz(x=np.asfortranarray(X)), "x is stored by columns; save it by rows"),
    "cut short": (made(("x.npz", WHOLE[:-100])), "x.npz is damaged: File is not a zip file"),
    "damaged": (
        made(("x.npz", damaged(zipped({"x.npy": npy(X), "y.npy": npy(Y)}), 210))),
        "x.npz: x is damaged: Bad CRC-32",
    ),
    "deflated and damaged": (made(("x.npz", damaged(WHOLE, 60))), "x.npz: x is damaged: "),
    "an unknown compression": (
        made(("x.npz", WHOLE.replace(b"\x08\0", b"\x63\0"))),
        "x.npz: x is damaged: That compression method is not supported",
    ),
    "a password": (
        made(("x.npz", WHOLE.replace(b"\x14\0\0\0\x08", b"\x14\0\1\0\x08"))),
        "is encrypted, password required",
    ),
    "a header that says more": (npz(x=header(SHAPE % 5) + bytes(96)), "x must have 120 bytes for"),
    "a header that says less": (npz(x=header(SHAPE % 3) + bytes(96)), "x must have 72 bytes for"),
    "a negative size": (
        npz(x=header(SHAPE % -4) + bytes(96)),
        "x cannot have the shape (6, 4, -4)",
    ),
    "sizes that overflow": (npz(x=header(SHAPE % 2**62) + bytes(96)), "bytes for uint8 [6, 4, 46"),
    "a size that is true": (npz(x=header(SHAPE % True) + bytes(24)), "cannot have the shape"),
    "a header that is no dict": (npz(x=header("[]")), "x is no array: Header is not a dictionary"),
    "a header that calls": (npz(x=header("open('x')")), "x is no array: "),
    "a header of brackets": (npz(x=header("(" * 9000)), "x is no array: "),
    "a header that is cut": (npz(x=header("{", length=9000)), "x is no array: EOF: reading array"),
    "a header of 4 GB": (npz(x=header("{", b"\2\0", 2**32 - 1)), "x is no array: EOF: reading"),
    "a new version": (npz(x=header("{}", b"\3\0")), "x is no array: version (3, 0)"),
    "not even a header": (npz(x=b""), "x is no array: "),
    "no images": (npz(x=X[:0], y=Y[:0]), "x must hold images"),
    "no pixels": (npz(x=X[:, :, :0]), "x must hold images"),
    "rows without pixels": (npz(x=X[:, 0, :0]), "x must hold images"),
    "one axis": (npz(x=Y), "x must hold images, [N, H, W], [N, H, W, C] or [N, pixels], found [6]"),
    "five axes": (npz(x=X[..., None, None]), "x must hold images"),
    "channels first": (npz(x=X.reshape(6, 1, 1, 16).repeat(2, -1)), "last axis of [N, H, W, C]"),
    "rows of no square": (
        npz(x=X.reshape(6, 16)[:, :15]),
        "x has 15 pixels an image, which is not",
    ),
    "unequal counts": (npz(y=Y[:5]), "x has 6 images, but x.npz: y has 5 labels"),
    "no label axis": (
        npz(y=np.array(1)),
        "y must hold one label an image, [N] or [N, 1], found []",
    ),
    "one-hot labels": (npz(y=np.eye(6)), "y must hold one label an image, [N] or [N, 1], found [6"),
    "fractions as labels": (npz(y=Y / 2), "y must hold integers, found 0.5"),
    "labels that are no number": (npz(y=Y + np.nan), "y must hold integers, found nan"),
    "labels that are no text": (
        npz(y=np.array([b"\xff", b"a"] * 3)),
        "y is damaged: 'utf-8' codec",
    ),
    "no number": (npz(x=np.where(X == 37, np.nan, X)), "image 2 of x.npz: x has a pixel of nan"),
    "infinite": (npz(x=np.where(X == 37, -np.inf, X)), "image 2 of x.npz: x has a pixel of -inf"),
    "infinite halves": (npz(x=np.where(X == 37, np.float16(np.inf), X)), "has a pixel of inf"),
    "negative": (
        npz(x=X - 0.5),
        "image 0 of x.npz: x has a pixel of -0.5; expected 0 to 65535 (pi",
    ),
    "too large": (npz(x=X.astype(int) * 700), "x has a pixel of 65800; expected 0 to 65535"),
    "too large for a double": (npz(x=X * np.longdouble("1e4000")), "expected 0 to 65535"),
    "bytes and not bytes": (
        npz(x=None, y=None, x_train=X, y_train=Y, x_test=X / 255, y_test=Y),
        "image 0 of x.npz: x_train is of bytes and image 0 of x.npz: x_test is not",
    ),
    "one class": (npz(y=Y * 0), "there must be two classes or more, found only '0'"),
    "a class without a name": (npz(y=np.array(["", *"abcde"])), "the class '' must have a name"),
    "a class of spaces": (npz(y=np.array([" a", *"abcde"])), "without spaces around it"),
    "a class of two lines": (npz(y=np.array(["a\nb", *"abcde"])), r"the class 'a\nb' must have a"),
    "a class that the terminal obeys": (npz(y=np.array(["\x1b[2J", *"abcde"])), "control charact"),
    "a class of half a character": (npz(y=np.array(["\ud800", *"abcde"])), "control characters"),
    "a class with a long name": (npz(y=np.array(["a" * 256, *"abcde"])), "1 to 255 characters"),
    "a number too long": (npz(y=np.array(["9" * 5000, *"12345"])), "1 to 255 characters"),
}

PNG = png()
HUGE = struct.pack(">II", 2**16, 2**16) + PNG[24:29]  # of the header: height, width, and more
FOLDERS: dict[str, Case] = {
    "empty": (folder(), "images holds no folders of images; expected CLASS/IMAGE, or train/CLASS"),
    "images without classes": (folder(a_png=PNG), "images holds no folders of images"),
    "an empty class": (
        lambda: [*folder(a__1_png=PNG)(), Path("images/b").mkdir()][:1],
        "images/b holds no images; expected those of the class b",
    ),
    "a class without images": (folder(a__1_png=PNG, b__1_txt="x"), "images/b holds no images"),
    "a class in a class": (folder(a__1_png=PNG, a__b__1_png=PNG), "images/a/b is a folder in that"),
    "a loop": (
        lambda: [*folder(a__1_png=PNG)(), Path("images/a/b").symlink_to("..")][:1],
        "images/a/b is a folder in that of a class",
    ),
    "no image": (folder(a__1_png=PNG, b__1_png="x"), "images/b/1.png is no image that can be read"),
    "an empty image": (folder(a__1_png=PNG, b__1_png=""), "images/b/1.png is no image that can be"),
    "an image cut short": (
        folder(a__1_png=PNG, b__1_png=PNG[:45]),
        "images/b/1.png cannot be rea",
    ),
    "an image that is a bomb": (
        folder(
            a__1_png=PNG,
            b__1_png=PNG[:16] + HUGE + struct.pack(">I", zlib.crc32(PNG[12:16] + HUGE)) + PNG[33:],
        ),
        "images/b/1.png cannot be read as an image: ",
    ),
    "two sizes": (
        folder(a__1_png=PNG, b__2_png=png(3, 5)),
        "images/a/1.png is 4x4, images/b/2.png is 3x5: images must be of one size; --size HEIGHT W",
    ),
    "one class": (folder(a__1_png=PNG), "there must be two classes or more, found only 'a'"),
    "two parts for training": (
        folder(train__a__1_png=PNG, training__a__1_png=PNG),
        "images/train and images/training could both be the train part",
    ),
    "an empty test part": (
        lambda: [
            *folder(train__a__1_png=PNG, train__b__1_png=PNG, test__a__1_txt="x")(),
        ],
        "images/test/a holds no images",
    ),
    "files of another kind": (folder(train_csv=GOOD_CSV), "images holds no folders of images"),
}

CSV: dict[str, Case] = {
    "only empty lines": (table("\n\n"), "x.csv is empty; expected rows of a label and pixels"),
    "only a header": (table("label,a,b,c,d\n"), "image 0 of x.csv is missing: there are no images"),
    "one column": (table("a\n"), "x.csv must have rows of a label and pixels, separated by commas"),
    "semicolons": (table("a;0;1;2;3\n"), "separated by commas"),
    "no square": (
        table(row("a", 0, 0, 0, 0, 0)),
        "x.csv has 5 pixels an image, which is not a squ",
    ),
    "a row too short": (
        table(GOOD_CSV, row("a", 0, 0, 0)),
        "x.csv, line 3: it has 4 columns, the first line has 5",
    ),
    "a row too long": (table(GOOD_CSV, row("a", 0, 0, 0, 0, 0)), "x.csv, line 3: it has 6 columns"),
    "text": (table(GOOD_CSV, row("a", 0, "x", 0, 0)), "x.csv, line 3: the pixel 'x' is no number"),
    "text in the first line": (table(row("a", 0, "x", 0, 0), GOOD_CSV), "x.csv, line 1: the pixel"),
    "a pixel missing": (
        table(GOOD_CSV, row("a", 0, "", 0, 0)),
        "line 3: the pixel '' is no number",
    ),
    "two headers": (table("label,a,b,c,d\n" * 2), "x.csv, line 2: the pixel 'a' is no number"),
    "two labels": (
        table("label,class,a,b,c,d\n", GOOD_CSV),
        "several columns that could be the lab",
    ),
    "no number": (table(GOOD_CSV, row("a", 0, "nan", 0, 0)), "image 2 of x.csv has a pixel of nan"),
    "negative": (table(GOOD_CSV, row("a", 0, -1, 0, 0)), "image 2 of x.csv has a pixel of -1.0"),
    "a huge number": (table(GOOD_CSV, row("a", 0, "9" * 999, 0, 0)), "has a pixel of inf"),
    "no label": (table(GOOD_CSV, row("", 0, 0, 0, 0)), "the class '' must have a name"),
    "NUL": (
        table(GOOD_CSV, row("a", 0, "\0", 0, 0)),
        "x.csv, line 3: it has NUL bytes, so it is no",
    ),
    "UTF-16": (made(("x.csv", GOOD_CSV.encode("utf-16"))), "x.csv, line 1: it has NUL bytes"),
    "Latin-1": (made(("x.csv", "é,0,1,2,3\n".encode("latin-1"))), "x.csv, line 1: 'utf-8' codec"),
    "a quote without an end": (
        table(GOOD_CSV, '"a,0,0,0,0\n', GOOD_CSV),
        "x.csv, line 3: unexpected",
    ),
    "a long field": (
        table(row('"' + "a" * 200_000 + '"', 0, 0, 0, 0)),
        "x.csv, line 1: field larger",
    ),
    "gzip cut short": (
        made(("x.csv.gz", gzip.compress(GOOD_CSV.encode())[:-5])),
        "x.csv.gz is dam",
    ),
    "an image as CSV": (made(("x.csv", PNG)), "x.csv, line 1: "),
}


@parametrize(KINDS)
def test_what_is_no_source(make, message):
    assert message in refuse(make())


@parametrize(IDX)
def test_idx(make, message):
    assert message in refuse(make())


@parametrize(NPZ)
def test_npz(make, message):
    assert message in refuse(make())


@parametrize(FOLDERS)
def test_folders(make, message):
    assert message in refuse(make())


@parametrize(CSV)
def test_csv(make, message):
    assert message in refuse(make())


def test_an_endless_line_is_not_read_to_its_end():
    with Path("x.csv").open("wb") as output:
        output.truncate(1 << 40)  # a terabyte, which takes no room
    assert "x.csv, line 1: it is longer than 16,777,216 bytes" in refuse(["x.csv"])


ZEROS = bytes(4 << 20)
BOMBS = {
    "idx": idx_pair(gzip.compress(idx(np.array([]), (1 << 30, 4, 4)) + ZEROS)),
    "more than the header says": idx_pair(gzip.compress(idx(X) + ZEROS)),
    "npz": made(("x.npz", zipped({"x.npy": ZEROS, "y.npy": npy(Y)}, zipfile.ZIP_DEFLATED))),
    "csv": made(("x.csv", gzip.compress(GOOD_CSV.encode() * 100_000))),
}


@pytest.mark.parametrize("make", BOMBS.values(), ids=[*BOMBS])
def test_what_unpacks_to_far_too_much_is_not_unpacked(make, monkeypatch):
    """The limit is made small; the labels of the first case would tell, but come later."""
    monkeypatch.setattr(streams, "MAX_UNPACKED", 1 << 20)
    message = refuse(make())
    assert re.search(
        "unpacks to more than 200 times its size|has 1,073,741,824 images|more than the 6", message
    )


OPTIONS: dict[str, tuple[Options, str]] = {
    "no name": ({"name": ""}, "the name of a dataset must be of a to z, 0 to 9 and _"),
    "a path as name": ({"name": "../x"}, "got '../x'"),
    "capitals": ({"name": "Mine"}, "got 'Mine'"),
    "a digit first": ({"name": "1x"}, "got '1x'"),
    "a line end": ({"name": "mine\n"}, r"got 'mine\n'"),
    "a long name": ({"name": "a" * 101}, "at most 100 of them"),
    "mnist": ({"name": "mnist"}, "'mnist' has a meaning already"),
    "mnist_idx": ({"name": "mnist_idx"}, "'mnist_idx' has a meaning already"),
    "downloads": ({"name": "downloads"}, "'downloads' has a meaning already"),
    "another's dataset": ({"name": "cats"}, "cats/1.0.0 is there already, and was not imported"),
    "overwriting it": ({"name": "cats", "overwrite": True}, "cats/1.0.0 is there already, and was"),
    "no size": ({"size": (0, 4)}, "size must be a height and a width of 1 or more"),
    "a huge size": ({"size": (10**5, 10**5)}, "not huge, got (100000, 100000)"),
    "two channels": ({"channels": 2}, "channels must be 1 or 3, got 2"),
    "a range upside down": ({"pixel_range": (1.0, 0.0)}, "the lower first, got (1.0, 0.0)"),
    "a range without end": ({"pixel_range": (0.0, np.inf)}, "pixel_range must be two numbers"),
    "a range of no number": ({"pixel_range": (np.nan, 1.0)}, "pixel_range must be two numbers"),
    "a range that is too small": (
        {"pixel_range": (0.0, 50.0)},
        "image 3 of x.npz: x has a pixel of 51; expected 0 to 50",
    ),
    "no test": ({"test_fraction": 0.0}, "test_fraction must be between 0 and 1, got 0.0"),
    "only a test": ({"test_fraction": 1.0}, "test_fraction must be between 0 and 1"),
    "none to train on": (
        {"test_fraction": 0.99},
        "6 images and a test_fraction of 0.99 leave none",
    ),
    "no number": ({"test_fraction": np.nan}, "test_fraction must be between 0 and 1, got nan"),
    "a negative seed": ({"seed": -1}, "seed must be from 0 to 2**32 - 1, got -1"),
    "a large seed": ({"seed": 2**32}, "seed must be from 0 to 2**32 - 1"),
}


@pytest.mark.parametrize(("options", "message"), OPTIONS.values(), ids=[*OPTIONS])
def test_options(options, message):
    assert message in refuse(npz()(), **options)


def test_channels_of_what_has_neither_one_nor_three():
    (source,) = npz(x=X.reshape(6, 2, 4, 2))()
    assert "images of 2 channels cannot be made to have 3" in refuse([source], channels=3)


def test_a_dataset_that_was_imported_is_overwritten_only_on_demand():
    (source,) = npz()()
    import_dataset("mine", [source])
    assert "the dataset mine is in" in refuse([source])
    foreign = Path(os.environ["TFDS_DATA_DIR"], "mine/2.0.0/metadata.json")
    foreign.parent.mkdir()
    for content in ("{}", "[]", "{", '{"made_by": "others"}', "[" * 10**5):
        foreign.write_text(content)
        assert "2.0.0 is there already, and was not imported" in refuse([source], overwrite=True)


@pytest.mark.parametrize("how", ["labels", "pixels", "gone"])
def test_a_source_that_changes_while_it_is_imported(how, monkeypatch):
    file("x.csv", GOOD_CSV * 10)
    changed = {
        "labels": GOOD_CSV * 5 + row("b", 0, 1, 2, 3) + GOOD_CSV * 5,
        "pixels": GOOD_CSV * 5 + GOOD_CSV.replace("3", "300") * 5,
        "gone": GOOD_CSV * 5,
    }
    create = importing.create_builder

    def change_first(*args: Any) -> Any:
        file("x.csv", changed[how])
        return create(*args)

    monkeypatch.setattr(importing, "create_builder", change_first)
    message = refuse(["x.csv"])
    assert re.search("x.csv has (changed|gone) while|has a pixel of 300", message)


@pytest.mark.parametrize("root", ["file", "file/below", "/proc/none"])
def test_a_data_directory_that_cannot_be_written(root):
    file("file", "x")
    with pytest.raises(ValueError, match=f"mine cannot be prepared in {root}: .*TFDS_DATA_DIR"):
        import_dataset("mine", npz()(), data_dir=root)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system in memory with room for 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(small_disk, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(small_disk))
    random = np.random.default_rng(0).integers(0, 256, (6, 1000, 1000), np.uint8)
    assert "No space left on device" in refuse(npz(x=random)())
    assert "No space left on device" not in str(import_dataset("mine", npz()()))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kind=st.sampled_from(["x.npz", "x.csv", "images"]),
    position=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    cut=st.booleans(),
)
def test_any_damage_is_one_line_or_none(kind, position, bit, cut):
    """A changed bit may still make a dataset; what may not be is an error of another kind."""
    content = bytearray({"x.npz": WHOLE, "x.csv": GOOD_CSV.encode(), "images": idx(X)}[kind])
    place = int(position * len(content))
    content[place] ^= 1 << bit
    sources = made((kind, bytes(content[:place] if cut else content)), ("labels", idx(Y)))()
    with contextlib.suppress(ValueError, OSError):
        options = {"overwrite": True, "test_fraction": 0.4}
        import_dataset("mine", sources if kind == "images" else sources[:1], **options)
