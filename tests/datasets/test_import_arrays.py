"""IDX and NumPy files in their usual forms: read with the right values, or refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imports import (
    all_images,
    assert_holds,
    import_arrays,
    split_rows,
    write_csv,
    write_idx,
    write_images,
    write_source,
)

from mnist_jax.datasets import load_dataset
from mnist_jax.datasets.importing import Imported, describe, import_dataset

pytestmark = pytest.mark.usefixtures("data_dir")

PARTS = [(part, kind) for part in ("train", "test") for kind in ("imgs", "labels")]
X = np.arange(12 * 5 * 4).reshape(12, 5, 4).astype(np.uint8)
Y = np.arange(12) % 3
WHOLE = split_rows(X, Y, slice(8), slice(8, None))
NAMES = [f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
USUAL = {f"{name}-ubyte": values for name, values in zip(NAMES, WHOLE.values(), strict=True)}


def imported_from(*sources: Path, **options: Any) -> Imported:
    return import_dataset("mine", sources, overwrite=True, pixel_range=(0, 255), **options)


def write_all(folder: Path, arrays: Any = USUAL, form: str = "{}", **options: Any) -> Path:
    for name, values in arrays.items():
        path = folder / form.format(name, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_idx(path, values, packed=path.name.endswith(".gz"), **options)
    return folder


IDX_TREES = {
    "torchvision's, plain and packed": ("{}", "{}.gz"),
    "torchvision's folder around": ("raw/{}", "raw/{}.gz"),
    "torchvision's root": ("MNIST/raw/{}",),
    "EMNIST's folder in the archive": ("gzip/{}.gz",),
    "Kaggle's folders alone": ("{}/{}",),
    "Kaggle's packed in folders": ("{}/{}.gz",),
}


@pytest.mark.parametrize("forms", IDX_TREES.values(), ids=IDX_TREES)
def test_idx_files_are_found_where_archives_have_them(forms, tmp_path):
    for form in forms:
        write_all(tmp_path / "in", form=form)
    imported = imported_from(tmp_path / "in")
    assert_holds(imported, WHOLE)
    assert len(imported.source.ignored) == 4 * (len(forms) - 1)


@pytest.mark.parametrize("how", ["the folder", "all that is in it"])
@pytest.mark.parametrize("form", ["{}/{}", "{}.gz"])
def test_the_plain_file_outside_is_the_one_that_is_read(form, how, tmp_path):
    """The copies hold other pixels, to show which file is read."""
    folder = write_all(tmp_path / "in", {name: values * 0 for name, values in USUAL.items()}, form)
    write_all(folder, {name.replace("-idx", ".idx"): values for name, values in USUAL.items()})
    if form == "{}.gz":
        write_all(folder)
        for name in USUAL:
            (folder / name.replace("-idx", ".idx")).unlink()
    paths = [folder] if how == "the folder" else sorted(folder.iterdir())
    imported = imported_from(*paths)
    assert_holds(imported, WHOLE)
    assert len(imported.source.ignored) == 4


def test_files_beside_folders_that_hold_the_others_are_read_with_them(tmp_path):
    for name, values in USUAL.items():
        write_all(tmp_path / "in", {name: values}, "{}/{}" if "images" in name else "{}")
    imported = imported_from(tmp_path / "in")
    assert_holds(imported, WHOLE)
    assert imported.source.ignored == []


QMNIST = np.stack([Y, Y * 0 + 1, Y + 100, Y, Y + 30, Y + 1000, Y * 0, Y * 0], 1)


@pytest.mark.parametrize(
    ("name", "labels", "kind", "text"),
    [
        ("qmnist-labels-idx2-int", QMNIST, 12, "the files of labels, their first column, as in Q"),
        ("labels-idx2-int", QMNIST, 12, "the files of labels, their first column, as in QMNIST"),
        ("qmnist-labels-idx2-int", QMNIST[:, :4], 8, "the files of labels, their first column, as"),
        ("labels-idx2-ubyte", np.eye(3)[Y], 8, "the files of labels, the column of each row's 1"),
        ("labels-idx2-ubyte", Y[:, None], 8, "the files of labels"),
    ],
)
def test_labels_of_several_columns_are_read_as_intended(name, labels, kind, text, tmp_path):
    for part, rows in (("train", slice(8)), ("test", slice(8, None))):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", X[rows])
        write_idx(tmp_path / f"{part}-{name}", labels[rows], kind)
    imported = imported_from(*sorted(tmp_path.glob("t*")))
    assert_holds(imported, WHOLE)
    assert imported.source.labels.startswith(text)


@pytest.fixture
def emnist(tmp_path: Path) -> Path:
    """Provides letters with a mapping and digits without, transposed like EMNIST's images."""
    for name, first in (("letters", 1), ("digits", 0)):
        arrays = {
            f"emnist-{name}-{key}.gz": values.swapaxes(1, 2) if values.ndim == 3 else values + first
            for key, values in USUAL.items()
        }
        write_all(tmp_path / "gzip", arrays)
    (tmp_path / "gzip/emnist-letters-mapping.txt").write_text("1 65 97\n2 66 98\n3 67 99\n")
    return tmp_path / "gzip"


