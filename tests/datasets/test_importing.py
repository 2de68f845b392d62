"""Sources of every kind, imported and read back to the bit."""

import contextlib
import os
import socket
from typing import Any

import numpy as np
import pytest
from helpers import make_files
from imports import all_images, assert_holds, split_rows, write_csv, write_idx, write_images
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from mnist_jax.datasets import load_dataset
from mnist_jax.datasets.importing import builder, describe, import_dataset
from mnist_jax.datasets.importing.sources import arrays, csv_file
from mnist_jax.datasets.importing.sources.idx import TYPES

pytestmark = pytest.mark.usefixtures("data_dir")


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("how", ["folder", "files in any order"])
def test_idx_files_are_read(small, tmp_path, how, packed):
    suffix, folder = "ubyte.gz" if packed else "ubyte", tmp_path / "idx"
    folder.mkdir()
    names = {"y_test": "t10k-labels-idx1", "x_train": "train-images-idx3"}
    names |= {"y_train": "train-labels-idx1", "x_test": "t10k-images.idx3"}
    files = [
        write_idx(folder / f"{n}-{suffix}", small[key], packed=packed) for key, n in names.items()
    ]
    (folder / "README.md").write_text("about", encoding="utf-8")
    imported = import_dataset("letters", [folder] if how == "folder" else files)
    assert imported.source.ignored == [str(folder / "README.md")] * (how == "folder")
    assert_holds(imported, small)
    assert (imported.num_train, imported.num_test) == (120, 40)


@pytest.mark.parametrize("kind", TYPES)
def test_idx_files_of_every_type_are_read(tmp_path, kind):
    images = np.arange(5 * 2 * 3 * 3).reshape(5, 2, 3, 3)
    files = [
        write_idx(tmp_path / "any name", images, kind),
        write_idx(tmp_path / "and another", np.array([0, 1, 0, 1, 2]), kind),
    ]
    assert import_dataset("mine", files, pixel_range=(0, 255)).shape == (2, 3, 3)
    both = all_images()
    np.testing.assert_array_equal(both[np.argsort(both[:, 0, 0, 0])], images)


def test_digits_of_scikit_learn_split_as_it_splits_them(tmp_path):
    digits: Any = load_digits()
    x, y = digits.images, digits.target
    np.savez(tmp_path / "digits.npz", X=digits.data, y=y)
    imported = import_dataset("digits", [tmp_path / "digits.npz"], test_fraction=0.25, seed=7)
    train, test = map(sorted, train_test_split(np.arange(len(y)), test_size=0.25, random_state=7))
    bytes_ = np.rint(x * 255 / 16)
    assert_holds(imported, split_rows(bytes_, y, train, test))
    assert imported.pixel_range == (0, 16)
    assert "pixels of 0 to 16 became 0 to 255" in describe(imported)


@pytest.mark.parametrize("how", ["one", "two", "testing"])
def test_a_folder_of_images_is_read(how, small, tmp_path):
    """The files are numbered across classes, so their order is that of the images."""
    parts = ("training", "testing") if how == "testing" else ("train", "test")
    for split, part in zip(("train", "test"), parts, strict=True):
        write_images(tmp_path / part, small[f"x_{split}"], small[f"y_{split}"])
    sources = [tmp_path / part for part in parts] if how == "two" else [tmp_path]
    assert_holds(import_dataset("mine", sources), small)


def test_a_folder_of_classes_is_split_by_the_seed(small, tmp_path):
    folder = write_images(tmp_path / "images", small["x_train"], small["y_train"])
    imported = import_dataset("mine", [folder], seed=3)
    train, test = map(sorted, train_test_split(np.arange(120), test_size=0.2, random_state=3))
    assert_holds(imported, split_rows(small["x_train"], small["y_train"], train, test))


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_grey_and_colour_in_one_folder_have_the_channels_asked_for(channels, tmp_path):
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (6, 4, 5, 3), np.uint8)
    colour[:2] = colour[:2, ..., :1]
    folder = write_images(tmp_path / "images", colour, [0, 1, 0, 1, 0, 1])
    Image.fromarray(colour[0, ..., 0]).save(folder / "0" / "0.png")  # stored as grey
    import_dataset("mine", [folder], channels=channels, test_fraction=0.01)
    images = all_images()
    if channels == 1:
        colour = np.stack([np.asarray(Image.fromarray(x).convert("L")) for x in colour])[..., None]
    assert sorted(x.tobytes() for x in images) == sorted(x.tobytes() for x in colour)


