"""Bad arrays and bad options to import: one line that names it, and nothing is written."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sources import WHOLE, Case, X, Y, damaged, file, header, made, npy, npz, zipped

from mnist_jax.datasets.importing import import_dataset


def parts(train: Any, test: Any, test_labels: Any = Y) -> Any:
    return npz(x=None, y=None, x_train=train, y_train=Y, x_test=test, y_test=test_labels)


STORED = zipped({"x.npy": npy(X), "y.npy": npy(Y)})
SHAPE = "{'descr': '|u1', 'fortran_order': False, 'shape': (6, 4, %s)}"
NPZ: dict[str, Case] = {
    "names that lead elsewhere": (npz(x=None, **{"../x": X, "/y": Y}), "found '../x', '/y', 'y'"),
    "two of one name": (
        made(("x.npz", zipped({"x.npy": npy(X), "y.npy": npy(Y), "x.npy*": npy(X)}))),
        "x.npz holds two arrays of the same name",
    ),
    "objects": (npz(y=np.array([{}, *"abcde"], object)), "y holds Python objects, which are not"),
    "a pickle": (npz(y=pickle.dumps(Y)), "x.npz: y is not an array: the magic string is not"),
    "complex": (npz(x=X.astype(complex)), "x must hold real numbers, found complex128"),
    "dates": (npz(y=Y.astype("M8[D]")), "y must hold integers or strings, found datetime64"),
    "cut short": (made(("x.npz", WHOLE[:-100])), "x.npz is damaged: File is not a zip file"),
    "damaged": (made(("x.npz", damaged(STORED, 210))), "x.npz: x is damaged: Bad CRC-32"),
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
    "a negative size": (npz(x=header(SHAPE % -4) + bytes(96)), "cannot have the shape (6, 4, -4)"),
    "sizes that overflow": (npz(x=header(SHAPE % 2**62) + bytes(96)), "bytes for uint8 [6, 4, 46"),
    "a size that is true": (npz(x=header(SHAPE % True) + bytes(24)), "cannot have the shape"),
    "a header that calls": (npz(x=header("open('x')")), "x is not an array: "),
    "a header of brackets": (npz(x=header("(" * 9000)), "x is not an array: "),
    "a header of 4 GB": (npz(x=header("{", b"\2\0", 2**32 - 1)), "x is not an array: EOF: reading"),
    "a new version": (npz(x=header("{}", b"\3\0")), "x is not an array: version (3, 0)"),
    "no images": (npz(x=X[:0], y=Y[:0]), "x must hold images"),
    "one axis": (npz(x=Y), "x must hold images, [N, H, W], [N, H, W, C] or [N, pixels], found [6]"),
    "rows of no square": (npz(x=X.reshape(6, 16)[:, :15]), "15 pixels per image, which is not"),
    "unequal counts": (npz(y=Y[:5]), "x has 6 images, but x.npz: y has 5 labels"),
    "no label axis": (npz(y=np.array(1)), "must hold one label per image, [N] or [N, 1], found []"),
    "labels that are no number": (npz(y=Y + np.nan), "y must hold integers, found nan"),
    "labels that are no text": (npz(y=np.array([b"\xff", b"a"] * 3)), "is damaged: 'utf-8' codec"),
    "no number": (npz(x=np.where(X == 37, np.nan, X)), "image 2 of x.npz: x has a pixel of nan"),
    "negative": (npz(x=X - 0.5), "a pixel of -0.5; expected 0 to 65535; --pixel-range BLACK"),
    "too large": (npz(x=X.astype(int) * 700), "x has a pixel of 65800; expected 0 to 65535"),
    "too large for a double": (npz(x=X * np.longdouble("1e4000")), "expected 0 to 65535"),
    "bytes and not bytes": (parts(X, X / 255), "x_train (uint8), but only to 0.372549 in"),
    "a test divided by 255": (parts(X / 95, X / 95 / 255), "but only to 0.00392157 in"),
    "divided twice": (
        npz(x=X / 95 / 255),
        "the largest pixel is 0.003922, in image 0 of x.npz: x (float64), but white would be 1: "
        "were they divided twice? Give the value of white: --pixel-range 0 0.003922",
    ),
    "black": (npz(x=(X / 255).astype(np.uint8)), "every pixel is 0, as in image 0 of x.npz: x"),
    "one class": (npz(y=Y * 0), "there must be two or more classes, found only '0'"),
    "a label missing": (npz(y=np.array(["nan", *"12345"])), "are integers: a label is missing"),
    "a test of other classes": (parts(X, X, Y + 10), "(10, 11, 12) is among those of the training"),
    "a class without a name": (npz(y=np.array(["", *"abcde"])), "the class '' must have a name"),
    "a class that the terminal obeys": (npz(y=np.array(["\x1b[2J", *"abcde"])), "control charact"),
    "a class with a long name": (npz(y=np.array(["a" * 256, *"abcde"])), "1 to 255 characters"),
}


def test_bad_arrays_are_named(refuse_each_source):
    refuse_each_source(NPZ)


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"name": ""}, "the name of a dataset must be a letter and up to"),
    "a line end": ({"name": "mine\n"}, r"got 'mine\n'"),
    "a long name": ({"name": "a" * 101}, "a letter and up to 99 more"),
    "mnist": ({"name": "mnist"}, "'mnist' is reserved"),
    "downloads": ({"name": "downloads"}, "'downloads' is reserved"),
    "another's dataset": ({"name": "cats"}, "cats/1.0.0 exists and was not imported"),
    "two channels": ({"channels": 2}, "channels must be 1 or 3, got 2"),
    "a range upside down": ({"pixel_range": (1.0, 0.0)}, "the lower first, got (1.0, 0.0)"),
    "a range of no number": ({"pixel_range": (np.nan, 1.0)}, "pixel_range must be two numbers"),
    "a range that is too small": ({"pixel_range": (0.0, 50.0)}, "a pixel of 51; expected 0 to 50"),
    "no test": ({"test_fraction": 0.0}, "test_fraction must be between 0 and 1, got 0.0"),
    "none to train on": ({"test_fraction": 0.99}, "and a test_fraction of 0.99 leave none"),
    "no number": ({"test_fraction": np.nan}, "test_fraction must be between 0 and 1, got nan"),
    "a negative seed": ({"seed": -1}, "seed must be from 0 to 2**32 - 1, got -1"),
}


def test_bad_options_are_named(refuse_source, subtests):
    (source,) = npz()()
    for name, (options, message) in OPTIONS.items():
        with subtests.test(name):
            assert message in refuse_source([source], **options)
    (source,) = npz(x=X.reshape(6, 2, 4, 2))()
    assert "images of 2 channels cannot be converted to 3" in refuse_source([source], channels=3)


def test_an_imported_dataset_is_overwritten_only_on_demand(refuse_source):
    (source,) = npz()()
    import_dataset("mine", [source])
    assert "the dataset mine exists already" in refuse_source([source])
    foreign = Path(os.environ["TFDS_DATA_DIR"], "mine/2.0.0/metadata.json")
    foreign.parent.mkdir()
    for content in ("{}", "[]", "{", '{"made_by": "others"}', "[" * 10**5):
        foreign.write_text(content, encoding="utf-8")
        assert "2.0.0 exists and was not imported" in refuse_source([source], overwrite=True)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("root", ["file", "file/below", "/proc/none"])
def test_a_data_directory_that_cannot_be_written_is_named(root):
    file("file", "x")
    message = f"mine cannot be prepared in {root}: .*TFDS_DATA_DIR"
    with pytest.raises(ValueError, match=message):
        import_dataset("mine", npz()(), data_dir=root)


def test_a_full_disk_is_named_and_left_clean(small_disk, refuse_source, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(small_disk))
    random = np.random.default_rng(0).integers(0, 256, (6, 1500, 1500), np.uint8)
    assert "No space left on device" in refuse_source(npz(x=random)())
    assert "No space left on device" not in str(import_dataset("mine", npz()()))