HINT = "EMNIST's own files hold their images transposed: --transpose turns them upright"


@pytest.mark.parametrize(("part", "names"), [("letters", "ABC"), ("emnist-digits", "012")])
def test_a_part_of_emnist_is_chosen_named_and_turned_upright(part, names, emnist):
    expected = WHOLE | {y: np.array([*names])[WHOLE[y]] for y in ("y_train", "y_test")}
    imported = imported_from(emnist, part=part, transpose=True)
    assert_holds(imported, expected)
    assert HINT not in describe(imported)
    mapped = ", named by emnist-letters-mapping.txt" if part == "letters" else ""
    assert imported.source.labels == f"the files of labels{mapped}"
    as_it_is = imported_from(emnist, part=part)
    assert as_it_is.shape == (4, 5, 1)
    assert HINT in describe(as_it_is)
    table = write_csv(emnist / "emnist-letters.csv", np.arange(48).reshape(12, 4), Y)
    assert HINT in describe(imported_from(table))


@pytest.mark.parametrize("kind", ["csv", "npz", "folder", "idx"])
def test_images_of_every_source_are_transposed_on_demand(kind, tmp_path):
    paths = write_source(kind, tmp_path, X.swapaxes(1, 2), Y)
    options: dict[str, Any] = {"size": (5, 4)} if kind == "csv" else {}
    imported = imported_from(*paths, transpose=True, test_fraction=0.1, **options)
    assert imported.shape == (5, 4, 1)
    assert "images were transposed" in describe(imported)
    assert {image.tobytes() for image in all_images()} == {image.tobytes() for image in X}


def renamed(*names: str) -> dict[str, np.ndarray]:
    return dict(zip(names, WHOLE.values(), strict=True))


HOT = np.eye(3, dtype=bool)
NPZ: dict[str, dict[str, np.ndarray]] = {
    "MedMNIST": {
        key: values[:, None] if values.ndim == 1 else values
        for key, values in renamed(
            "train_images", "train_labels", "test_images", "test_labels"
        ).items()
    },
    "capitals": renamed("X_train", "Y_TRAIN", "X_Test", "y_Test"),
    "words behind": renamed("images_train", "labels_train", "images_test", "labels_test"),
    "words together": renamed("trainX", "trainY", "testX", "testY"),
    "targets": renamed("train_data", "train_targets", "test_data", "test_targets"),
    "other arrays": WHOLE | {"label_names": np.array(["a"]), "x": X[:1], "classes": Y},
    "a test without labels is left out": WHOLE | {"x_val": X[:2]},
    "columns": {key: np.asfortranarray(values) for key, values in WHOLE.items()},
    "one-hot": WHOLE | {y: HOT.astype("f4")[WHOLE[y]] for y in ("y_train", "y_test")},
    "one-hot columns": WHOLE | {y: np.asfortranarray(HOT[WHOLE[y]]) for y in ("y_train", "y_test")},
}


@pytest.mark.parametrize("arrays", NPZ.values(), ids=NPZ)
def test_arrays_are_found_by_every_usual_name_and_order(arrays, tmp_path):
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)
        imported = imported_from(tmp_path / "x.npz")
        assert_holds(imported, WHOLE)
        ignored = imported.source.ignored
        assert len(ignored) == len(arrays) - 4
        assert all(line.startswith(f"{tmp_path}/x.npz: ") for line in ignored)
        is_one_hot = arrays is NPZ["one-hot"] or arrays is NPZ["one-hot columns"]
        assert is_one_hot == imported.source.labels.endswith(": the column of each row's 1")