def test_images_that_are_grey_have_one_channel_however_they_are_stored(tmp_path):
    grey = np.arange(48, dtype=np.uint8).reshape(4, 3, 4) * 5
    folder = write_images(tmp_path / "images", grey, [0, 1, 0, 1])
    Image.fromarray(grey[0]).convert("RGB").save(folder / "0" / "0.png")
    Image.fromarray(grey[1]).convert("LA").save(folder / "1" / "1.png")
    assert import_dataset("mine", [folder]).shape == (3, 4, 1)


def test_other_files_beside_images_are_ignored_and_reported(tmp_path):
    pixels = np.full((4, 2, 2), 200, np.uint8)
    folder = write_images(tmp_path / "images", pixels, ["cat", "dog", "cat", "dog"])
    cats, odd = folder / "cat", os.fsdecode(b"\xff\x1b")  # in Latin-1, the first one is a letter
    files: dict[str, str | bytes] = {"cat/loop.png": "@loop.png", "cat/2.PNG": "@2.png"}
    make_files(folder, files | dict.fromkeys([".git/", "cat/.DS_Store", "cat/notes.txt"], "x"))
    make_files(folder, dict.fromkeys(["README", odd], "x"))
    os.mkfifo(cats / "pipe.png")
    with socket.socket(socket.AF_UNIX) as plug, contextlib.chdir(cats):
        plug.bind("plug.png")
    imported = import_dataset("mine", [folder])
    assert (imported.num_train, imported.num_test) == (4, 1)
    ignored = ["README", odd, "cat/loop.png", "cat/notes.txt", "cat/pipe.png", "cat/plug.png"]
    assert imported.source.ignored == [str(folder / name) for name in ignored]
    assert f"6 ignored: {folder}/README, {folder}/{odd}, {cats}/lo" in describe(imported)[-2]


def test_csv_of_a_spreadsheet_is_read(tmp_path):
    text = '\ufeff"y",a,b,c,d\r\n"b, or not",0,1,.5,0\r\nc,1,1,1,"0"\r\n\r\n'
    (tmp_path / "x.csv").write_text(text, newline="", encoding="utf-8")
    imported = import_dataset("mine", [tmp_path / "x.csv"], test_fraction=0.5)
    assert imported.names == ["b, or not", "c"]
    images = all_images().reshape(2, 4).tolist()
    assert sorted(images) == [[0, 255, 128, 0], [255, 255, 255, 0]]


def test_a_first_csv_row_labelled_with_a_letter_is_data(tmp_path):
    (tmp_path / "x.csv").write_text("y,0,0,0,0\nx,1,1,1,1\nclass,1,0,0,0\n", encoding="utf-8")
    assert import_dataset("mine", [tmp_path / "x.csv"]).names == ["class", "x", "y"]


def test_a_source_is_read_block_by_block_and_written_shard_by_shard(small, tmp_path, monkeypatch):
    for module in (arrays, csv_file):
        monkeypatch.setattr(module, "BLOCK_BYTES", 7 * 784)
    monkeypatch.setattr(builder, "SHARD_BYTES", 20 * (784 + builder.OBJECT_BYTES))
    np.savez(tmp_path / "x.npz", **small)
    imported = import_dataset("mine", [tmp_path / "x.npz"])
    assert len([*imported.path.glob("mine-train.array_record-*-of-00006")]) == 6
    assert_holds(imported, small)
    write_csv(tmp_path / "x.csv", small["x_train"], small["y_train"])
    write_idx(tmp_path / "images", small["x_train"])
    write_idx(tmp_path / "labels", small["y_train"])
    import_dataset("rows", [tmp_path / "x.csv"])
    import_dataset("stream", [tmp_path / "images", tmp_path / "labels"])
    for split in ("train", "test"):
        rows, stream = load_dataset("rows", split), load_dataset("stream", split)
        np.testing.assert_array_equal(rows.images, stream.images)
        np.testing.assert_array_equal(rows.labels, stream.labels)


def test_three_files_are_parts_by_their_names(small, tmp_path):
    parts = {"train": slice(0, 80), "val": slice(80, 100), "test": slice(100, 120)}
    x, y = small["x_train"], small["y_train"]
    files = [write_csv(tmp_path / f"a_{part}.csv", x[r], y[r]) for part, r in parts.items()]
    assert import_dataset("mine", files).num_validation == 20
    for split, rows in zip(("train", "validation", "test"), parts.values(), strict=True):
        np.testing.assert_array_equal(load_dataset("mine", split).images[..., 0], x[rows])
