"""Shared by the tests of imports: writers of sources, and reading back."""

import csv
import gzip
import io
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from mnist_jax.datasets import load_dataset
from mnist_jax.datasets.importing import Imported, import_dataset
from mnist_jax.datasets.importing.sources.idx import TYPES

Arrays = dict[str, np.ndarray]


def split_rows(x: np.ndarray, y: np.ndarray, train: Any, test: Any) -> dict[str, Any]:
    return {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}


def class_names(imported: Imported) -> list[str]:
    read: Any = tfds.builder_from_directory(imported.path)
    return read.info.features["label"].names


def assert_holds(imported: Imported, expected: Arrays) -> None:
    """Fails unless the package reads these images and classes, in order."""
    name, names = imported.path.parent.name, np.array(class_names(imported))
    for split in ("train", "test"):
        images, labels = load_dataset(name, split, data_dir=imported.path.parent.parent)
        wanted = expected[f"x_{split}"]
        np.testing.assert_array_equal(images, wanted.reshape(*wanted.shape[:3], -1))
        np.testing.assert_array_equal(names[labels], np.asarray(expected[f"y_{split}"]).astype(str))
    np.testing.assert_array_equal(names, imported.names)


def import_arrays(folder: Path, arrays: Arrays, **options: Any) -> Imported:
    """Imports an .npz file of these arrays as `mine`."""
    held: dict[str, Any] = {**arrays}
    np.savez(folder / "x.npz", **held)
    return import_dataset("mine", [folder / "x.npz"], overwrite=True, **options)


def write_idx(path: Path, values: np.ndarray, kind: int = 8, packed: bool = False) -> Path:
    content = struct.pack(f">HBB{values.ndim}I", 0, kind, values.ndim, *values.shape)
    content += values.astype(TYPES[kind]).tobytes()
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


def write_csv(path: Path, images: np.ndarray, labels: Iterable[object]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = zip(labels, images.reshape(len(images), -1).tolist(), strict=True)
        csv.writer(file).writerows([label, *pixels] for label, pixels in rows)
    return path


def write_images(folder: Path, images: np.ndarray, labels: Iterable[object]) -> Path:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def write_source(kind: str, folder: Path, images: np.ndarray, labels: Any) -> list[Path]:
    """Writes images as a source: csv, npz, idx or folder."""
    path = folder / f"x.{kind}"
    if kind == "npz":
        np.savez(path, x=images, y=labels)
    elif kind == "csv":
        write_csv(path, images.astype(float if images.dtype.kind == "f" else int), labels)
    elif kind == "folder":
        write_images(path, images, labels)
    else:
        code = {"u1": 8, "i8": 12, "b1": 8, "f4": 13, "f8": 14, "u2": 12}[images.dtype.str[1:]]
        write_idx(folder / "images", images, code)
        return [folder / "images", write_idx(folder / "labels", np.array(labels))]
    return [path]


def all_images(name: str = "mine") -> np.ndarray:
    return np.concatenate([load_dataset(name, split).images for split in ("train", "test")])


def tree(root: Path, *paths: str, **texts: str) -> Path:
    """Makes files in a folder: images of one grey value each, their number, and texts."""
    number = 0
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            file.mkdir(exist_ok=True)
        elif path.lower().endswith((".png", ".jpg", ".jpeg")) and not file.name.startswith("."):
            number += 1
            output = io.BytesIO()
            Image.fromarray(np.full((2, 2), 99 + number, np.uint8)).save(output, "PNG")
            file.write_bytes(output.getvalue())
        else:
            file.write_bytes(b"x")
    for path, text in texts.items():
        (root / path).write_text(text, encoding="utf-8")
    return root


def held(imported: Imported) -> dict[str, dict[int, str]]:
    """Returns the numbers of the images of each split, with their classes."""
    splits = {"train": imported.num_train, "validation": imported.num_validation, "test": 1}
    found = {}
    for split in (split for split, count in splits.items() if count):
        images, labels = load_dataset("mine", split)
        numbers = (images[:, 0, 0, 0].astype(int) - 99).tolist()
        names = [imported.names[label] for label in labels]
        found[split] = dict(zip(numbers, names, strict=True))
    return found
