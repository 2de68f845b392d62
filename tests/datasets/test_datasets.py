import gzip
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers import make_files, wait_until
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from mnist_jax.datasets import cache, load_dataset, load_splits, prepare, train_validation_split
from mnist_jax.datasets.decode import decode, open_split
from mnist_jax.datasets.mnist_idx import mnist_idx_dataset_builder as builder_module

BUNDLED = Path(builder_module.__file__).parent
PREPARE = "from mnist_jax import load_dataset; print(load_dataset('mnist', 'test').labels.sum())"


@pytest.mark.parametrize(
    ("split", "prefix", "count"), [("train", "train", 60000), ("test", "t10k", 10000)]
)
def test_mnist_is_the_original_in_the_original_order(mnist, split, prefix, count):
    images, labels = mnist[split]
    assert (images.shape, images.dtype) == ((count, 28, 28, 1), np.uint8)
    assert (labels.shape, labels.dtype) == ((count,), np.int32)
    raw_images = gzip.decompress((BUNDLED / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
    raw_labels = gzip.decompress((BUNDLED / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
    assert images.tobytes() == raw_images[16:]
    assert labels.tolist() == list(raw_labels[8:])


def test_bundled_files_have_the_sums_that_tfds_records():
    recorded = (Path(tfds.__file__).parent / "url_checksums" / "mnist.txt").read_text("utf-8")
    sums = {line.split("\t")[3]: line.split("\t")[2] for line in recorded.splitlines()}
    assert sums == builder_module.SHA256


def test_a_damaged_bundled_file_is_refused(tmp_path, monkeypatch):
    name = "t10k-labels-idx1-ubyte.gz"
    damaged = bytearray((BUNDLED / name).read_bytes())
    damaged[1000] ^= 1
    (tmp_path / name).write_bytes(damaged)
    monkeypatch.setattr(builder_module, "__file__", str(tmp_path / "builder.py"))
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        builder_module.read_idx(name, 8)


@given(st.integers(2, 500), st.floats(0.05, 0.95), st.integers(0, 2**32 - 1))
def test_validation_examples_are_those_of_scikit_learn(num_examples, fraction, seed):
    train, validation = train_validation_split(num_examples, fraction, seed)
    if len(train):  # scikit-learn refuses an empty part
        expected = train_test_split(np.arange(num_examples), test_size=fraction, random_state=seed)
        np.testing.assert_array_equal(train, expected[0])
        np.testing.assert_array_equal(validation, expected[1])


def test_reference_split_is_48000_12000_10000(mnist):
    splits, names = load_splits("mnist", "train", "test", validation_fraction=0.2, split_seed=42)
    assert names == tuple("0123456789")
    train, validation = train_test_split(np.arange(60000), test_size=0.2, random_state=42)
    sizes = {name: len(split.labels) for name, split in splits.items()}
    assert sizes == {"train": 48000, "validation": 12000, "test": 10000}
    np.testing.assert_array_equal(splits["train"].images, mnist["train"].images[train])
    np.testing.assert_array_equal(splits["validation"].labels, mnist["train"].labels[validation])


def test_a_prepared_dataset_is_one_of_tfds_and_has_its_slices(mnist):
    data_dir = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    builder: Any = tfds.builder_from_directory(Path(data_dir, "mnist_idx/1.0.0").expanduser())
    source = builder.as_data_source("test")
    assert (len(source), source[7]["label"]) == (10000, mnist["test"].labels[7])
    assert builder.info.features["label"].num_classes == 10
    assert "LeCun" in builder.info.citation
    images, labels = load_dataset("mnist", "train[100:350]")  # a slice
    np.testing.assert_array_equal(images, mnist["train"].images[100:350])
    np.testing.assert_array_equal(labels, mnist["train"].labels[100:350])


def test_preparing_keeps_the_arrays_that_the_dataset_holds(mnist, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    prepared = prepare.prepared_dir("mnist", tmp_path / "data")
    for name, (split, first) in {"test": ("test", 0), "train[57000:]": ("train", 57000)}.items():
        kept: Any = cache.load(prepared, split)
        source = open_split(prepared, "mnist", name)
        for found, held in zip(zip(*decode(source)[1], strict=True), kept[:2], strict=True):
            np.testing.assert_array_equal(np.concatenate(found), held[first:])
        for expected, held in zip(mnist[split], kept[:2], strict=True):
            np.testing.assert_array_equal(expected, held)
        assert kept.label_names == source.label_names == tuple("0123456789")

    shutil.rmtree(tmp_path / "cache")
    (records,) = prepared.glob("*-test.array_record-*")
    content = bytearray(records.read_bytes())
    content[len(content) // 2] ^= 1
    records.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read: .*; delete .*mnist_idx/1.0.0"):
        load_dataset("mnist", "test", data_dir=tmp_path / "data")


def start_preparing(data_dir: Path, home: Path, code: str = PREPARE) -> subprocess.Popen[str]:
    env = os.environ | {"TFDS_DATA_DIR": str(data_dir), "XDG_CACHE_HOME": str(home)}
    args, pipe = [sys.executable, "-c", code], subprocess.PIPE
    return subprocess.Popen(args, env=env, stdout=pipe, text=True)


@pytest.mark.slow
def test_two_processes_prepare_at_once_and_others_data_is_left_alone(tmp_path, mnist):
    theirs = tmp_path / "data" / "mnist" / "3.0.1" / "dataset_info.json"
    make_files(tmp_path, {"data/mnist/3.0.1/dataset_info.json": "prepared by tfds before"})
    processes = [start_preparing(tmp_path / "data", tmp_path / str(n)) for n in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert outputs == [f"{mnist['test'].labels.sum()}\n"] * 2
    assert theirs.read_text(encoding="utf-8") == "prepared by tfds before"
    assert not list(tmp_path.glob("data/*/incomplete*"))


# Stays before its end.
STUCK = """
import signal, tensorflow_datasets as tfds
tfds.core.DatasetInfo.write_to_directory = lambda *_: signal.pause()
"""


@pytest.mark.slow
def test_a_kill_while_preparing_does_no_harm(tmp_path, mnist, monkeypatch):
    victim = start_preparing(tmp_path / "data", tmp_path / "cache", STUCK + PREPARE)
    try:
        wait_until(lambda: list(tmp_path.glob("data/mnist_idx/incomplete*/*")), [victim])
    finally:
        victim.kill()
        victim.communicate()
    assert not (tmp_path / "data" / "mnist_idx" / "1.0.0").exists()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    test = load_dataset("mnist", "test", data_dir=tmp_path / "data")
    assert test.labels.tolist() == mnist["test"].labels.tolist()
    assert not list(tmp_path.glob("data/*/incomplete*"))


class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Another dataset: three images [2, 3] of one brightness each."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path: Any = Path(__file__).parent
    step = 1

    def _info(self):
        picture = tfds.features.Tensor(shape=(2, 3), dtype=np.uint8)
        digit = tfds.features.ClassLabel(num_classes=3)
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"picture": picture, "digit": digit}),
            supervised_keys=("picture", "digit"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(3):
            yield i, {"picture": np.full((2, 3), self.step * i, np.uint8), "digit": i}


def prepare_tiny(data_dir: Path) -> None:
    Tiny(data_dir=data_dir, file_format="array_record").download_and_prepare()


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Path:
    """A data directory with the dataset `tiny`, and an empty cache directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    prepare_tiny(tmp_path / "data")
    return tmp_path / "data"


def values(tiny: Path) -> list[int]:
    return load_dataset("tiny", "train", data_dir=tiny).images[:, 1, 2, 0].tolist()


def test_decoded_arrays_are_kept_until_dataset_or_cache_changes(tiny, tmp_path, monkeypatch):
    assert values(tiny) == [0, 1, 2]
    with monkeypatch.context() as patch:  # the second time nothing is decoded
        patch.setattr(tfds, "builder_from_directory", None)
        assert values(tiny) == [0, 1, 2]
    (kept,) = tmp_path.glob("cache/mnist_jax/arrays/*")
    content = bytearray(kept.read_bytes())
    content[content.index(bytes([1] * 6))] ^= 1
    kept.write_bytes(content)
    assert values(tiny) == [0, 1, 2]
    kept.rename(kept.with_suffix(".npz"))  # of an earlier version
    assert values(tiny) == [0, 1, 2]
    assert [*kept.parent.iterdir()] == [kept]
    monkeypatch.setattr(Tiny, "step", 10)
    shutil.rmtree(tiny / "tiny")
    prepare_tiny(tiny)
    assert values(tiny) == [0, 10, 20]


def test_an_unwritable_cache_is_no_error(tiny, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    assert load_dataset("tiny", "train", data_dir=tiny).labels.tolist() == [0, 1, 2]
    assert cache.load(tiny / "tiny" / "1.0.0", "train") is None


@pytest.mark.parametrize("labels", [[0.0, 0.9, 1.8], [[0], [1], [2]]])
def test_labels_that_are_not_one_integer_each_are_refused(labels, tiny, monkeypatch):
    source = [{"picture": np.zeros((2, 3), np.uint8), "digit": np.asarray(x)} for x in labels]
    builder = type(tfds.builder_from_directory(tiny / "tiny" / "1.0.0"))
    monkeypatch.setattr(builder, "as_data_source", lambda *_: source)
    with pytest.raises(ValueError, match="one integer label per image"):
        load_dataset("tiny", "train", data_dir=tiny)


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_a_damaged_dataset_is_named_with_the_remedy(file, tiny):
    (tiny / "tiny" / "1.0.0" / file).write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"cannot be read: .*; delete .*tiny/1.0.0"):
        load_dataset("tiny", "train", data_dir=tiny)


@pytest.mark.parametrize("name", ["fashion_mnist", "no_such_dataset"])
def test_a_dataset_that_cannot_be_prepared_is_one_clear_line(tmp_path, name):
    with pytest.raises(ValueError, match=f"no dataset '{name}' in .*pip install tensorflow"):
        load_dataset(name, "train", data_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_misspelt_dataset_is_answered_with_the_prepared_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)  # no TensorFlow
    (tmp_path / "letters" / "1.0.0").mkdir(parents=True)
    (tmp_path / "letters" / "1.0.0" / "dataset_info.json").touch()
    for known in ("letters", "letters:1.0.0", "mnist", "mnist_idx"):
        prepare.check_dataset_name(known, tmp_path)
    for name, meant in {"leters": "letters", "MNIST": "mnist"}.items():
        with pytest.raises(ValueError, match=rf"mean {meant}\?\) in .* one of letters, mnist\."):
            prepare.check_dataset_name(name, tmp_path)
