"""Folders like those of torchvision, Kaggle, Hugging Face, fastai and ImageNet."""

import itertools
from typing import Any

import numpy as np
import pytest
from imports import held, tree

from mnist_jax.datasets import load_splits
from mnist_jax.datasets.importing import describe, import_dataset

pytestmark = pytest.mark.usefixtures("data_dir")


THREE = {
    "train": {1: "cat", 2: "dog"},
    "validation": {3: "cat", 4: "dog"},
    "test": {5: "cat", 6: "dog"},
}
SIX = [f"{part}/{name}/0.png" for part in ("train", "val", "test") for name in ("cat", "dog")]
# Folders for the parts, as people name them.
NAMES = [
    ("train", "val", "test"),
    ("TRAIN", "Valid", "Testing"),
    ("training", "validation", "eval"),
    ("trn", "dev", "tst"),
    ("train_images", "val_images", "test_images"),
    ("seg_train/seg_train", "seg_val/seg_val", "seg_test/seg_test"),
    ("dataset/data/train", "dataset/data/val", "dataset/data/test"),
    ("x/TrainSet", "x/valset", "x/t10k"),
]


@pytest.mark.parametrize("names", NAMES, ids=" ".join)
def test_folders_of_three_parts_are_found_by_every_usual_name(names, tmp_path):
    paths = [f"{part}/{name}/0.png" for part in names for name in ("cat", "dog")]
    assert held(import_dataset("mine", [tree(tmp_path / "in", *paths)])) == THREE


@pytest.mark.parametrize("inner", ["", "images/"])
def test_parts_given_one_by_one_are_those_of_their_names(inner, tmp_path):
    root = tree(tmp_path / "in", *(path.replace("0.png", f"{inner}0.png") for path in SIX))
    imported = import_dataset("mine", [root / "test", root / "train", root / "val"])
    assert held(imported) == THREE
    assert "2 training, 2 validation, 2 test images of" in describe(imported)[1]


def test_a_test_part_is_cut_from_train_where_there_is_only_validation(tmp_path):
    paths = [f"{x}/{y}/{n}.png" for x in ("train", "val") for y in ("cat", "dog") for n in range(4)]
    found = held(import_dataset("mine", [tree(tmp_path / "in", *paths)], test_fraction=0.25))
    assert sorted(found["validation"]) == [*range(9, 17)]
    assert (len(found["train"]), len(found["test"])) == (6, 2)
    assert sorted(found["train"] | found["test"]) == [*range(1, 9)]


@pytest.mark.parametrize("loader", ["memory", "stream"])
def test_a_validation_part_is_used_as_it_is_and_nothing_is_taken_from_train(loader, tmp_path):
    import_dataset("mine", [tree(tmp_path / "in", *SIX)])

    def numbers(train, test):
        splits, names = load_splits("mine", train, test, 0.5, 0, loader)
        assert names == ("cat", "dog")
        images = {name: x.images[np.arange(len(x.labels))] for name, x in splits.items()}
        return {name: (x[:, 0, 0, 0].astype(int) - 99).tolist() for name, x in images.items()}

    expected = {"train": [1, 2], "validation": [3, 4], "test": [5, 6]}
    assert numbers("train", "test") == expected
    for train, test in (("train+validation", "test"), ("train", "validation")):
        used = [*itertools.chain(*numbers(train, test).values())]
        assert len({*used}) == len(used)  # none is in two of them


def both(path: str, text: str) -> dict[str, str]:
    return {path.format(part): text for part in ("train", "test")}


