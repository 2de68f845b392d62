"""Classification of image files, in words."""

import csv
import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from mnist_jax.datasets.image_files import FORMATS, image_suffixes, read_image
from mnist_jax.datasets.importing.sources.part import natural
from mnist_jax.datasets.importing.unlabelled import Rows, holds_rows, read_unlabelled
from mnist_jax.datasets.info import DataInfo
from mnist_jax.handwriting.drawing import Drawing, prepare_drawing, prepare_picture, side_by_side
from mnist_jax.messages import one_line
from mnist_jax.network import Network
from mnist_jax.workdir.files import atomic_file

AT_ONCE = 128  # image files per batch
SEEN = ".seen.png"  # suffix of the files of `show`
UNSURE = 0.5  # probability below which an answer is doubtful


class FilePrediction(NamedTuple):
    """A network's answer for an image file."""

    image: str  # the file
    label: str | None  # the likeliest class, if any
    probability: float  # the label's
    runner_up: str | None  # the second likeliest class
    runner_up_probability: float  # the runner-up's
    problem: str  # reason to doubt the answer, if any
    failed: bool = False  # True if the file is unreadable
    row: str = ""  # id in a file of many images: a number from 1, or a name

    def __str__(self) -> str:
        if self.label is None:
            return f"{self.image}: no answer: {self.problem}"
        first = f"{self.image}: {self.label} ({self.probability:.1%})"
        second = f"{self.runner_up} ({self.runner_up_probability:.1%})"
        return f"{first}, or {second}" + (f"; but {self.problem}" if self.problem else "")


def predict_files(
    network: Network, paths: Sequence[str | Path], *, show: bool = False
) -> list[FilePrediction]:
    """Classifies image files, each prepared like the network's training images.

    For networks trained on light drawings on black, such as MNIST, `prepare_drawing` finds the
    drawing. For others, images are only scaled and made grey or coloured.

    Args:
        network: trained network, from `load_network`.
        paths: image files of any size.
        show: True to write FILE.seen.png beside each file: the image and the network's input.

    Returns:
        A prediction per file, in order. An unreadable file has `failed` and a `problem`.

    Raises ValueError unless the network's images have 1 or 3 channels.
    """
    return [*_predict_images(network, [*map(Path, paths)], show)]


def predict_each(
    network: Network,
    paths: Iterable[Path],
    *,
    show: bool = False,
    pixel_range: tuple[float, float] | None = None,
    note: Callable[[str], object] = lambda _: None,
) -> Iterator[FilePrediction]:
    """Classifies image files like `predict_files`, and files of many images.

    The latter are .csv, .npy, .npz and IDX files for `read_unlabelled`, with `pixel_range`; `note`
    is called with lines about them. Yields a prediction per image or unreadable file, in order.
    """
    for many, group in itertools.groupby(paths, holds_rows):
        if not many:
            yield from _predict_images(network, group, show)
            continue
        for path in group:
            try:
                rows = read_unlabelled(path, network.info.image_shape, pixel_range)
                for line in rows.notes:
                    note(line)
                yield from _predict_rows(network, path, rows, note)
            except (OSError, ValueError) as error:
                yield _failed(path, error)


def _predict_images(
    network: Network, paths: Iterable[Path], show: bool
) -> Iterator[FilePrediction]:
    rest = iter(paths)
    while batch := [*itertools.islice(rest, AT_ONCE)]:
        drawings: list[Drawing | Exception] = []
        for path in batch:
            try:
                picture = read_image(path, network.info.ground)
            except (OSError, ValueError) as error:
                drawings.append(error)
                continue
            drawing = prepare(picture, network.info)
            drawings.append(drawing)
            if show:
                with atomic_file(Path(f"{path}{SEEN}")) as file:
                    side_by_side(picture, drawing.pixels).save(file, "PNG")
        given = [drawing.pixels for drawing in drawings if isinstance(drawing, Drawing)]
        arrays = np.array(given, np.uint8).reshape(-1, *network.info.image_shape)
        answers = zip(*network.predict(arrays, check=False), strict=True)
        for path, drawing in zip(batch, drawings, strict=True):
            if isinstance(drawing, Exception):
                yield _failed(path, drawing)
            else:
                fields = interpret(drawing, *next(answers), network.info.label_names)
                yield FilePrediction(str(path), **fields)