@pytest.mark.parametrize("name", ["x_val", "X_valid", "dev_x", "validation_images", "valImages"])
def test_validation_arrays_are_a_part_of_their_own(name, tmp_path):
    labels = name.replace("mages", "").replace("x", "y").replace("X", "y")
    labels = labels.replace("_i", "_labels").replace("I", "Labels")
    np.savez(tmp_path / "x.npz", **WHOLE, **{name: X[3:5], labels: Y[3:5]})
    imported = imported_from(tmp_path / "x.npz")
    assert imported.num_validation == 2
    np.testing.assert_array_equal(load_dataset("mine", "validation").images[..., 0], X[3:5])
    assert_holds(imported, WHOLE)


def test_the_arrays_of_scikit_learn_are_read_as_images(tmp_path):
    np.savez(tmp_path / "x.npz", data=X.reshape(12, -1), images=X, target=Y, frame=np.array(None))
    imported = imported_from(tmp_path / "x.npz")
    assert (imported.shape, len(imported.source.ignored)) == ((5, 4, 1), 2)


def test_the_order_of_colours_in_rows_is_reported(tmp_path):
    for pixels, said in ((16, False), (12, True)):  # grey, and colours
        arrays = {"x": X.reshape(12, -1)[:, :pixels], "y": Y}
        lines = " ".join(describe(import_arrays(tmp_path, arrays)))
        assert ("rows of pixels were read as H, W, C" in lines) == said


PAIRS: dict[str, tuple[list[str], Callable[..., None]]] = {
    "KMNIST": ([f"kmnist-{p}-{x}.npz" for p, x in PARTS], np.savez),
    ".npy": ([f"{key}.npy" for key in WHOLE], np.save),
    ".npy of a dataset": ([f"mnist_{key}.npy" for key in WHOLE], np.save),
    "capitals": ([f"{key.upper()}.NPY" for key in WHOLE], np.save),
}


@pytest.mark.parametrize("how", ["files", "folder"])
@pytest.mark.parametrize(("names", "save"), PAIRS.values(), ids=PAIRS)
def test_a_file_for_each_array_is_read_as_one_file_is(names, save, how, tmp_path):
    (tmp_path / "in").mkdir()
    paths = [tmp_path / "in" / name for name in names]
    for values, path in zip(WHOLE.values(), paths, strict=True):
        with path.open("wb") as file:
            save(file, np.asfortranarray(values))
    assert_holds(imported_from(*(paths if how == "files" else [tmp_path / "in"])), WHOLE)


def test_one_npz_file_for_each_part_is_read(tmp_path):
    for part in ("train", "test"):
        np.savez(tmp_path / f"{part}.npz", x=WHOLE[f"x_{part}"], y=WHOLE[f"y_{part}"])
    assert_holds(imported_from(tmp_path / "train.npz", tmp_path / "test.npz"), WHOLE)