JSON = '{"file_name": "1.png", "label": "cat", "objects": {"bbox": [1]}}\n'
JSON += JSON.replace("1.png", "2.png").replace("cat", "dog")
# Two images of each part; in both parts of the same names, or not.
ALIKE = ["train/1.png", "train/2.png", "test/1.png", "test/2.png"]
APART = ["train/1.png", "train/2.png", "test/3.png", "test/4.png"]
TABLES: dict[str, tuple[list[str], dict[str, str]]] = {
    "Hugging Face, one table": (
        ALIKE,
        {
            "metadata.csv": "file_name,label\ntrain/1.png,cat\ntrain/2.png,dog\ntest/1.png,cat\n"
            "test/2.png,dog\n"
        },
    ),
    "Hugging Face, one a part": (
        ALIKE,
        both("{}/metadata.csv", "file_name,label\n1.png,cat\n2.png,dog\n"),
    ),
    "Hugging Face, JSON": (ALIKE, both("{}/metadata.jsonl", JSON)),
    "Kaggle, suffixes left out": (
        ["train/a1.png", "train/a2.png", "test/b1.png", "test/b2.png"],
        {
            "labels.csv": "id,class\na1,cat\na2,dog\nb1,cat\nb2,dog\n",
            "sample_submission.csv": "id,class\nb1,cat\nb2,cat\n",
        },
    ),
    "GTSRB": (
        ["Train/cat/1.png", "Train/dog/2.png", "Test/1.png", "Test/2.png", "Meta/0.png"],
        {"Test.csv": "Width,ClassId,Path\n2,cat,Test/1.png\n2,dog,Test/2.png\n"},
    ),
    "captions of several lines, and numbers in another column": (
        APART,
        {
            "metadata.csv": 'id,text,label,image_path\n1,"a\n\u2028b",cat,train/1.png\n'
            '5,"c, d",dog,train/2.png\n6,,cat,test/3.png\n7,,dog,test/4.png\n'
        },
    ),
    "CIFAR-10 of Kaggle, with numbers that begin again": (
        ALIKE,
        dict.fromkeys(["trainLabels.csv", "test_labels.csv"], "id,label\n1,cat\n2,dog\n"),
    ),
    "text, separated by spaces": (
        APART,
        {"labels.txt": "./train/1.png cat\ntrain\\2.png dog\ntest/3.png cat\ntest/4.png dog\n"},
    ),
    "a semicolon, a byte-order mark and numbers": (
        APART,
        {"labels.csv": "\ufeffimage;label\r\n1;cat\r\n2;dog\r\n3;cat\r\n4;dog\r\n"},
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_gives_flat_folders_their_labels(name, tmp_path):
    paths, tables = TABLES[name]
    imported = import_dataset("mine", [tree(tmp_path / "in", *paths, **tables)])
    assert held(imported) == {"train": {1: "cat", 2: "dog"}, "test": {3: "cat", 4: "dog"}}
    table = next(iter(tables))
    assert f"{tmp_path}/in/{table}, column " in imported.source.labels
    assert not any(line.startswith(f"{tmp_path}/in/{table}") for line in imported.source.ignored)


def test_tiny_imagenet_is_read(tmp_path):
    paths = [f"train/{name}/images/{n}.JPEG" for name in ("cat", "dog") for n in range(2)]
    paths += ["val/images/5.JPEG", "val/images/6.JPEG", "test/images/7.JPEG", "train/cat/boxes.txt"]
    table = "5.JPEG\tcat\t0\t0\t9\t9\n6.JPEG\tdog\t0\t0\t9\t9\n"
    root = tree(tmp_path / "in", *paths, **{"val/val_annotations.txt": table})
    imported = import_dataset("mine", [root])
    found = held(imported)
    assert found["validation"] == {5: "cat", 6: "dog"}
    assert found["train"] | found["test"] == {1: "cat", 2: "cat", 3: "dog", 4: "dog"}
    assert f"{root}/test (no labels)" in imported.source.ignored


def test_a_table_labels_a_folder_that_has_no_parts(tmp_path):
    paths = [f"images/{n}.png" for n in range(6)]
    table = "id_code,diagnosis\n" + "".join(f"{n},{n % 2}\n" for n in range(5)) + "77,1\n"
    root = tree(tmp_path / "in", *paths, **{"train.csv": table})
    imported = import_dataset("mine", [root])
    found = held(imported)
    assert found["train"] | found["test"] == {n + 1: str(n % 2) for n in range(5)}
    ignored = ["images/5.png (no label)", "train.csv (1 rows without an image)"]
    assert imported.source.ignored == [f"{root}/{name}" for name in ignored]


# Folders that tell no labels, or not clearly; a part of the message; and tables in the folder.
REFUSED: dict[str, tuple[Any, ...]] = {
    "flat parts": (
        "train/1.jpg train/2.jpg test/3.jpg",
        "in/train holds images such as 1.jpg, but neither folders of classes nor a table",
    ),
    "classes in names": ("5_001.png 3_002.png", "holds images such as 3_002.png, but neither"),
    "fastai's names": ("images/cat_1.jpg images/Dog_2.jpg", "put the images of each class"),
    "YOLO": ("train/images/1.jpg train/labels/1.txt", "in/train/images holds images such as"),
    "a submission": (
        "train/1.jpg train/2.jpg",
        "nor a table",
        {"sample_submission.csv": "id,label\n1,0\n"},
    ),
    "two tables": (
        "train/1.jpg train/2.jpg",
        "a.csv, column label and ",
        {"a.csv": "id,label\n1,0\n2,1\n", "b.csv": "id,label\n1,1\n2,0\n"},
    ),
    "two labels": ("1.jpg 2.jpg", "two labels, '0' and '1'", {"a.csv": "id,label\n1,0\n1,1\n"}),
    "two columns": ("1.jpg", "the label: class, target", {"a.csv": "id,class,target\n1,0,1\n"}),
    "several classes an image": (
        "1.jpg",
        "expected one class",
        {"metadata.jsonl": '{"file_name": "1.jpg", "label": ["a", "b"]}'},
    ),
    "no training part": ("test/a/1.png val/a/1.png", "but no folder to train on"),
    "alphabets": (
        " ".join(f"{x}/{y}/1.png" for x in ("Greek", "Latin") for y in ("a", "b")),
        "import a deeper folder, such as ",
    ),
    "masks": ("images/1.png masks/1.png", "no folders of classes, but images, masks; "),
    "parts in a column": (
        "images/1.png images/2.png",
        "gives the parts in the column 'split', which is not read",
        {"a.csv": "file,label,split\n1.png,0,train\n2.png,1,test\n"},
    ),
    "a class in two spellings": (
        " ".join(f"{part}/1.png" for part in ("train/Cat", "train/Dog", "val/Cat", "val/dog")),
        "'dog' of the validation part has no training image, but 'Dog' has",
    ),
    "a name in two parts": (
        "train/1.png train/2.png test/1.png test/3.png",
        "names '1', which is in two parts; name the files by their paths, or the table by its part",
        {"labels.csv": "id,label\n1,cat\n2,dog\n3,dog\n"},
    ),
    "HEIC": ("a/1.png b/1.heic", "in/b/1.heic is not a readable image"),
    "images and folders": ("a/1.png a/b/1.png c/1.png", "in/a/b is a folder inside a"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_folders_without_labels_are_refused_in_one_line(name, tmp_path):
    paths, message, *tables = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        import_dataset("mine", [tree(tmp_path / "in", *paths.split(), **dict(*tables))])
    assert "\n" not in str(caught.value)


def test_files_that_systems_leave_behind_are_left_out(tmp_path):
    junk = ["__MACOSX/cat/._1.png", "cat/._1.png", "cat/.DS_Store", ".DS_Store", "cat/Thumbs.db"]
    junk += ["dog/desktop.ini", ".ipynb_checkpoints/1.png", "dog/.ipynb_checkpoints/1.png"]
    junk += ["empty/", "README.md", "LICENSE", "sheet.png"]
    root = tree(tmp_path / "in", "cat/1.png", "dog/2.png", *junk)
    imported = import_dataset("mine", [root], test_fraction=0.5)
    assert imported.names == ["cat", "dog"]
    ignored = [
        *("LICENSE", "README.md", "__MACOSX (no images)", "empty (no images)", "sheet.png"),
        *("cat/Thumbs.db", "dog/desktop.ini"),
    ]
    assert imported.source.ignored == [f"{root}/{name}" for name in ignored]


def test_a_test_folder_without_labels_is_left_out_and_reported(tmp_path):
    paths = [f"train/{name}/{n}.png" for name in ("cat", "dog") for n in range(3)]
    root = tree(tmp_path / "in", *paths, "test/1.png", "test/2.png", "models/x.pkl")
    imported = import_dataset("mine", [root])
    assert f"{root}/test (no labels)" in imported.source.ignored
    assert imported.num_train + imported.num_test == 6


def test_a_preview_beside_the_classes_of_a_part_is_left_out(tmp_path):
    paths = [f"{part}/{x}/0.png" for part in ("train", "test") for x in ("cat", "dog")]
    paths += ["train/preview.png", "extra/1.png", "test_sheets/1.png", "test_boxes/1.xml"]
    root = tree(tmp_path / "in", *paths)
    imported = import_dataset("mine", [root])
    assert held(imported)["train"] == {1: "cat", 2: "dog"}
    ignored = ("test_boxes (no images)", "extra", "test_sheets", "train/preview.png")
    assert imported.source.ignored == [f"{root}/{name}" for name in ignored]


def test_train_is_a_class_beside_other_vehicles(tmp_path):
    root = tree(tmp_path / "in", "car/1.png", "plane/2.png", "train/3.png")
    assert import_dataset("mine", [root]).names == ["car", "plane", "train"]
