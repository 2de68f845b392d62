"""A user's own arrays, batches and builders as the splits of a training."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from mnist_jax import evaluate, report, train
from mnist_jax.config import Config, ModelConfig
from mnist_jax.datasets import load_splits
from mnist_jax.datasets.arrays import Split, as_bytes, as_parts
from mnist_jax.datasets.importing.builder import create_builder
from mnist_jax.datasets.streamed import StreamedImages
from mnist_jax.laboratory.population import population
from mnist_jax.laboratory.verify import verify
from mnist_jax.program import compile_program
from mnist_jax.steps import to_float

FRACTION = {"validation_fraction": 0.25, "split_seed": 0}
RECIPE = {"dataset": "none", "train_split": "train", "test_split": "test", **FRACTION}


def drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws images of every brightness, whose brightest row gives one of four classes."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    images = draw.integers(0, 256, (count, 8, 6, 1)).astype(np.uint8)
    images[np.arange(count), labels] = 255
    return images, labels


X, Y = drawn(20)


class Loader:
    """Batches that can be read repeatedly, like a DataLoader's."""

    def __init__(self, images: Any, labels: Any, size: int = 7, kind: Any = tuple):
        self.batches = [
            kind((images[first : first + size], labels[first : first + size]))
            for first in range(0, len(labels), size)
        ]

    def __iter__(self):
        return iter(self.batches)


def as_dict(pair: Any) -> dict[str, Any]:
    return dict(zip(("image", "label"), pair, strict=True))


FORMS: dict[str, Any] = {
    "a pair": lambda x, y: (x, y),
    "a Split": Split,
    "lists": lambda x, y: [x.tolist(), y.tolist()],
    "JAX arrays": lambda x, y: (jnp.asarray(x), jnp.asarray(y)),
    "a dict": lambda x, y: {"image": x, "label": y},
    "float labels": lambda x, y: (x, y.astype(np.float64)),
    "a column of labels": lambda x, y: (x, y[:, None]),
    "no axis of channels": lambda x, y: (x[..., 0], y),
    "a loader": Loader,
    "a list of dicts": lambda x, y: Loader(x, y, kind=as_dict).batches,
    "a list of two lists": lambda x, y: Loader(x, y, size=10, kind=list).batches,
    "a tuple of one pair": lambda x, y: (*Loader(x, y, size=20).batches,),
}


@pytest.mark.parametrize("form", FORMS)
def test_arrays_and_batches_of_any_form_are_the_same_data(form):
    found = as_parts({"train": FORMS[form](X, Y)})["train"]
    np.testing.assert_array_equal(found.images[np.arange(20)], X)
    assert (found.images.dtype, found.images.shape) == (np.uint8, X.shape)
    np.testing.assert_array_equal(found.labels, Y)
    assert found.labels.dtype == np.int32
    streams = "loader" in form or "list of" in form or "of one pair" in form
    assert isinstance(found.images, StreamedImages) == streams


INTEGERS = (np.uint8, np.int16, np.uint16, np.int32, np.int64)
FLOATS = (np.float16, np.float32, np.float64, jnp.bfloat16)


@settings(max_examples=60, deadline=None)
@given(
    np_st.arrays(np.uint8, st.tuples(st.integers(1, 9), *[st.integers(1, 6)] * 2, st.just(1))),
    st.sampled_from([*INTEGERS, *FLOATS]),
    st.booleans(),
)
def test_pixels_keep_their_values_in_every_type(pixels, dtype, is_streamed):
    labels = np.arange(len(pixels))
    is_whole = dtype in INTEGERS
    given = pixels.astype(dtype) if is_whole else (pixels / np.float64(255)).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of dark images
        data = Loader(given, labels, size=4) if is_streamed else (given, labels)
        found = as_parts({"train": data})["train"].images
    found = found[np.arange(len(pixels))]
    assert found.dtype == (np.uint8 if is_whole else np.float32)
    np.testing.assert_array_equal(found, given.astype(found.dtype))
    if dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(as_bytes(found), pixels)
        np.testing.assert_allclose(to_float(jnp.asarray(found)), to_float(pixels), rtol=1e-6)


def test_black_and_white_become_0_and_255():
    found = as_parts({"train": (X > 100, Y)})["train"].images
    np.testing.assert_array_equal(found, np.where(X > 100, 255, 0))


