"""Spellings of a class's name."""

from pathlib import Path

import numpy as np
import pytest
from imports import data_dir as data_dir
from imports import small as small
from imports import write_images, write_source

from mnist_jax.datasets import load_dataset
from mnist_jax.datasets.importing import describe, import_dataset
from mnist_jax.datasets.importing.class_names import class_name

pytestmark = pytest.mark.usefixtures("data_dir")

# The ways to write a class, and its name.
NAMES = {
    "5": ["5", "05", "+5", " 5 ", "5.0", "5.", "5.000e+00", "5.000000000000000000e+00", "\uff15"],
    "0": ["0", "-0", "00", "0.0", "-0.0", "0e+00"],
    "-1": ["-1", "-1.0", "-01"],
    "120": ["120", "1.2e+02"],
    str(2**70): [str(2**70), f"{2**70}.0"],
    "\u00e9": ["\u00e9", "e\u0301", "\u00e9\u00a0", " \u00e9 "],
    # Names, not numbers:
    **{name: [name] for name in ("1e5", "2.5", "1_000", "1e400", "A", "a", "0x10", "\u0665")},
}


def test_a_class_has_one_name_however_it_is_written(subtests):
    for name, ways in NAMES.items():
        for way in ways:
            with subtests.test(way):
                assert class_name(way) == name


@pytest.mark.parametrize("kind", ["csv", "npz", "folder"])
def test_two_spellings_of_the_parts_are_one_class(kind, tmp_path):
    pixels = np.full((3, 2, 2), 200, np.uint8)
    spellings = {"train": ["05", "\u00e9", "x"], "test": ["5.0", "e\u0301", "x"]}
    sources: list[Path] = []
    for split, labels in spellings.items():
        (tmp_path / split).mkdir()
        (source,) = write_source(kind, tmp_path / split, pixels, labels)
        sources.append(source.rename(tmp_path / f"{split}.{kind}"))
    imported = import_dataset("mine", sources)
    assert imported.names == ["5", "x", "\u00e9"]
    assert sorted(load_dataset("mine", "test").labels.tolist()) == [0, 1, 2]
    written = "classes spelled in several ways: '05' = '5.0', 'e\u0301' = '\u00e9'"
    assert written in describe(imported)


def test_folders_of_two_spellings_are_one_class_and_reported(tmp_path):
    pixels = np.full((3, 2, 2), 200, np.uint8)
    write_images(tmp_path / "images", pixels, ["05", "5", "6"])
    imported = import_dataset("mine", [tmp_path / "images"], test_fraction=0.3)
    assert imported.names == ["5", "6"]
    assert "classes spelled in several ways: '05' = '5'" in describe(imported)


def test_labels_of_numpy_savetxt_are_integers(tmp_path):
    table = np.arange(45.0).reshape(9, 5) % 3
    np.savetxt(tmp_path / "x.csv", table, delimiter=",", header="label,a,b,c,d", comments="")
    assert import_dataset("mine", [tmp_path / "x.csv"]).names == ["0", "1", "2"]


def test_an_image_with_two_labels_is_reported(small, tmp_path):
    x, y = small["x_train"], small["y_train"]
    for again, said in ((y[:3], False), ((y[:3] + 1) % 10, True)):
        np.savez(tmp_path / "x.npz", x=np.concatenate([x, x[:3]]), y=np.concatenate([y, again]))
        lines = describe(import_dataset("mine", [tmp_path / "x.npz"], overwrite=True))
        line = "repeated images with different labels: 3; some labels are wrong"
        assert (line in lines) == said
