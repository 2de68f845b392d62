"""Images of every kind of source, imported and read back to the bit."""

import contextlib
import csv
import fcntl
import gzip
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from mnist_jax.datasets import builder, importing, load_dataset, prepare
from mnist_jax.datasets.importing import Imported, describe, import_dataset
from mnist_jax.datasets.sources import arrays, csv_file
from mnist_jax.datasets.sources.idx import TYPES
from mnist_jax.signals import Stopped

Arrays = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch) -> Path:
    """An empty data directory of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def small(mnist) -> Arrays:
    """The beginning of MNIST, under the names that .npz files have."""
    return {
        "x_train": mnist["train"].images[:120, ..., 0],
        "y_train": mnist["train"].labels[:120],
        "x_test": mnist["test"].images[:40, ..., 0],
        "y_test": mnist["test"].labels[:40],
    }


def class_names(imported: Imported) -> list[str]:
    """As tfds reads them."""
    read: Any = tfds.builder_from_directory(imported.path)
    return read.info.features["label"].names


def assert_holds(imported: Imported, expected: Arrays) -> None:
    """Fails unless the dataset, as the package reads it, has these images and classes, in order."""
    name, names = imported.path.parent.name, np.array(class_names(imported))
    for split in ("train", "test"):
        images, labels = load_dataset(name, split, data_dir=imported.path.parent.parent)
        wanted = expected[f"x_{split}"]
        np.testing.assert_array_equal(images, wanted.reshape(*wanted.shape[:3], -1))
        assert names[labels].tolist() == [str(label) for label in expected[f"y_{split}"]]
    assert names.tolist() == imported.names


def write_idx(path: Path, values: np.ndarray, kind: int = 8, packed: bool = False) -> Path:
    content = struct.pack(f">HBB{values.ndim}I", 0, kind, values.ndim, *values.shape)
    content += values.astype(TYPES[kind]).tobytes()
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


def write_csv(
    path: Path, images: np.ndarray, labels: Sequence[object], header: Sequence[str] = ()
) -> Path:
    """Writes rows; the label is in the column that the header calls "label", else the first."""
    position = header.index("label") if header else 0
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerows([header] if header else [])
    for image, label in zip(images.reshape(len(images), -1).tolist(), labels, strict=True):
        rows.writerow([*image[:position], label, *image[position:]])
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_images(folder: Path, images: np.ndarray, labels: Sequence[object]) -> Path:
    """Writes CLASS/NUMBER.png."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("how", ["folder", "files in any order"])
def test_idx(small, tmp_path, how, packed):
    suffix = "ubyte.gz" if packed else "ubyte"
    folder = tmp_path / "idx"
    folder.mkdir()
    files = [
        write_idx(folder / f"letters-{name}-{suffix}", small[key], packed=packed)
        for name, key in [
            ("t10k-labels-idx1", "y_test"),
            ("train-images-idx3", "x_train"),
            ("train-labels-idx1", "y_train"),
            ("t10k-images.idx3", "x_test"),
        ]
    ]
    if how == "folder":
        (folder / "README.md").write_text("about")
        imported = import_dataset("letters", [folder])
        assert imported.ignored == [str(folder / "README.md")]
    else:
        imported = import_dataset("letters", files)
    assert_holds(imported, small)
    assert (imported.num_train, imported.num_test) == (120, 40)


@pytest.mark.parametrize("kind", TYPES)
def test_idx_of_every_type(kind, tmp_path):
    images = np.arange(5 * 2 * 3 * 3).reshape(5, 2, 3, 3)
    files = [
        write_idx(tmp_path / "any name", images, kind),
        write_idx(tmp_path / "and another", np.array([0, 1, 0, 1, 2]), kind),
    ]
    imported = import_dataset("colour", files, pixel_range=(0, 255))
    train, test = (load_dataset("colour", split) for split in ("train", "test"))
    assert imported.shape == (2, 3, 3)
    both = np.concatenate([train.images, test.images])
    np.testing.assert_array_equal(both[np.argsort(both[:, 0, 0, 0])], images)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(save, small, tmp_path):
    save(tmp_path / "mnist.npz", **small, names=np.arange(3))
    imported = import_dataset("mine", [tmp_path / "mnist.npz"])
    assert_holds(imported, small)
    assert imported.ignored == [f"{tmp_path}/mnist.npz: names"]
    assert imported.pixel_range == (0, 255)