LINE = r"^splits[^\n]*"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X.astype(float), Y), "floats 0 to 1, got float64 0.0 to 255.0; divide them by 255$"),
        ((X.astype(np.uint16) * 257, Y), "got uint16 0 to 65535; divide them by 65535$"),
        ((X / -255, Y), "got float64 -1.0 to -0.0$"),
        ((np.where(X > 9, X / 255, np.nan), Y), "got float64 nan to nan$"),
        ((np.moveaxis(X, -1, 1), Y), r"channels first; use np.moveaxis\(images, 1, -1\)$"),
        ((X.reshape(20, 48), Y), r"\[N, H, W, C\] or \[N, H, W\], got \[20, 48\]$"),
        ((X[:0], Y[:0]), r"got \[0, 8, 6, 1\]$"),
        (([X[0], X[1, :4]], [0, 1]), "images must be an array of one size"),
        ((X, Y[:-1]), r"whole numbers, \[20\] like the images, got int64 \[19\]$"),
        ((X, np.eye(4)[Y]), r"float64 \[20, 4\]; convert one-hot labels by .argmax\(axis=1\)$"),
        ((X, Y + 0.5), "train: labels must be whole numbers"),
        ((X, np.where(Y, Y, np.inf)), "got 1.0 to inf$"),
        ((X, [[1], [1, 2]] * 10), "train: setting an array element with a sequence"),
        ((X, Y - 1), r"0 or more, and below 2\*\*31, got -1 to 2$"),
        ((X, Y, Y), "train: expected .images, labels. or an iterable of batches, got tuple of nd"),
        (X, r"or an iterable of batches, got ndarray \[20, 8, 6, 1\]$"),
        ("mnist", "or an iterable of batches, got str mnist$"),
        ({"images": X, "labels": Y}, "got dict of 'images', 'labels'$"),
        ([1, 2, 3], "train: a batch must be .* got int 1$"),
        ([*zip(X, Y, strict=True)], "give batches of examples$"),
        ([(X, Y), (X / 255, Y)], "and type, got uint8 .* and float32"),
        ([(X, Y), (X[:, 2:], Y)], r"one shape .* got uint8 \[8, 6, 1\] and uint8 \[6, 6, 1\]$"),
        ([], "train: the iterable has no batches$"),
        (iter([(X, Y)]), "can be read only once, but resuming and verifying read it again"),
        (((x, y) for x, y in [(X, Y)]), "train: generator .* can be read only once"),
    ],
)
def test_invalid_data_are_refused_in_one_line(data, message, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ValueError, match=LINE + message):
        as_parts({"train": data})
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ((X, Y), 'must be {"train": .images, labels., ...} .* got tuple of ndarray, ndarray'),
        ({"test": (X, Y)}, 'must have "train", optionally'),
        ({"train": (X, Y), "val": (X, Y)}, r"got \['train', 'val'\]$"),
        ({"train": (X, Y), "test": (X / 255, Y)}, "uint8 .* in train and float32 .* in test"),
        ({"train": (X, Y), "test": (X[:, 2:], Y)}, r"and uint8 \[6, 6, 1\] in test$"),
    ],
)
def test_splits_that_do_not_belong_together_are_refused(splits, message):
    with pytest.raises(ValueError, match=LINE + message):
        as_parts(splits)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X >> 4, Y), "almost black: their maximum is 15, but white is 255; scale them"),
        (Loader(X / 255 / 255, Y), "almost black: their maximum is 0.0039, but white is 1"),
        ((X, Y + 1), "label 0 does not occur in train; if classes are numbered from 1, subtract 1"),
    ],
)
def test_suspicious_data_are_warned_of(data, message):
    with pytest.warns(UserWarning, match=message):
        as_parts({"train": data})


