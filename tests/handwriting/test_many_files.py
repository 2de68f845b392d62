"""`predict` for folders, and for files of many images with or without labels."""

import csv
import json
import math
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import contents
from PIL import Image

from mnist_jax import load_dataset, load_network
from mnist_jax.cli.main import main
from mnist_jax.datasets.importing.unlabelled import holds_rows, read_unlabelled
from mnist_jax.datasets.info import DataInfo
from mnist_jax.handwriting.files import find_images, predict_each
from mnist_jax.network import Network

PIXELS = [f"pixel{i}" for i in range(784)]
DIGITS, LABELS = (np.asarray(part) for part in load_dataset("mnist", "test[:40]"))
FLAT = DIGITS.reshape(40, 784)


@pytest.fixture(scope="module")
def network(small_run) -> Network:
    return load_network(small_run[0])


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def table(rows: Any, names: Sequence[str] = ()) -> Path:
    lines = [",".join(map(str, row)) + "\n" for row in [*([names] if names else []), *rows]]
    Path("x.csv").write_text("".join(lines), encoding="utf-8")
    return Path("x.csv")


def array(values: np.ndarray) -> Path:
    np.save("x.npy", values)
    return Path("x.npy")


def arrays(**values: Any) -> Path:
    np.savez("x.npz", **values)
    return Path("x.npz")


def idx_file(values: np.ndarray) -> Path:
    path = Path("t10k-images-idx3-ubyte")
    path.write_bytes(struct.pack(">HBB3I", 0, 8, 3, *values.shape) + values.tobytes())
    return path