def test_digits_of_scikit_learn_split_as_it_splits_them(tmp_path):
    digits: Any = load_digits()
    x, y = digits.images, digits.target
    np.savez(tmp_path / "digits.npz", X=digits.data, y=y)
    imported = import_dataset("digits", [tmp_path / "digits.npz"], test_fraction=0.25, seed=7)
    train, test = map(sorted, train_test_split(np.arange(len(y)), test_size=0.25, random_state=7))
    bytes_ = np.rint(x * 255 / 16)
    assert_holds(
        imported,
        {
            "x_train": bytes_[train],
            "y_train": y[train],
            "x_test": bytes_[test],
            "y_test": y[test],
        },
    )
    assert imported.pixel_range == (0, 16)
    assert "pixels of 0 to 16 became 0 to 255" in describe(imported)


@pytest.mark.parametrize("how", ["one", "two", "testing"])
def test_a_folder_of_images(how, small, tmp_path):
    """The files are numbered across classes, so their order is that of the images."""
    root = tmp_path / "images"
    names = {"train": "training", "test": "testing"} if how == "testing" else {}
    folders = [
        write_images(
            root / names.get(split, split) / ("png" if how == "two" else ""),
            small[f"x_{split}"],
            small[f"y_{split}"],
        )
        for split in ("train", "test")
    ]
    if how == "two":
        folders = [folder.rename(tmp_path / folder.parent.name) for folder in folders]
    imported = import_dataset("mine", folders if how == "two" else [root])
    assert_holds(imported, small)


def test_a_folder_of_classes_is_split_by_the_seed(small, tmp_path):
    folder = write_images(tmp_path / "images", small["x_train"], small["y_train"])
    imported = import_dataset("mine", [folder], seed=3)
    train, test = map(sorted, train_test_split(np.arange(120), test_size=0.2, random_state=3))
    x, y = small["x_train"], small["y_train"]
    assert_holds(
        imported,
        {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]},
    )


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_grey_and_colour_in_one_folder(channels, tmp_path):
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (6, 4, 5, 3), np.uint8)
    colour[:2] = colour[:2, ..., :1]
    folder = write_images(tmp_path / "images", colour, [0, 1, 0, 1, 0, 1])
    Image.fromarray(colour[0, ..., 0]).save(folder / "0" / "0.png")  # stored as grey
    import_dataset("mine", [folder], channels=channels, test_fraction=0.01)
    images = np.concatenate([load_dataset("mine", split).images for split in ("train", "test")])
    if channels == 1:
        colour = np.stack([np.asarray(Image.fromarray(x).convert("L")) for x in colour])[..., None]
    assert sorted(x.tobytes() for x in images) == sorted(x.tobytes() for x in colour)


def test_a_folder_whose_images_are_grey_however_they_are_stored(tmp_path):
    grey = np.arange(48, dtype=np.uint8).reshape(4, 3, 4) * 5
    folder = write_images(tmp_path / "images", grey, [0, 1, 0, 1])
    Image.fromarray(grey[0]).convert("RGB").save(folder / "0" / "0.png")
    Image.fromarray(grey[1]).convert("LA").save(folder / "1" / "1.png")
    assert import_dataset("mine", [folder]).shape == (3, 4, 1)


def test_what_is_in_a_folder_beside_images(tmp_path):
    pixels = np.zeros((4, 2, 2), np.uint8)
    folder = write_images(tmp_path / "images", pixels, ["cat", "dog", "cat", "dog"])
    cats = folder / "cat"
    (folder / ".git").mkdir()
    (cats / ".DS_Store").write_bytes(b"x")
    (cats / "notes.txt").write_text("x")
    os.mkfifo(cats / "pipe.png")
    with socket.socket(socket.AF_UNIX) as plug, contextlib.chdir(cats):
        plug.bind("plug.png")
    (cats / "loop.png").symlink_to("loop.png")
    (cats / "2.PNG").symlink_to("2.png")
    (folder / "README").write_text("x")
    (folder / os.fsdecode(b"\xff\x1b")).write_text("x")
    imported = import_dataset("mine", [folder])
    assert (imported.num_train, imported.num_test) == (4, 1)
    ignored = [
        "README",
        "\udcff\x1b",
        "cat/loop.png",
        "cat/notes.txt",
        "cat/pipe.png",
        "cat/plug.png",
    ]
    assert imported.ignored == [str(folder / name) for name in ignored]
    assert rf"6 ignored: {folder}/README, {folder}/\udcff\x1b, {cats}/lo" in describe(imported)[-2]