def test_batches_on_a_full_disk_are_refused_and_leave_nothing(small_disk, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    large = Loader(np.zeros((12, 1000, 1000), np.uint8), np.arange(12), size=2)
    message = f"train: {small_disk} is too full for the images; set TMPDIR"
    with pytest.raises(ValueError, match=message):
        as_parts({"train": large})
    assert [*small_disk.iterdir()] == []


def test_validation_is_drawn_from_train_and_a_test_may_be_missing():
    splits, names = load_splits(**RECIPE, own={"train": (X, Y)})
    sizes = {name: len(split.labels) for name, split in splits.items()}
    assert (sizes, names) == ({"train": 15, "validation": 5}, (*"0123",))
    streamed, _ = load_splits(**RECIPE, own=lambda: {"train": Loader(X, Y)})
    for name, split in splits.items():
        np.testing.assert_array_equal(streamed[name].images[np.arange(5)], split.images[:5])
        np.testing.assert_array_equal(streamed[name].labels, split.labels)


def builder_of(data_dir: Path, splits: Sequence[str]) -> Any:
    """Creates a tfds builder of ten images in each split."""
    examples = {name: (10, zip(*drawn(10, seed), strict=True)) for seed, name in enumerate(splits)}
    names = ["none", "one", "two", "three"]
    return create_builder("drawn", "1.0.0", data_dir, examples, (8, 6, 1), names, {})


@pytest.mark.parametrize("loader", ["memory", "stream"])
def test_a_builder_gives_the_splits_and_names_that_it_has(tmp_path, monkeypatch, loader):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for own, expected in (
        (("train",), {"train": 7, "validation": 3}),
        (("train", "validation"), {"train": 10, "validation": 10}),
        (("train", "test"), {"train": 7, "validation": 3, "test": 10}),
    ):
        builder = builder_of(tmp_path / "-".join(own), own)
        with pytest.raises(ValueError, match=r"has not prepared .* download_and_prepare"):
            load_splits(**RECIPE, own=builder)
        builder.download_and_prepare()
        splits, names = load_splits(**RECIPE, loader=loader, own=builder)
        assert {name: len(split.labels) for name, split in splits.items()} == expected
        assert names == ("none", "one", "two", "three")
        assert isinstance(splits["train"].images, StreamedImages) == (loader == "stream")


CONFIG = Config(
    epochs=2,
    batch_size=16,
    chunk_steps=2,
    model=ModelConfig(features=4, hidden_size=16, dropout_rate=0.0),
)
BOTH: Any = {"train": drawn(80), "test": drawn(30, seed=1)}


@pytest.fixture(scope="module")
def of_arrays(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("arrays") / "run"
    return workdir, train(CONFIG, workdir, splits=BOTH)


@pytest.mark.parametrize("streamed", [("train",), ("test",), ("train", "test")])
def test_streamed_batches_have_the_bits_of_arrays(of_arrays, tmp_path, streamed):
    splits: Any = {name: Loader(*x) if name in streamed else x for name, x in BOTH.items()}
    run = train(CONFIG, tmp_path, splits=splits)
    for name in ("params_sha256", "data_sha256", "test_loss", "val_accuracy"):
        assert run.result[name] == of_arrays[1].result[name]
    for name in ("validation", "test"):
        found = evaluate(tmp_path, name, splits=splits)
        assert found == evaluate(of_arrays[0], name, splits=BOTH)
    assert verify(tmp_path, splits=splits) == []
    with pytest.raises(ValueError, match="splits must be arrays in a population"):
        population(CONFIG, tmp_path / "many", seeds=2, splits=splits)
    assert not (tmp_path / "many" / "config.json").exists()


@pytest.mark.parametrize("kind", [tuple, Loader])
def test_floats_train_and_are_reported_as_the_bytes_that_they_stand_for(of_arrays, tmp_path, kind):
    floats = {name: (x / np.float32(255), y) for name, (x, y) in BOTH.items()}
    splits: Any = {n: data if kind is tuple else kind(*data) for n, data in floats.items()}
    run, expected = train(CONFIG, tmp_path, splits=splits), of_arrays[1]
    assert run.history[-1]["val_loss"] == pytest.approx(expected.history[-1]["val_loss"], rel=1e-4)
    assert run.result["test_loss"] == pytest.approx(expected.result["test_loss"], rel=1e-4)
    assert evaluate(tmp_path, splits=splits)["loss"] == run.result["test_loss"]
    assert report(tmp_path, splits=splits).path.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("images", "error"),
    [
        (X.astype(np.float64) / 255, None),
        (jnp.asarray(X, jnp.bfloat16) / 255, None),
        (X.astype(np.float32), r"float32 must be in \[0, 1\], got 0.0 to 255.0"),
        (np.full(X.shape, np.nan, np.float32), r"must be in \[0, 1\], got nan to nan"),
        (X.astype(np.int32), "must be uint8, or float in .0, 1., got int32"),
        (X > 9, "must be uint8, or float in .0, 1., got bool"),
    ],
)
def test_a_step_takes_floats_as_they_are_and_refuses_what_is_out_of_range(images, error):
    if error:
        with pytest.raises(ValueError, match=error):
            to_float(images)
        return
    np.testing.assert_array_equal(to_float(images), np.asarray(images, np.float32))
    np.testing.assert_array_equal(jax.jit(to_float)(images), np.asarray(images, np.float32))


class Flat(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return nn.Dense(4)(images.reshape(len(images), -1))


def compiled(splits: Any, **options: Any) -> Any:
    layout = {"seed": 0, "batch_size": 8, "chunk_steps": 1}
    return compile_program(Flat(), optax.sgd(0.1), splits, **layout, **options)


def test_a_program_of_images_without_channels_trains_as_with_them():
    sums = []
    for images in (X, X[..., 0], (X / 255).astype(np.float32)):
        program = compiled({"train": (images, Y), "validation": (images, Y)})
        chunk = next(program.train_chunks(0, 1))
        sums.append(float(program.run_chunk(program.state, chunk, 1.0)[1]["loss_sum"][0]))
    assert sums[0] == sums[1] == pytest.approx(sums[2], rel=1e-6)


@pytest.mark.parametrize(
    ("train_split", "options", "message"),
    [
        ((X, np.arange(20) % 5), {}, "a label of train is 4, but there are 4 classes: labels"),
        ((X.astype(float), Y), {}, "splits: train: images must be integers 0 to 255"),
        ((X, Y), {"precision": "fp16"}, "precision must be one of float32, tensorfloat32, bfl"),
    ],
)
def test_a_program_checks_what_the_command_line_checks(train_split, options, message):
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        compiled({"train": train_split, "validation": (X, Y)}, **options)
    with pytest.raises(ValueError, match=r"must have .train. and .validation."):
        compiled({"train": (X, Y)})
