"""Import of a user's own images as a tfds dataset: all are checked before any is written."""

import contextlib
import hashlib
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mnist_jax.datasets import prepare, train_validation_split
from mnist_jax.datasets.importing.builder import create_builder
from mnist_jax.datasets.importing.class_names import class_name
from mnist_jax.datasets.importing.sheet import MOST, draw_sheet
from mnist_jax.datasets.importing.sources import open_source
from mnist_jax.datasets.importing.sources.part import (
    MAX_CHANNELS,
    MAX_VALUES,
    Part,
    Shape,
    Source,
    some,
)
from mnist_jax.datasets.importing.survey import Survey, progress, survey_parts, surveyed

SHEET = "first_images.png"  # beside tfds's files
FEW = 10  # images of a part; fewer may be bright or dark by chance


class Imported(NamedTuple):
    """The dataset that was written."""

    path: Path  # directory of its version, in tfds's data directory
    num_train: int
    num_test: int
    shape: Shape  # of an image
    names: list[str]  # of the classes, label 0's first
    only_in_test: list[str]  # those without a training image
    num_seen: int  # test images with the pixels of a training image
    pixel_range: tuple[float, float]  # the values that became 0 and 255
    source: Source
    num_validation: int
    spellings: Sequence[list[str]]  # of each class that has several
    largest: float  # the source's largest pixel
    counts: Mapping[str, list[int]]  # by split: images per class
    firsts: Mapping[str, np.ndarray]  # by class, of the first few: its first image, uint8


class Selection(NamedTuple):
    """The n of a part's N examples that become a split."""

    part: Part
    keep: np.ndarray  # bool [N]
    labels: np.ndarray  # int32 [n]
    # Filled in while writing.
    hashes: np.ndarray  # the images', uint64 [n]
    means: np.ndarray  # their pixels', float [n]