@pytest.mark.parametrize(
    ("suffix", "header"),
    [
        (".csv", []),
        (".csv.gz", []),
        (".csv", ["label", *(f"pixel{i}" for i in range(784))]),
        (".csv", ["label", *map(str, range(784))]),
        (".csv", [*(f"{i // 28 + 1}x{i % 28 + 1}" for i in range(784)), "label"]),
    ],
)
def test_csv(suffix, header, small, tmp_path):
    files = [
        write_csv(
            tmp_path / f"mnist_{split}{suffix}", small[f"x_{split}"], small[f"y_{split}"], header
        )
        for split in ("test", "train")
    ]
    assert_holds(import_dataset("mine", files), small)


def test_csv_as_a_spreadsheet_writes_it(tmp_path):
    text = '\ufeff"y",a,b,c,d\r\n"b, or not",0,1,.5,0\r\nc,1,1,1,"0"\r\n\r\n'
    (tmp_path / "x.csv").write_text(text, newline="")
    imported = import_dataset("mine", [tmp_path / "x.csv"], test_fraction=0.5)
    assert imported.names == ["b, or not", "c"]
    images = [load_dataset("mine", split).images.ravel().tolist() for split in ("train", "test")]
    assert sorted(images) == [[0, 255, 128, 0], [255, 255, 255, 0]]


def test_a_letter_is_no_header(tmp_path):
    (tmp_path / "x.csv").write_text("y,0,0,0,0\nx,1,1,1,1\nclass,1,0,0,0\n")
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


LABELS = {
    "bytes": lambda labels: labels.astype("S"),
    "strings": lambda labels: labels.astype("U"),
    "floats": lambda labels: labels.astype(np.float32),
    "one column": lambda labels: labels[:, None],
    "big-endian": lambda labels: labels.astype(">i8"),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=[*LABELS])
def test_labels_of_every_type(labels: Callable[[np.ndarray], np.ndarray], tmp_path):
    x, y = np.zeros((5, 2, 2), np.uint8), np.array([10, 9, -1, 10, 9])
    np.savez(tmp_path / "x.npz", images=x, labels=labels(y))
    imported = import_dataset("mine", [tmp_path / "x.npz"], test_fraction=0.01)
    assert imported.names == class_names(imported) == ["-1", "9", "10"]


