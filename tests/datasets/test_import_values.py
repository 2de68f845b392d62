"""Labels, pixels, white and classes of imported datasets, however they are written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from imports import (
    all_images,
    assert_holds,
    class_names,
    import_arrays,
    split_rows,
    write_csv,
    write_images,
    write_source,
)
from PIL import Image

from mnist_jax.datasets import load_dataset
from mnist_jax.datasets.importing import describe, import_dataset
from mnist_jax.datasets.importing.class_names import class_name
from mnist_jax.datasets.importing.sheet import as_text

pytestmark = pytest.mark.usefixtures("data_dir")

LABELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bytes": lambda labels: labels.astype("S"),
    "strings": lambda labels: labels.astype("U"),
    "floats": lambda labels: labels.astype(np.float32),
    "one column": lambda labels: labels[:, None],
    "big-endian": lambda labels: labels.astype(">i8"),
}


def test_labels_of_every_type_name_the_classes(tmp_path, subtests):
    x, y = np.full((5, 2, 2), 200, np.uint8), np.array([10, 9, -1, 10, 9])
    for name, cast in LABELS.items():
        with subtests.test(name):
            arrays = {"images": x, "labels": cast(y)}
            imported = import_arrays(tmp_path, arrays, test_fraction=0.01)
            assert imported.names == class_names(imported) == ["-1", "9", "10"]


DTYPES = [np.uint8, np.bool_, np.int16, np.uint64, np.float16, np.float64, ">u2", ">f4"]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_arrays_are_read_back_as_they_were(tmp_path, data):
    shape = data.draw(st.tuples(*(st.integers(1, 4),) * 3, st.integers(1, 3)))  # more would be H
    num_train, num_test = data.draw(st.tuples(st.integers(2, 6), st.integers(1, 6)))
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    white = 1 if dtype.kind == "b" else 255
    pixels, shape = st.integers(0, white).map(dtype.type), (num_train + num_test, *shape[1:])
    x = data.draw(hnp.arrays(dtype, shape, elements=pixels))
    y = data.draw(hnp.arrays(np.int64, len(x), elements=st.integers(-3, 5)))
    y[num_train], y[1] = y[0], y[0] + 1  # a class of both parts, and a second one
    parts = slice(num_train), slice(num_train, None)
    imported = import_arrays(tmp_path, split_rows(x, y, *parts), pixel_range=(0, white))
    assert_holds(imported, split_rows(x.astype(np.uint8) * (255 // white), y, *parts))
    only_in_test = {*y[num_train:].tolist()} - {*y[:num_train].tolist()}
    assert imported.only_in_test == sorted(map(str, only_in_test), key=int)
    seen = {image.tobytes() for image in x[:num_train]}
    assert imported.num_seen == sum(image.tobytes() in seen for image in x[num_train:])


# A fraction that rounding has put above white is white.
WHITE = {0.3: 1, 1: 1, 1.0000001: 1, 2: 15, 16: 16, 17: 255, 256: 1023, 4000: 4095, 65535: 65535}


def test_white_is_that_of_the_whole_dataset(tmp_path, subtests):
    y = np.arange(10) % 2
    for largest, white in WHITE.items():
        with subtests.test(largest=largest):
            x = np.linspace(0, largest, 40).reshape(10, 2, 2)
            imported = import_arrays(tmp_path, split_rows(x, y, slice(9), slice(9, None)))
            assert imported.pixel_range == (0, white)
            train = load_dataset("mine", "train").images[..., 0]
            np.testing.assert_array_equal(train, np.rint(x[:9] * 255 / white).clip(0, 255))


def test_a_given_range_holds_for_bytes_too(tmp_path):
    x, y = np.array([[[-1, 0]], [[1, -0.5]]]), np.array([0, 1])
    both = split_rows(x, y, slice(2), slice(2))
    assert import_arrays(tmp_path, both, pixel_range=(-1, 1)).num_seen == 2
    assert load_dataset("mine", "train").images.ravel().tolist() == [0, 128, 255, 64]
    dark = {"x": np.full((2, 1, 1), 15, np.uint8), "y": y}
    import_arrays(tmp_path, dark, pixel_range=(0, 15), test_fraction=0.5)
    assert load_dataset("mine", "train").images.ravel().tolist() == [255]


def test_size_scales_images_and_shapes_rows(tmp_path):
    x = np.full((4, 8, 8), 100, np.uint8)
    x[:, ::2] = 0  # stripes: what skips pixels would see none of them, or only them
    folder = write_images(tmp_path / "images", x, [0, 1, 0, 1])
    Image.fromarray(np.full((20, 30), 50, np.uint8)).save(folder / "1" / "3.png")
    assert import_dataset("mine", [folder], size=(3, 2)).shape == (3, 2, 1)
    assert np.abs(all_images().astype(int) - 50).max() < 10
    rows = {"x": np.arange(24).reshape(2, 12), "y": np.array([0, 1])}
    for size, shape in (((6, 2), (6, 2, 1)), ((4, 1), (4, 1, 3)), (None, (2, 2, 3))):
        assert import_arrays(tmp_path, rows, size=size).shape == shape


@pytest.mark.slow
def test_ten_thousand_classes_have_their_names(tmp_path):
    y = np.arange(10_000)[::-1]
    x = (y % 251).astype(np.uint8)[:, None, None]
    imported = import_arrays(tmp_path, split_rows(x, y, slice(None), slice(None)))
    assert class_names(imported) == [str(n) for n in range(10_000)]
    assert load_dataset("mine", "train").labels.tolist() == y.tolist()
    assert describe(imported)[2] == "10,000 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."


def test_names_of_classes_are_sorted_as_people_sort_them(tmp_path):
    names = ["Ärger", "class10", "class9", "a b", "猫", "می‌خواهم", "1", "10", "2"]
    write_csv(tmp_path / "x.csv", np.ones((9, 4), int), names)
    imported = import_dataset("mine", [tmp_path / "x.csv"], test_fraction=0.3)
    expected = ["1", "2", "10", "a b", "class9", "class10", "Ärger", "می‌خواهم", "猫"]
    assert class_names(imported) == imported.names == expected


def test_classes_only_in_the_test_part_are_named_and_reported(tmp_path):
    x = np.full((2, 2, 2), 200, np.uint8)
    arrays = {"x_train": x, "y_train": [26, 1], "x_test": x, "y_test": [7, 1]}
    imported = import_arrays(tmp_path, arrays)
    assert load_dataset("mine", "train").labels.tolist() == [2, 0]
    assert describe(imported)[2:-1] == [
        "3 classes: 1, 7, 26",
        "training images by class: 1 (1), 7 (0), 26 (1)",
        "classes without a test image: 26",
        f"the first image of each class: {imported.path}/first_images.png",
        "repeated images with different labels: 1; some labels are wrong",
        "pixels of 0 to 255 were kept",
        "classes without a training image: 7",
        "2 test images are also training images; remove them",
    ]
    assert describe(imported)[-1] == f"written to {imported.path}"


def test_of_many_classes_the_smallest_and_the_largest_are_counted(tmp_path):
    y = np.repeat(np.arange(13), [3, *[4] * 10, 9, 4])
    arrays = split_rows(np.full((len(y), 2, 2), 200, np.uint8), y, slice(None), slice(None))
    lines = describe(import_arrays(tmp_path, arrays))
    assert "training images by class: from 3 of 0 to 9 of 11" in lines


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_first_image_of_each_class_is_drawn_in_a_file_and_in_characters(channels, tmp_path):
    x = np.zeros((4, 5, 8, channels), np.uint8)
    x[1, 1:4] = 255  # the first of class "b"
    x[2:] = 90
    arrays = split_rows(x, np.array([*"abba"]), slice(None), slice(None))
    imported = import_arrays(tmp_path, arrays)
    with Image.open(imported.path / "first_images.png") as sheet:
        a, b = (np.asarray(sheet)[24:60, left : left + 64] for left in (8, 80))
    assert a.max() == 0
    assert (b == 255).mean() > 0.5
    lines = as_text(imported.firsts, 80)
    assert lines[0].split() == ["a", "b"]
    assert [line.strip() for line in lines[1:]].count("@" * 28) >= 3
    assert "".join(lines[1:]).strip(" @#*+=-:.%") == ""


def test_the_same_source_gives_the_same_bytes(small, tmp_path):
    np.savez(tmp_path / "x.npz", x=small["x_train"], y=small["y_train"])
    paths = [
        import_dataset("mine", [tmp_path / "x.npz"], seed=5, data_dir=tmp_path / place).path
        for place in ("one", "two")
    ]
    one, two = ({file.name: file.read_bytes() for file in path.iterdir()} for path in paths)
    assert one == two


BRIGHT = np.full((3, 2, 2), 200, np.uint8)
LEVELS = np.arange(256).reshape(4, 8, 8)
# By type: the largest value, and what that is after the import.
RANGES: dict[Any, dict[float, int]] = {
    np.uint8: {1: 255, 2: 34, 15: 255, 16: 255, 63: 63, 200: 200, 254: 254, 255: 255},
    np.bool_: {1: 255},
    np.int64: {1: 255},
    np.uint16: {1: 255, 16: 255, 255: 255, 1023: 255, 4095: 255, 65535: 255},
    np.float32: {1: 255, 16: 255},
    np.float64: {255: 255},
}


@pytest.mark.parametrize("kind", ["npz", "csv", "idx", "folder"])
def test_no_grey_value_is_lost_by_a_type(kind, tmp_path, subtests):
    for dtype, pairs in RANGES.items():
        if kind == "folder" and np.dtype(dtype).kind in "fi":
            continue  # no PNG holds such
        for largest, white in pairs.items():
            with subtests.test(dtype=np.dtype(dtype).name, largest=largest):
                images = LEVELS / 255 * largest
                images = (np.rint(images) if largest > 1 else images).astype(dtype)
                images.flat[-1] = largest
                sources = write_source(kind, tmp_path, images, [0, 1, 0, 1])
                imported = import_dataset("mine", sources, test_fraction=0.25, overwrite=True)
                found, lines = all_images(), describe(imported)
                assert found.max() == white
                assert len(np.unique(found)) == min(256, len(np.unique(images)))
                said = f"pixels of 0 to {imported.pixel_range[1]:g} became 0 to 255"
                assert (said in lines) == (imported.pixel_range != (0, 255))
                assert sum("--pixel-range 0" in line for line in lines) == (white < 128)


def test_parts_of_two_types_and_one_range_are_taken(tmp_path):
    x, y = LEVELS.astype(np.uint8), np.arange(4) % 2
    arrays = {"x_train": x, "y_train": y, "x_test": x.astype(np.float32), "y_test": y}
    import_arrays(tmp_path, arrays)
    np.testing.assert_array_equal(all_images()[..., 0], np.concatenate([x, x]))


def test_a_part_of_another_brightness_is_reported(small, tmp_path):
    for test, inverted in ((255 - small["x_test"], True), (small["x_test"], False)):
        lines = describe(import_arrays(tmp_path, small | {"x_test": test}))
        assert any("is one part inverted" in line for line in lines) == inverted


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        (np.array([0, -120], np.int8), "bytes were saved as int8: save them as uint8"),
        (np.array([0, np.nan]), "has a pixel of nan; expected 0 to 65535$"),
        (np.array([0, -1.0]), "--pixel-range BLACK WHITE sets another range"),
    ],
)
def test_a_pixel_out_of_range_gets_the_hint_that_helps(values, hint, tmp_path):
    with pytest.raises(ValueError, match=hint):
        import_arrays(tmp_path, {"x": np.tile(values, (4, 2, 1)), "y": np.arange(4) % 2})


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
    spellings = {"train": ["05", "\u00e9", "x"], "test": ["5.0", "e\u0301", "x"]}
    sources: list[Path] = []
    for split, labels in spellings.items():
        (tmp_path / split).mkdir()
        (source,) = write_source(kind, tmp_path / split, BRIGHT, labels)
        sources.append(source.rename(tmp_path / f"{split}.{kind}"))
    imported = import_dataset("mine", sources)
    assert imported.names == ["5", "x", "\u00e9"]
    assert sorted(load_dataset("mine", "test").labels.tolist()) == [0, 1, 2]
    written = "classes spelled in several ways: '05' = '5.0', 'e\u0301' = '\u00e9'"
    assert written in describe(imported)


def test_folders_of_two_spellings_are_one_class_and_reported(tmp_path):
    folder = write_images(tmp_path / "images", BRIGHT, ["05", "5", "6"])
    imported = import_dataset("mine", [folder], test_fraction=0.3)
    assert imported.names == ["5", "6"]
    assert "classes spelled in several ways: '05' = '5'" in describe(imported)


def test_labels_of_numpy_savetxt_are_integers(tmp_path):
    table = np.arange(45.0).reshape(9, 5) % 3
    np.savetxt(tmp_path / "x.csv", table, delimiter=",", header="label,a,b,c,d", comments="")
    assert import_dataset("mine", [tmp_path / "x.csv"]).names == ["0", "1", "2"]


def test_an_image_with_two_labels_is_reported(small, tmp_path):
    x, y = small["x_train"], small["y_train"]
    for again, said in ((y[:3], False), ((y[:3] + 1) % 10, True)):
        arrays = {"x": np.concatenate([x, x[:3]]), "y": np.concatenate([y, again])}
        line = "repeated images with different labels: 3; some labels are wrong"
        assert (line in describe(import_arrays(tmp_path, arrays))) == said