def import_dataset(
    name: str,
    sources: Sequence[str | Path],
    *,
    size: tuple[int, int] | None = None,
    channels: Literal[1, 3] | None = None,
    pixel_range: tuple[float, float] | None = None,
    label_column: str | None = None,
    part: str | None = None,
    transpose: bool = False,
    test_fraction: float = 0.2,
    seed: int = 0,
    skip_unreadable: bool = False,
    overwrite: bool = False,
    data_dir: str | Path | None = None,
) -> Imported:
    """Makes a tfds dataset from images and labels in files, without TensorFlow.

    A class's label is its position among all classes: integers by value, other names as people sort
    them. Black is 0, white the smallest of 1, 15, 16, 255, 1023, 4095 and 65535 that no pixel
    exceeds.

    Args:
        name: the dataset's name, in lower_case.
        sources: IDX files, .npz and .npy files, or a folder of them; a .csv file; a folder with a
            folder of images for each class; or several of these with "train", "validation" and
            "test" in their names. Readers in `datasets.importing.sources` describe their contents.
        size: height and width of the images, and of rows of pixels; None for their own.
        channels: 1 for grey, 3 for colour; None for the images' own, or colour if mixed.
        pixel_range: the values of black and white.
        label_column: name or number (from 1) of the label's column in a .csv file; None to find it.
        part: the dataset to take from IDX files of several, such as EMNIST's "letters".
        transpose: True to swap rows and columns, as EMNIST's images need.
        test_fraction: fraction of the training part for the test part, rounded up, if the source
            has none. A validation part stays unchanged.
        seed: seed of that draw by `train_validation_split`. Examples keep their order.
        skip_unreadable: True to leave out unreadable image files; otherwise they are an error.
        overwrite: True to replace an imported dataset of this name by a new version.
        data_dir: tfds's data directory; None for $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Returns:
        A record of the dataset, for `describe`.

    Raises FileNotFoundError if a source does not exist; ValueError if a source or an option is
    invalid, or the dataset cannot be written; OSError if a source cannot be read. Errors leave
    nothing in the data directory.
    """
    if size and not (min(size) >= 1 and math.prod(size) * MAX_CHANNELS <= MAX_VALUES):
        raise ValueError(f"size must be a height and a width of 1 or more, not huge, got {size}")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels}")
    low, high = pixel_range or (0, 1)
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(f"pixel_range must be two numbers, the lower first, got {pixel_range}")
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must be between 0 and 1, got {test_fraction}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be from 0 to 2**32 - 1, got {seed}")
    if not re.fullmatch("[a-z][a-z0-9_]{0,99}", name):
        raise ValueError(
            "the name of a dataset must be a letter and up to 99 more of a to z, 0 to 9 and _, got "
            f"{name!r:.120}"
        )
    if name in prepare.ALIASES or prepare.is_own(name) or name == "downloads":
        raise ValueError(f"{name!r} is reserved; choose another name for the dataset")
    root = prepare.data_root(data_dir)
    prepare.imported_versions(root / name, overwrite)
    paths = [Path(path).expanduser() for path in sources]
    source = open_source(paths, size, label_column, part, transpose)
    survey = survey_parts(source.parts, size, channels, pixel_range, skip_unreadable)
    unreadable = [line for part in source.parts.values() for line in part.unreadable]
    _check_classes(survey)
    splits = _split(source.parts, survey.labels, test_fraction, seed)
    names = survey.label_names
    firsts: dict[int, np.ndarray] = {}
    examples = {
        split: (len(chosen.labels), _examples(chosen, survey, firsts))
        for split, chosen in splits.items()
    }
    metadata = {"made_by": prepare.MADE_BY, "sources": [*map(str, sources)]}
    with prepare.locked(root, name):
        # Another process may have been faster.
        old, version = prepare.imported_versions(root / name, overwrite)
        builder = create_builder(name, version, root, examples, survey.shape, names, metadata)
        path = prepare.write(builder)
        for version in old:  # renamed first, because half deleted it would look complete
            shutil.rmtree(version.rename(version.with_name(f"incomplete.{version.name}")))
        shown = {names[label]: firsts[label] for label in sorted(firsts)}
        with contextlib.suppress(OSError):  # optional
            draw_sheet(shown).save(path / SHEET)
    counts = {
        split: np.bincount(chosen.labels, minlength=len(names)).tolist()
        for split, chosen in splits.items()
    }
    return Imported(
        path,
        sum(counts["train"]),
        sum(counts["test"]),
        survey.shape,
        names,
        [name for name, train in zip(names, counts["train"], strict=True) if not train],
        int(np.isin(splits["test"].hashes, splits["train"].hashes).sum()),
        survey.pixel_range or (0, 255),
        source._replace(
            ignored=[*unreadable, *source.ignored], notes=[*source.notes, *_doubts(splits)]
        ),
        sum(counts.get("validation", ())),
        survey.spellings,
        survey.largest,
        counts,
        shown,
    )


def describe(imported: Imported) -> list[str]:
    """Describes an imported dataset, in lines to print."""
    (low, high), source, count = imported.pixel_range, imported.source, imported.num_validation
    validation = f"{count:,} validation, " if count else ""
    train, test = (
        dict(zip(imported.names, imported.counts[split], strict=True))
        for split in ("train", "test")
    )
    by_class = [f"{name} ({count:,})" for name, count in train.items()]
    if len(train) > 12:
        few, many = min(train, key=train.__getitem__), max(train, key=train.__getitem__)
        by_class = [f"from {train[few]:,} of {few} to {train[many]:,} of {many}"]
    lines = [
        f"{source.kind}; labels from {source.labels}",
        f"{imported.num_train:,} training, {validation}{imported.num_test:,} test images of "
        f"{list(imported.shape)}",
        f"{len(imported.names):,} classes: {some(imported.names)}",
        f"training images by class: {', '.join(by_class)}",
    ]
    if absent := [name for name, count in test.items() if not count]:
        lines.append(f"classes without a test image: {some(absent)}")
    if (imported.path / SHEET).exists():
        lines.append(f"the first image of each class: {imported.path / SHEET}")
    lines += source.notes
    if imported.spellings:
        written = [" = ".join(map(repr, ways)) for ways in imported.spellings]
        lines.append(f"classes spelled in several ways: {some(written)}")
    became = "were kept" if (low, high) == (0, 255) else "became 0 to 255"
    lines.append(f"pixels of {low:g} to {high:g} {became}")
    if imported.largest - low < (high - low) / 2:
        lines.append(
            f"the images are dark: the largest pixel is {imported.largest:.4g} of {high:g}; "
            f"--pixel-range {low:g} {imported.largest:.4g} makes it white"
        )
    if imported.only_in_test:
        lines.append(f"classes without a training image: {some(imported.only_in_test)}")
    if imported.num_seen:
        lines.append(f"{imported.num_seen:,} test images are also training images; remove them")
    if source.ignored:
        lines.append(f"{len(source.ignored):,} ignored: {some(source.ignored)}")
    lines.append(f"written to {imported.path}")
    return lines