def test_a_folder_of_classes_stays_one_with_arrays_beside_them(tmp_path):
    folder = write_images(tmp_path / "in", X, Y)
    np.save(folder / "labels.npy", Y)
    np.save(folder / "images.npy", X * 0)
    imported = imported_from(folder)
    assert imported.source.kind != "NumPy's files"
    assert (imported.num_train + imported.num_test, imported.largest) == (12, X.max())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "images and labels swapped": ({"x": Y, "y": X}, "y must hold one label per image"),
    "columns swapped": ({"x": Y[:, None], "y": X}, "y must hold one label per image"),
    "colours first": ({"x": X.reshape(12, 1, 5, 4), "y": Y}, "save np.moveaxis(x, 1, -1)"),
    "three colours first": ({"x": np.zeros((12, 3, 9, 7)), "y": Y}, "save np.moveaxis(x, 1, -1)"),
    "the images last": ({"X": np.moveaxis(X, 0, -1), "y": Y}, "x has 5 images, but x.npz: y has 1"),
    "SVHN's colours and images last": (
        {"X": np.zeros((32, 32, 3, 12)), "y": Y[:, None]},
        "its images are along the last axis: save np.moveaxis(x, -1, 0)",
    ),
    "several 1s in a row": ({"x": X, "y": np.ones((12, 3))}, "one-hot rows, found 1.0"),
    "no 1 in a row": ({"x": X, "y": np.eye(12)[:, :7]}, "found 0.0, 0.0, 0.0, 0.0, 0.0"),
    "probabilities": ({"x": X, "y": np.eye(12) * 0.9}, "one-hot rows, found 0.9, 0"),
    "two arrays of images": ({"x": X, "pixels": X, "y": Y}, "both hold the images of all parts"),
    "two arrays of labels": ({"x": X, "y": Y, "target": Y}, "both hold the labels of all parts"),
    "a training part without labels": ({"x_train": X, "x_test": X, "y_test": Y}, "x_train are mis"),
    "labels without images": (WHOLE | {"y_val": Y}, "images of x.npz: y_val are missing"),
    "no names": ({"arr_0": X, "arr_1": Y}, "x.npz must hold x_train, y_train, x_test and y_test"),
    "a whole and a test": ({"x": X, "y": Y, "x_test": X, "y_test": Y}, "names must say whether"),
}


@pytest.mark.parametrize(("arrays", "message"), REFUSED.values(), ids=REFUSED)
def test_ambiguous_arrays_are_refused(arrays, message, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        imported_from(tmp_path / "x.npz")
    text = str(refused.value).replace(f"{tmp_path}/", "")
    assert message.lower() in text.lower()
    assert "\n" not in text


def refusals(folder: Path) -> dict[str, tuple[list[Path], dict[str, Any], str]]:
    twice = write_all(folder / "twice")
    write_idx(twice / "train-images.idx3-ubyte", X)
    hot = write_all(folder / "hot", {"images-idx3-ubyte": X})
    write_idx(hot / "labels-idx2-int", np.eye(8)[Y], 12)
    np.save(folder / "x.npy", X)
    np.savez(folder / "x.npz", x=X, y=Y)
    lone = folder / "x.npy"
    mixed = [folder / f"{key}.npz" for key in ("kmnist-train-imgs", "k49-train-labels")]
    for path, values in zip(mixed, (X, Y), strict=True):
        np.savez(path, values)
    return {
        "two plain files": ([twice], {}, "both hold the images of"),
        "int32 one-hot": ([hot], {}, "must have its labels in the first column like QMNIST"),
        "a part of npz": ([folder / "x.npz"], {"part": "digits"}, "part is for IDX files"),
        "an array alone": ([lone], {}, "must hold x_train, y_train"),
        "files of two datasets": (mixed, {}, "their names begin with 'k49-' and 'kmnist-'"),
        "two wholes": ([folder / "x.npz", lone], {}, "both hold the images of all parts"),
    }


def test_ambiguous_files_are_refused(tmp_path, emnist, subtests):
    (tmp_path / "in").mkdir()
    cases = refusals(tmp_path / "in")
    cases["several datasets"] = [emnist], {}, "choose one with --part digits or letters"
    unknown = "there is no part 'byclass'; expected digits or letters"
    cases["an unknown dataset"] = [emnist], {"part": "byclass"}, unknown
    mixed = write_all(tmp_path / "mixed", {f"emnist-a-{name}": USUAL[name] for name in USUAL})
    for path in mixed.glob("*t10k*"):
        path.rename(path.with_name(path.name.replace("-a-", "-b-")))
    cases["a test of another dataset"] = [mixed], {}, "choose one with --part a or b"
    for name, (sources, options, message) in cases.items():
        with subtests.test(name), pytest.raises(ValueError, match=re.escape(message)):
            imported_from(*sources, **options)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("1 65\n2 66\n", "has no line for the label 3"),
        ("1 65\n2 65\n3 67\n", "has one character for two labels"),
        ("1 A\n", "must have a label and the code of its character in each line"),
        ("1\n", "must have a label and the code of its character in each line"),
    ],
)
def test_a_mapping_that_names_no_class_or_two_is_refused(mapping, message, emnist):
    (emnist / "emnist-letters-mapping.txt").write_text(mapping)
    with pytest.raises(ValueError, match=message):
        imported_from(emnist, part="letters")