SHUFFLED = np.random.default_rng(0).permutation(784)
SOURCES: dict[str, Callable[[], Path]] = {
    "Kaggle's test.csv": lambda: table(FLAT, PIXELS),
    "Kaggle's train.csv": lambda: table(np.c_[LABELS, FLAT], ["label", *PIXELS]),
    "label last": lambda: table(np.c_[FLAT, LABELS], [*PIXELS, "digit"]),
    "labels as pandas merges": lambda: table(
        [[*row, f"{label}.0"] for row, label in zip(FLAT, LABELS, strict=True)], [*PIXELS, "Class"]
    ),
    "ids": lambda: table(np.c_[range(1, 41), FLAT], ["id", *PIXELS]),
    "ids and labels": lambda: table(np.c_[range(1, 41), LABELS, FLAT], ["", "y", *PIXELS]),
    "columns in another order": lambda: table(FLAT[:, SHUFFLED], [PIXELS[i] for i in SHUFFLED]),
    "rows and columns": lambda: table(FLAT, [f"{i}x{j}" for i in range(28) for j in range(28)]),
    "counted columns": lambda: table(FLAT, [*map(str, range(784))]),
    "no header": lambda: table(FLAT),
    "no header, labels": lambda: table(np.c_[LABELS, FLAT]),
    "fractions": lambda: table(FLAT / 255, PIXELS),
    "npy": lambda: array(DIGITS),
    "npy, flat": lambda: array(FLAT),
    "npy, bits of 16": lambda: array(FLAT.astype(np.uint16) * 257),
    "npy by columns": lambda: array(np.asfortranarray(FLAT)),
    "npz": lambda: arrays(x=DIGITS[..., 0], y=LABELS),
    "npz, fractions": lambda: arrays(images=DIGITS / np.float32(255)),
    "npz, an unnamed array": lambda: arrays(arr_0=FLAT),
    "npz, a training part too": lambda: arrays(x_train=DIGITS[:3], x_test=DIGITS, y_test=LABELS),
    "idx": lambda: idx_file(DIGITS[..., 0]),
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_rows_of_a_file_get_the_answers_of_the_array(network, name):
    notes: list[str] = []
    answers = [*predict_each(network, [SOURCES[name]()], note=notes.append)]
    expected = network.predict(DIGITS)
    assert [answer.label for answer in answers] == [str(c) for c in expected.classes]
    probabilities = [answer.probability for answer in answers]
    np.testing.assert_allclose(probabilities, expected.probabilities.max(axis=1), rtol=1e-3)
    assert [answer.row for answer in answers] == [str(number) for number in range(1, 41)]
    accuracy = np.mean(expected.classes == LABELS)
    labelled = any(word in name.lower() for word in ("label", "train.csv", "train", "npz"))
    if labelled and name not in ("npz, fractions", "npz, an unnamed array"):
        assert f"{accuracy:.2%} right of 40 images with a label" in notes[-1]
    else:
        assert not any("right of" in note for note in notes)


def test_rows_unlike_the_dataset_get_one_warning(network):
    path = array(np.tile(255 - FLAT, (100, 1)))
    with pytest.warns(UserWarning, match="invert them") as warned:
        answers = [*predict_each(network, [path])]
    assert [answer.row for answer in answers] == [str(number) for number in range(1, 4001)]
    assert len(warned) == 1


NOTES = {
    "fractions": "x.csv: pixels of 0 to 1 became 0 to 255",
    "npy, bits of 16": "x.npy: pixels of 0 to 65535 became 0 to 255",
    "label last": "x.csv: the label is the column 'digit' (785)",
    "no header, labels": "x.csv: the label is the column 1",
    "npz, a training part too": "x.npz: x_test is used, not x_train",
    "Kaggle's test.csv": "",
}


@pytest.mark.parametrize("name", NOTES)
def test_the_label_column_and_scaling_of_a_file_are_reported(name):
    assert "\n".join(read_unlabelled(SOURCES[name](), (28, 28, 1)).notes) == NOTES[name]


def test_black_and_white_can_be_given(network):
    path = array(DIGITS / 127.5 - 1)
    (refused,) = predict_each(network, [path])
    assert "has a pixel of -1.0" in refused.problem
    answers = predict_each(network, [path], pixel_range=(-1, 1))
    assert [a.label for a in answers] == [str(c) for c in network.predict(DIGITS).classes]


BAD: dict[str, tuple[Callable[[], Path], str]] = {
    "a pixel less": (lambda: table(FLAT[:, 1:], PIXELS[1:]), "has 783 columns; expected the 784"),
    "two more": (lambda: table(np.c_[FLAT, FLAT[:, :2]]), "has 786 columns; expected the 784"),
    "a short row": (lambda: table([*FLAT[:3], FLAT[0, :9]], PIXELS), "line 5: it has 9 columns"),
    "a word": (lambda: table([FLAT[0], ["x", *FLAT[0, 1:]]], PIXELS), "line 3: the pixel 'x' is"),
    "nan": (lambda: table([[math.nan] * 784], PIXELS), "image 1 of x.csv has a pixel of nan"),
    "only a header": (lambda: table([], PIXELS), "holds no images"),
    "empty": (lambda: table([]), "is empty; expected rows of pixels"),
    "channels first": (lambda: array(FLAT.reshape(-1, 1, 28, 28)), "np.moveaxis(images, 1, -1)"),
    "other size": (lambda: array(np.zeros((5, 32, 32))), "scale them to 28x28"),
    "objects": (lambda: array(np.array([{}, {}])), "holds Python objects, which are not read"),
    "complex": (lambda: array(np.zeros((2, 784), complex)), "real numbers, found complex"),
    "two arrays": (lambda: arrays(a=FLAT, b=FLAT), "must hold one array of images: x_test"),
    "labels of others": (lambda: arrays(x=FLAT, y=LABELS[:9]), "40 images, and labels of [9]"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_invalid_file_of_rows_is_one_answer(network, name):
    make, message = BAD[name]
    (answer,) = predict_each(network, [make()])
    assert (answer.failed, answer.label) == (True, None)
    assert message in answer.problem
    assert "\n" not in answer.problem


def test_colours_lie_side_by_side_in_rows_of_pixels():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8)
    rows = read_unlabelled(table(images.reshape(3, -1)), (4, 5, 3))
    np.testing.assert_array_equal(np.concatenate([some for some, _, _ in rows.blocks()]), images)


def pictures(folder: str, *numbers: int) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(DIGITS[number, ..., 0]).save(f"{folder}/image{number}.PNG")


def test_folders_are_read_in_natural_order_and_other_files_reported():
    pictures("d", 10, 2)
    pictures("d/b2", 3)
    pictures("d/b10", 4)
    pictures("d/.hidden", 5)
    for name in ("notes.txt", "image2.PNG.seen.png", "phone.HEIC", ".image7.png", "b2/x.csv"):
        Path("d", name).write_text("", encoding="utf-8")
    os.mkfifo("d/pipe.png")
    Path("d/link").symlink_to("b2")
    files, left_out = find_images([Path("one.png"), Path("d")])
    inside = ("b2/image3.PNG", "b10/image4.PNG", "image2.PNG", "image10.PNG", "phone.HEIC")
    assert files == [Path("one.png"), *(Path("d", name) for name in inside)]
    others = ("b2/x.csv", "image2.PNG.seen.png", "link", "notes.txt", "pipe.png")
    assert sorted(left_out) == [f"d/{name}" for name in others]
    Path("empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no image files; expected PNG"):
        find_images([Path("empty")])


@pytest.fixture
def predict(small_run, capsys) -> Callable[..., tuple[int, list[str], str]]:
    """Runs the command `predict`; returns its exit code, lines and errors."""

    def run(*args: str) -> tuple[int, list[str], str]:
        code = main(["predict", "--workdir", str(small_run[0]), *args])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return run


def test_a_bad_file_costs_only_its_own_line_and_the_exit_code(predict):
    pictures("d", 0, 1, 2)
    Path("d/image1.PNG").write_bytes(b"x")
    Path("d/a.txt").write_bytes(b"x")
    code, lines, _ = predict("d", "missing.png")
    assert code == 4
    begins = (
        "1 left out, not images by their names: d/a.txt",
        "d/image0.PNG: 7 (",
        "d/image1.PNG: no answer: is not a readable image; expected",
        "d/image2.PNG: 1 (",
        "missing.png: no answer: does not exist; expected an image file",
    )
    assert all(line.startswith(begin) for line, begin in zip(lines, begins, strict=True))
    code, text, _ = predict("d", "--json")
    assert [found["failed"] for found in json.loads("\n".join(text))] == [False, True, False]
    assert code == 4
    assert predict("d/image0.PNG")[0] == 0
    code, _, err = predict("d/a.txt", "missing.png")
    assert (code, err) == (2, "error: none of the 2 files can be read\n")


def test_answers_are_written_in_kaggle_format(predict, network):
    table(FLAT, PIXELS)
    code, lines, _ = predict("x.csv", "--output", "answers.csv")
    assert (code, lines[0], lines[1][:5]) == (0, "answers.csv: 40 answers", "next:")
    lines = Path("answers.csv").read_text(encoding="utf-8").splitlines()
    classes = network.predict(DIGITS).classes
    assert lines == ["ImageId,Label", *(f"{i},{c}" for i, c in enumerate(classes, 1))]


def test_answers_for_files_are_written_with_their_probabilities(predict, network):
    pictures("d, e", 0)
    Path("bad.png").write_bytes(b"x")
    array(DIGITS[:2])
    code, lines, _ = predict("d, e", "bad.png", "x.npy", "--output", "answers.csv")
    assert (code, lines[-2]) == (4, "answers.csv: 3 answers")
    assert lines[0].startswith("bad.png: no answer: ")
    with Path("answers.csv").open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    files = ["d, e/image0.PNG", "bad.png", "x.npy: image 1", "x.npy: image 2"]
    assert [row["file"] for row in rows] == files
    assert [row["label"] for row in rows] == ["7", "", "7", "2"]
    assert rows[1]["problem"].startswith("is not a readable image")
    probability = float(network.predict(DIGITS[:1]).probabilities.max())
    assert float(rows[2]["probability"]) == pytest.approx(probability)


REFUSED = {
    "x.csv --output x.csv": "--output would replace x.csv, one of the images",
    "x.csv --output answers.npz": "--output must end in .csv for the given files, got answers.npz",
    "x.csv --output no/a.csv": "--output: there is no directory no",
    "missing.csv --output answers.csv": "missing.csv does not exist; expected an image file",
}


@pytest.mark.parametrize("args", REFUSED)
def test_an_invalid_output_is_refused_and_nothing_is_written(predict, args):
    table(FLAT[:2], PIXELS)
    before = contents(Path())
    code, _, err = predict(*args.split())
    assert code == 2
    assert REFUSED[args] in err
    assert contents(Path()) == before


def test_many_images_are_classified_some_at_a_time():
    sizes = []

    def apply(_: Any, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sizes.append(len(batch))
        return np.full((len(batch), 2), 0.5), np.zeros(len(batch), int)

    network = Network(apply, {}, DataInfo((4, 4, 1), ("a", "b")), 100)
    path = array(np.zeros((300_000, 4, 4), np.uint8))
    assert holds_rows(path)
    assert sum(1 for _ in predict_each(network, [path])) == 300_000
    assert max(sizes) == 100
