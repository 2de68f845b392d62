"""Pixels that do not fill their type: white is found from the whole dataset, in any file."""

from typing import Any

import numpy as np
import pytest
from imports import all_images, write_source
from imports import data_dir as data_dir
from imports import small as small

from mnist_jax.datasets import load_dataset
from mnist_jax.datasets.importing import describe, import_dataset

pytestmark = pytest.mark.usefixtures("data_dir")

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
    for dtype, largest, white in (
        (d, *pair) for d, pairs in RANGES.items() for pair in pairs.items()
    ):
        if kind == "folder" and np.dtype(dtype).kind in "fi":
            continue  # no PNG holds such
        with subtests.test(dtype=np.dtype(dtype).name, largest=largest):
            images = np.rint(LEVELS / 255 * largest) if largest > 1 else LEVELS / 255 * largest
            images = images.astype(dtype)
            images.flat[-1] = largest
            sources = write_source(kind, tmp_path, images, [0, 1, 0, 1])
            imported = import_dataset("mine", sources, test_fraction=0.25, overwrite=True)
            found = all_images()
            assert found.max() == white
            assert len(np.unique(found)) == min(256, len(np.unique(images)))
            said = f"pixels of 0 to {imported.pixel_range[1]:g} became 0 to 255"
            assert (said in describe(imported)) == (imported.pixel_range != (0, 255))
            dark = [line for line in describe(imported) if "--pixel-range 0" in line]
            assert len(dark) == (white < 128)


def test_white_is_that_of_the_dataset_not_of_a_picture(tmp_path):
    images = np.array([[[0, 200]], [[0, 1]], [[0, 16]], [[3, 3]]], np.uint8)
    imported = import_dataset(
        "mine", write_source("folder", tmp_path, images, [0, 1, 0, 1]), test_fraction=0.25
    )
    assert imported.pixel_range == (0, 255)
    found = all_images()
    assert sorted(found[:, 0, 1, 0].tolist()) == [1, 3, 16, 200]


def test_parts_of_two_types_and_one_range_are_taken(tmp_path):
    x, y = LEVELS.astype(np.uint8), [0, 1, 0, 1]
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x.astype(np.float32), y_test=y)
    import_dataset("mine", [tmp_path / "x.npz"])
    for split in ("train", "test"):
        np.testing.assert_array_equal(load_dataset("mine", split).images[..., 0], x)


def test_a_part_of_another_brightness_is_reported(small, tmp_path):
    for name, change in {"inverted": lambda x: 255 - x, "as it is": lambda x: x}.items():
        np.savez(tmp_path / "x.npz", **small | {"x_test": change(small["x_test"])})
        lines = describe(import_dataset("mine", [tmp_path / "x.npz"], overwrite=True))
        assert any("is one part inverted" in line for line in lines) == (name == "inverted")


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        (np.array([0, -120], np.int8), "bytes were saved as int8: save them as uint8"),
        (np.array([0, np.nan]), "has a pixel of nan; expected 0 to 65535$"),
        (np.array([0, -1.0]), "--pixel-range LOW HIGH sets another range"),
    ],
)
def test_a_pixel_out_of_range_gets_the_hint_that_helps(values, hint, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.tile(values, (4, 2, 1)), y=[0, 1, 0, 1])
    with pytest.raises(ValueError, match=hint):
        import_dataset("mine", [tmp_path / "x.npz"])