def _doubts(splits: Mapping[str, Selection]) -> Iterator[str]:
    """Yields lines about oddities of a dataset."""
    hashes = np.concatenate([split.hashes for split in splits.values()])
    labels = np.concatenate([split.labels for split in splits.values()])
    pairs = np.unique(np.stack([hashes, labels.astype(np.uint64)], axis=1), axis=0)
    if count := int((np.unique(pairs[:, 0], return_counts=True)[1] > 1).sum()):
        yield f"repeated images with different labels: {count:,}; some labels are wrong"
    own = splits["train"].means
    low, high = np.quantile(own, [0.01, 0.99])
    for title, split in splits.items():
        mean = float(np.median(split.means))
        if len(split.means) >= FEW and not low <= mean <= high:
            yield (
                f"the {title} images have a mean pixel of {mean:.0f}, the training images "
                f"{np.median(own):.0f}: is one part inverted or scaled differently?"
            )


def _check_classes(survey: Survey) -> None:
    """Raises ValueError if a part shares no class with training, or spells one differently."""
    names = {
        part: [survey.label_names[label] for label in np.unique(labels)]
        for part, labels in survey.labels.items()
    }
    trained = names.get("train", [])
    by_letters = {name.casefold(): name for name in trained}
    for part in names if trained else ():
        for name in set(names[part]).difference(trained):
            if alike := by_letters.get(name.casefold()):
                raise ValueError(
                    f"the class {name!r} of the {part} part has no training image, but {alike!r} "
                    "has; spell classes alike in all parts"
                )
        if not set(names[part]).intersection(trained):
            raise ValueError(
                f"none of the {part} part's classes ({some(names[part])}) is among those of the "
                f"training part ({some(trained)}); give the parts of one dataset"
            )


def _split(
    parts: Mapping[str, Part], labels: Mapping[str, np.ndarray], test_fraction: float, seed: int
) -> dict[str, Selection]:
    keeps = {title: (title, np.ones(len(labels[title]), bool)) for title in parts}
    if not {"train", "test"} <= {*parts}:
        title = "train" if "train" in parts else next(iter(parts))
        _, is_all = keeps.pop(title)
        is_test = ~is_all
        is_test[train_validation_split(len(is_test), test_fraction, seed)[1]] = True
        if is_test.all() or not is_test.any():
            given = f"{len(is_test)} images and a test_fraction of {test_fraction}"
            raise ValueError(f"{given} leave none to train on")
        keeps |= {"train": (title, ~is_test), "test": (title, is_test)}
    return {
        split: Selection(
            parts[title],
            keep,
            labels[title][keep],
            np.zeros(keep.sum(), np.uint64),
            np.zeros(keep.sum()),
        )
        for split, (title, keep) in keeps.items()
    }


def _examples(
    split: Selection, survey: Survey, firsts: dict[int, np.ndarray]
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields examples to write, and records their hashes, means and first images."""
    index = 0
    for images, names in progress(split.part.blocks(split.keep), "writing"):
        labels = split.labels[index : index + len(names)]
        if [survey.label_names[label] for label in labels] != [*map(class_name, names)]:
            raise ValueError(f"{split.part.where(index)} changed while it was imported")
        images = surveyed(images, survey, split.part)
        split.means[index : index + len(images)] = images.mean(axis=(1, 2, 3))
        for image, label in zip(images, labels.tolist(), strict=True):
            digest = hashlib.blake2b(image, digest_size=8).digest()
            split.hashes[index] = int.from_bytes(digest, "little")
            if label < MOST:
                firsts.setdefault(label, image)
            index += 1
            yield image, label
    if index != len(split.labels):
        raise ValueError(f"{split.part.where(index)} disappeared while it was imported")
