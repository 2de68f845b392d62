"""Pixels that do not fill their type: white is found from the whole dataset, whatever the file."""

from typing import Any

import numpy as np
import pytest
from imports import data_dir as data_dir
from imports import small as small
from imports import write_csv, write_idx, write_images

from mnist_jax.datasets import load_dataset
from mnist_jax.datasets.importing import describe, import_dataset

pytestmark = pytest.mark.usefixtures("data_dir")

LEVELS = np.arange(256).reshape(4, 8, 8)
# A type, the largest value, and what that is after the import.
RANGES: list[tuple[Any, float, int]] = [
    (np.uint8, 1, 255),
    (np.uint8, 2, 34),
    (np.uint8, 15, 255),
    (np.uint8, 16, 255),
    (np.uint8, 63, 63),
    (np.uint8, 200, 200),
    (np.uint8, 254, 254),
    (np.uint8, 255, 255),
    (np.bool_, 1, 255),
    (np.int64, 1, 255),
    (np.uint16, 1, 255),
    (np.uint16, 16, 255),
    (np.uint16, 255, 255),
    (np.uint16, 1023, 255),
    (np.uint16, 4095, 255),
    (np.uint16, 65535, 255),
    (np.float32, 1, 255),
    (np.float32, 16, 255),
    (np.float64, 255, 255),
]


def write(kind: str, path: Any, images: np.ndarray) -> list[Any]:
    """Writes images of two classes as a source of a kind."""
    labels = [0, 1, 0, 1]
    if kind == "npz":
        np.savez(path / "x.npz", x=images, y=labels)
    elif kind == "csv":
        write_csv(path / "x.csv", images.astype(float if images.dtype.kind == "f" else int), labels)
    elif kind == "idx":
        code = {"u1": 8, "i8": 12, "b1": 8, "f4": 13, "f8": 14, "u2": 12}[images.dtype.str[1:]]
        return [
            write_idx(path / "images", images, code),
            write_idx(path / "labels", np.array(labels)),
        ]
    else:
        write_images(path / "x.folder", images, labels)
    return [path / f"x.{kind}"]


@pytest.mark.parametrize("kind", ["npz", "csv", "idx", "folder"])
def test_no_grey_value_is_lost_by_a_type(kind, tmp_path, subtests):
    for dtype, largest, white in RANGES:
        if kind == "folder" and np.dtype(dtype).kind in "fi":
            continue  # no PNG holds such
        with subtests.test(dtype=np.dtype(dtype).name, largest=largest):
            images = np.rint(LEVELS / 255 * largest) if largest > 1 else LEVELS / 255 * largest
            images = images.astype(dtype)
            images.flat[-1] = largest
            sources = write(kind, tmp_path, images)
            imported = import_dataset("mine", sources, test_fraction=0.25, overwrite=True)
            found = np.concatenate([load_dataset("mine", s).images for s in ("train", "test")])
            assert found.max() == white
            assert len(np.unique(found)) == min(256, len(np.unique(images)))
            said = f"pixels of 0 to {imported.pixel_range[1]:g} became 0 to 255"
            assert (said in describe(imported)) == (imported.pixel_range != (0, 255))
            dark = [line for line in describe(imported) if "--pixel-range 0" in line]
            assert len(dark) == (white < 128)


def test_white_is_that_of_the_dataset_not_of_a_picture(tmp_path):
    images = np.array([[[0, 200]], [[0, 1]], [[0, 16]], [[3, 3]]], np.uint8)
    imported = import_dataset("mine", write("folder", tmp_path, images), test_fraction=0.25)
    assert imported.pixel_range == (0, 255)
    found = np.concatenate([load_dataset("mine", s).images for s in ("train", "test")])
    assert sorted(found[:, 0, 1, 0].tolist()) == [1, 3, 16, 200]


def test_parts_of_two_types_and_one_range_are_taken(tmp_path):
    x, y = LEVELS.astype(np.uint8), [0, 1, 0, 1]
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x.astype(np.float32), y_test=y)
    import_dataset("mine", [tmp_path / "x.npz"])
    for split in ("train", "test"):
        np.testing.assert_array_equal(load_dataset("mine", split).images[..., 0], x)


def test_a_part_of_another_brightness_is_said(small, tmp_path):
    for name, change in {"inverted": lambda x: 255 - x, "as it is": lambda x: x}.items():
        np.savez(tmp_path / "x.npz", **small | {"x_test": change(small["x_test"])})
        lines = describe(import_dataset("mine", [tmp_path / "x.npz"], overwrite=True))
        assert any("is one part inverted" in line for line in lines) == (name == "inverted")


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        (np.array([0, -120], np.int8), "bytes were saved as int8: save them as uint8"),
        (np.array([0, np.nan]), "has a pixel of nan; expected 0 to 65535$"),
        (np.array([0, -1.0]), "--pixel-range LOW HIGH gives other values"),
    ],
)
def test_a_pixel_out_of_range_gets_the_hint_that_helps(values, hint, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.tile(values, (4, 2, 1)), y=[0, 1, 0, 1])
    with pytest.raises(ValueError, match=hint):
        import_dataset("mine", [tmp_path / "x.npz"])
