"""Labels, pixels and classes of imported datasets."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from imports import assert_holds, class_names, split_rows, write_csv, write_images
from imports import data_dir as data_dir
from imports import small as small
from PIL import Image

from mnist_jax.datasets import load_dataset
from mnist_jax.datasets.importing import describe, import_dataset
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
            np.savez(tmp_path / "x.npz", images=x, labels=cast(y))
            options = {"test_fraction": 0.01, "overwrite": True}
            imported = import_dataset("mine", [tmp_path / "x.npz"], **options)
            assert imported.names == class_names(imported) == ["-1", "9", "10"]


DTYPES = [np.uint8, np.bool_, np.int16, np.uint64, np.float16, np.float64, ">u2", ">f4"]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_arrays_are_read_back_as_they_were(tmp_path, data):
    shape = data.draw(st.tuples(*(st.integers(1, 4),) * 3, st.integers(1, 3)))  # more would be H
    num_train, num_test = data.draw(st.tuples(st.integers(2, 6), st.integers(1, 6)))
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    values = st.integers(0, 1 if dtype.kind == "b" else 255)
    x = data.draw(
        hnp.arrays(dtype, (num_train + num_test, *shape[1:]), elements=values.map(dtype.type))
    )
    y = data.draw(hnp.arrays(np.int64, len(x), elements=st.integers(-3, 5)))
    y[num_train], y[1] = y[0], y[0] + 1  # a class of both parts, and a second one
    expected = split_rows(x, y, slice(num_train), slice(num_train, None))
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


# A fraction that rounding has put above white is white.
WHITE = {0.3: 1, 1: 1, 1.0000001: 1, 2: 15, 16: 16, 17: 255, 256: 1023, 4000: 4095, 65535: 65535}


def test_white_is_that_of_the_whole_dataset(tmp_path, subtests):
    y = np.arange(10) % 2
    for largest, white in WHITE.items():
        with subtests.test(largest=largest):
            x = np.linspace(0, largest, 40).reshape(10, 2, 2)
            np.savez(tmp_path / "x.npz", x_train=x[:9], y_train=y[:9], x_test=x[9:], y_test=y[9:])
            imported = import_dataset("mine", [tmp_path / "x.npz"], overwrite=True)
            assert imported.pixel_range == (0, white)
            train = load_dataset("mine", "train").images[..., 0]
            np.testing.assert_array_equal(train, np.rint(x[:9] * 255 / white).clip(0, 255))


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


@pytest.mark.slow
def test_ten_thousand_classes_have_their_names(tmp_path):
    y = np.arange(10_000)[::-1]
    x = (y % 251).astype(np.uint8)[:, None, None]
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    imported = import_dataset("mine", [tmp_path / "x.npz"])
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
    np.savez(tmp_path / "x.npz", x_train=x, y_train=[26, 1], x_test=x, y_test=[7, 1])
    imported = import_dataset("mine", [tmp_path / "x.npz"])
    assert load_dataset("mine", "train").labels.tolist() == [2, 0]
    assert describe(imported)[2:-1] == [
        "3 classes: 1, 7, 26",
        "training images by class: 1 (1), 7 (0), 26 (1)",
        "classes without a test image: 26",
        f"the first image of each class: {imported.path}/first_images.png",
        "repeated images with different labels: 1; some labels are wrong",
        "pixels of 0 to 255 were kept",
        "classes without a training image: 7",
        "2 test images are also training images",
    ]
    assert describe(imported)[-1] == f"written to {imported.path}"


def test_of_many_classes_the_smallest_and_the_largest_are_counted(tmp_path):
    y = np.repeat(np.arange(13), [3, *[4] * 10, 9, 4])
    x = np.full((len(y), 2, 2), 200, np.uint8)
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    lines = describe(import_dataset("mine", [tmp_path / "x.npz"]))
    assert "training images by class: from 3 of 0 to 9 of 11" in lines


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_first_image_of_each_class_is_drawn_in_a_file_and_in_characters(channels, tmp_path):
    x = np.zeros((4, 5, 8, channels), np.uint8)
    x[1, 1:4] = 255  # the first of class "b"
    x[2:] = 90
    np.savez(tmp_path / "x.npz", x_train=x, y_train=[*"abba"], x_test=x, y_test=[*"abba"])
    imported = import_dataset("mine", [tmp_path / "x.npz"])
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