DTYPES = [np.uint8, np.bool_, np.int16, np.uint64, np.float16, np.float64, ">u2", ">f4"]


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_arrays(tmp_path, data):
    shape = data.draw(st.tuples(*(st.integers(1, 4),) * 3, st.integers(1, 5)))
    num_train, num_test = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    values = st.integers(0, 1 if dtype.kind == "b" else 255)
    x = data.draw(
        hnp.arrays(dtype, (num_train + num_test, *shape[1:]), elements=values.map(dtype.type))
    )
    y = data.draw(
        hnp.arrays(np.int64, len(x), elements=st.integers(-3, 5)).filter(lambda y: len({*y}) > 1)
    )
    expected = {
        "x_train": x[:num_train],
        "y_train": y[:num_train],
        "x_test": x[num_train:],
        "y_test": y[num_train:],
    }
    np.savez(tmp_path / "x.npz", **expected)
    pixel_range = (0, 1) if dtype.kind == "b" else (0, 255)
    imported = import_dataset("mine", [tmp_path / "x.npz"], pixel_range=pixel_range, overwrite=True)
    as_bytes = {
        key: value.astype(np.uint8) * (255 // pixel_range[1]) if key[0] == "x" else value
        for key, value in expected.items()
    }
    assert_holds(imported, as_bytes)
    assert imported.only_in_test == sorted(
        map(str, {*y[num_train:].tolist()} - {*y[:num_train].tolist()}), key=int
    )
    seen = {image.tobytes() for image in expected["x_train"]}
    assert imported.num_seen == sum(image.tobytes() in seen for image in expected["x_test"])


@pytest.mark.parametrize(
    ("largest", "white"),
    [(0.3, 1), (1, 1), (2, 15), (16, 16), (17, 255), (256, 1023), (4000, 4095), (65535, 65535)],
)
def test_white_is_that_of_the_whole_dataset(largest, white, tmp_path):
    x = np.linspace(0, largest, 40).reshape(10, 2, 2)
    y = np.arange(10) % 2
    np.savez(tmp_path / "x.npz", x_train=x[:9], y_train=y[:9], x_test=x[9:], y_test=y[9:])
    imported = import_dataset("mine", [tmp_path / "x.npz"])
    assert imported.pixel_range == (0, white)
    train = load_dataset("mine", "train").images[..., 0]
    np.testing.assert_array_equal(train, np.rint(x[:9] * 255 / white))


def test_a_given_range_holds_for_bytes_too(tmp_path):
    x = np.array([[[-1, 0]], [[1, -0.5]]])
    np.savez(tmp_path / "x.npz", x_train=x, y_train=[0, 1], x_test=x, y_test=[0, 1])
    imported = import_dataset("mine", [tmp_path / "x.npz"], pixel_range=(-1, 1))
    assert load_dataset("mine", "train").images.ravel().tolist() == [0, 128, 255, 64]
    assert imported.num_seen == 2
    np.savez(tmp_path / "y.npz", x=np.full((2, 1, 1), 15, np.uint8), y=[0, 1])
    import_dataset("bright", [tmp_path / "y.npz"], pixel_range=(0, 15), test_fraction=0.5)
    assert load_dataset("bright", "train").images.ravel().tolist() == [255]


def test_size_scales_images_and_shapes_rows(tmp_path):
    x = np.full((4, 8, 8), 100, np.uint8)
    x[:, ::2] = 0  # stripes: what skips pixels would see none of them, or only them
    folder = write_images(tmp_path / "images", x, [0, 1, 0, 1])
    Image.fromarray(np.full((20, 30), 50, np.uint8)).save(folder / "1" / "3.png")
    imported = import_dataset("mine", [folder], size=(3, 2))
    assert imported.shape == (3, 2, 1)
    for split in ("train", "test"):
        assert np.abs(load_dataset("mine", split).images.astype(int) - 50).max() < 10
    np.savez(tmp_path / "x.npz", x=np.arange(24).reshape(2, 12), y=[0, 1])
    assert import_dataset("grey", [tmp_path / "x.npz"], size=(6, 2)).shape == (6, 2, 1)
    assert import_dataset("rgb", [tmp_path / "x.npz"], size=(4, 1)).shape == (4, 1, 3)
    assert import_dataset("square", [tmp_path / "x.npz"]).shape == (2, 2, 3)


def test_ten_thousand_classes(tmp_path):
    y = np.arange(10_000)[::-1]
    x = (y % 251).astype(np.uint8)[:, None, None]
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    imported = import_dataset("mine", [tmp_path / "x.npz"])
    assert class_names(imported) == [str(n) for n in range(10_000)]
    assert load_dataset("mine", "train").labels.tolist() == y.tolist()
    assert describe(imported)[1] == "10,000 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."


def test_names_of_classes_are_sorted_as_people_do(tmp_path):
    names = ["Ärger", "class10", "class9", "a b", "猫", "می‌خواهم", "1", "10", "2"]
    write_csv(tmp_path / "x.csv", np.ones((9, 4), int), names)
    imported = import_dataset("mine", [tmp_path / "x.csv"], test_fraction=0.3)
    expected = ["1", "2", "10", "a b", "class9", "class10", "Ärger", "می‌خواهم", "猫"]
    assert class_names(imported) == imported.names == expected


def test_classes_of_the_test_part_alone_have_names_too_and_are_told(tmp_path):
    x = np.zeros((2, 2, 2), np.uint8)
    np.savez(tmp_path / "x.npz", x_train=x, y_train=[26, 1], x_test=x, y_test=[7, 1])
    imported = import_dataset("mine", [tmp_path / "x.npz"])
    assert load_dataset("mine", "train").labels.tolist() == [2, 0]
    assert describe(imported)[1:-1] == [
        "3 classes: 1, 7, 26",
        "classes without an image to train on: 7",
        "2 images of the test are among those to train on, too",
    ]
    assert describe(imported)[-1].endswith("with --data.dataset mine")


def test_the_same_source_gives_the_same_bytes(small, tmp_path):
    np.savez(tmp_path / "x.npz", x=small["x_train"], y=small["y_train"])
    paths = [
        import_dataset("mine", [tmp_path / "x.npz"], seed=5, data_dir=tmp_path / place).path
        for place in ("one", "two")
    ]
    one, two = ({file.name: file.read_bytes() for file in path.iterdir()} for path in paths)
    assert one == two


@pytest.fixture
def source(tmp_path) -> Path:
    """Two images of two classes."""
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 1, 1), np.uint8), y=[0, 1])
    return tmp_path / "x.npz"


def import_small(source: Path, **options: Any) -> Imported:
    return import_dataset("mine", [source], test_fraction=0.5, **options)