def _predict_rows(
    network: Network, path: Path, rows: Rows, note: Callable[[str], object]
) -> Iterator[FilePrediction]:
    names, right, count = network.info.label_names, 0, 0
    for block, (images, ids, labels) in enumerate(rows.blocks()):
        probabilities, classes = network.predict(images, check=block == 0)  # one warning is enough
        for image, row, answer, first in zip(images, ids, probabilities, classes, strict=True):
            problem = "" if np.ptp(image) else "all its pixels are equal"
            fields = interpret(Drawing(image, problem), answer, first, names)
            yield FilePrediction(f"{path}: image {row}", **fields, row=row)
        right += sum(names[first] == label for first, label in zip(classes, labels, strict=False))
        count += len(labels)
    if count:
        note(f"{path}: {right / count:.2%} right of {count:,} images with a label")


def _failed(path: Path, error: Exception) -> FilePrediction:
    reason = one_line(getattr(error, "strerror", None) or error).removeprefix(f"{path} ")
    return FilePrediction(str(path), None, 0.0, None, 0.0, reason, failed=True)


def find_images(paths: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """Replaces folders by all image files in them, in natural order (image2 before image10).

    Also returns the other files. Raises ValueError if a folder holds no image files.
    """
    files: list[Path] = []
    left_out: list[str] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        found, suffixes = list[Path](), image_suffixes()
        walk = os.walk(path, onerror=lambda error: left_out.append(str(error.filename)))
        for folder, folders, names in walk:
            folders[:] = [name for name in folders if not name.startswith(".")]
            links = [name for name in folders if Path(folder, name).is_symlink()]
            for file in (Path(folder, name) for name in (*names, *links) if name[0] != "."):
                is_named = file.name.lower().endswith(suffixes) and not file.name.endswith(SEEN)
                if is_named and file.is_file():
                    found.append(file)
                else:
                    left_out.append(str(file))
        if not found:
            raise ValueError(f"{path} holds no image files; expected {', '.join(FORMATS)}")
        files += sorted(found, key=lambda file: [natural(part) for part in file.parts])
    return files, left_out


def write_answers(
    file: BinaryIO, answers: Iterable[FilePrediction], *, only_rows: bool
) -> tuple[int, list[str]]:
    """Writes answers as CSV into an open file; returns their number, and the failed files.

    With `only_rows`, for a single file of many images, the columns are Kaggle's ImageId and Label;
    otherwise the file and the fields up to the problem.
    """
    count, failed = 0, []
    text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("ImageId", "Label") if only_rows else ("file", *FilePrediction._fields[1:6]))
    for answer in answers:
        writer.writerow((answer.row, answer.label) if only_rows else answer[:6])
        count += not answer.failed
        if answer.failed:
            failed.append(answer.image)
    text.detach()  # the file stays open
    return count, failed


def prepare(picture: Image.Image, info: DataInfo) -> Drawing:
    """Prepares a picture of mode "L" or "RGB" like a network's training images.

    Raises ValueError unless they have 1 or 3 channels.
    """
    if info.drawing_box:
        return prepare_drawing(picture, info.image_shape, info.drawing_box)
    return Drawing(prepare_picture(picture, info.image_shape))


def interpret(
    drawing: Drawing, probabilities: np.ndarray, first: int, label_names: tuple[str, ...]
) -> dict[str, Any]:
    """Puts a network's output into words: the fields of `FilePrediction` from label to problem.

    `probabilities`, float [num_classes], are for a drawing from `prepare`; `first` is the likeliest
    class.
    """
    values = None, 0.0, None, 0.0, drawing.problem
    if not drawing.blank:
        second = next(c for c in np.argsort(-probabilities, kind="stable") if c != first)
        best, next_best = float(probabilities[first]), float(probabilities[second])
        problem = drawing.problem or ("the network is not sure" if best < UNSURE else "")
        values = label_names[first], best, label_names[second], next_best, problem
    return dict(zip(FilePrediction._fields[1:6], values, strict=True))