def test_overwrite_writes_the_next_version_and_then_deletes_the_others(
    source, data_dir, monkeypatch
):
    assert import_small(source).path == data_dir / "mine/1.0.0"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop)  # at the first deletion
        with pytest.raises(Stopped):
            import_small(source, overwrite=True)
    assert sorted(path.name for path in data_dir.glob("mine/*.*.*")) == ["1.0.0", "1.0.1"]
    assert import_small(source, overwrite=True).path == data_dir / "mine/1.0.2"
    assert [path.name for path in data_dir.glob("mine/[!.]*")] == ["1.0.2"]
    assert len(load_dataset("mine", "train").labels) == 1


def stop(*_: object) -> None:
    raise Stopped(signal.SIGTERM)


@pytest.mark.parametrize("at", ["first write", "end"])
def test_a_signal_while_it_writes_leaves_nothing(at, source, data_dir, monkeypatch):
    data_dir.mkdir()
    with monkeypatch.context() as patch:
        if at == "end":
            patch.setattr(tfds.core.DatasetInfo, "write_to_directory", stop)
        else:
            patch.setattr(importing, "surveyed", stop)
        with pytest.raises(Stopped):
            import_small(source)
    assert not list(data_dir.iterdir())
    import_small(source)


def test_a_signal_while_it_overwrites_leaves_what_was_there(source, data_dir, monkeypatch):
    import_small(source)
    before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*") if path.is_file()}
    monkeypatch.setattr(importing, "surveyed", stop)
    with pytest.raises(Stopped):
        import_small(source, overwrite=True)
    after = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*") if path.is_file()}
    assert {*after} == {*before}
    assert len(load_dataset("mine", "train").labels) == 1


# An import that never gets beyond its first images.
STUCK = """
import sys, time
from mnist_jax.datasets import importing
importing.surveyed = lambda *_: time.sleep(60)
importing.import_dataset("mine", sys.argv[1:])
"""


def test_what_a_kill_leaves_is_cleaned_up_by_the_next_import(small, tmp_path, data_dir):
    np.savez(tmp_path / "x.npz", **small)
    victim = subprocess.Popen([sys.executable, "-c", STUCK, str(tmp_path / "x.npz")])
    while not list(data_dir.glob("mine/incomplete*_1.0.0")):
        assert victim.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    victim.kill()
    victim.wait()
    assert list(data_dir.glob("mine/incomplete*"))
    assert_holds(import_dataset("mine", [tmp_path / "x.npz"]), small)
    assert sorted(path.name for path in (data_dir / "mine").iterdir()) == [".lock", "1.0.0"]


def test_of_two_imports_at_once_one_waits_and_then_refuses(source, data_dir, monkeypatch):
    """The other one has begun when the name was still free."""
    survey = importing.survey_parts

    def other_first(*args: Any) -> Any:
        monkeypatch.setattr(importing, "survey_parts", survey)
        import_small(source)
        return survey(*args)

    monkeypatch.setattr(importing, "survey_parts", other_first)
    with pytest.raises(ValueError, match=r"is in .* already"):
        import_small(source)
    assert prepare.prepared_dir("mine", data_dir) == data_dir / "mine/1.0.0"


def test_who_waits_for_an_import_that_fails_gets_a_lock_that_others_see(data_dir):
    """The one that failed has removed the lock file with the directory."""
    locked_by = []

    def wait() -> None:
        with prepare.locked(data_dir, "mine"), (data_dir / "mine/.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                locked_by.append("the one that waited")

    waiting = threading.Thread(target=wait)
    with contextlib.suppress(Stopped), prepare.locked(data_dir, "mine"):
        waiting.start()
        time.sleep(0.2)
        stop()
    waiting.join(timeout=10)
    assert locked_by == ["the one that waited"]


def test_a_bar_is_drawn_on_a_terminal_only(source, capfd):
    import_small(source)
    assert capfd.readouterr() == ("", "")


def test_a_fraction_that_rounding_has_put_above_white_is_white(tmp_path):
    x = np.linspace(0, 1.0000001, 32).reshape(2, 4, 4)
    np.savez(tmp_path / "x.npz", x_train=x, y_train=[0, 1], x_test=x, y_test=[0, 1])
    assert import_dataset("mine", [tmp_path / "x.npz"]).pixel_range == (0, 1)
    np.testing.assert_array_equal(
        load_dataset("mine", "train").images[..., 0], np.rint(x * 255).clip(0, 255)
    )


def test_channels_that_come_first_are_refused(tmp_path):
    x = np.zeros((2, 3, 12, 12), np.uint8)
    np.savez(tmp_path / "x.npz", x_train=x, y_train=[0, 1], x_test=x, y_test=[0, 1])
    with pytest.raises(ValueError, match="must be the last axis of"):
        import_dataset("mine", [tmp_path / "x.npz"])
