import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import TINY, results, rows, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from mnist_jax import evaluate, predict, train
from mnist_jax.config import replace_fields
from mnist_jax.datasets import cache, load_splits
from mnist_jax.datasets.streamed import StreamedImages
from mnist_jax.loader import prefetch, read_chunk, take_chunk
from mnist_jax.progress import console
from mnist_jax.sharding import create_mesh, split_batch
from mnist_jax.training import Run

STREAM = replace_fields(TINY, {"data.loader": "stream"})


def stored(images: np.ndarray, directory) -> StreamedImages:
    """Streams the images from the cache of a dataset in `directory`."""
    labels = np.arange(len(images), dtype=np.int32)
    cache.save(directory, "train", images.shape, [(images, labels)], ("a", "b"))
    found = cache.load(directory, "train", stream=True)
    assert found is not None
    np.testing.assert_array_equal(found.labels, labels)
    assert found.label_names == ("a", "b")
    return found.images


@settings(max_examples=30, deadline=None)
@given(np_st.arrays(np.uint8, st.tuples(st.integers(1, 9), *[st.integers(1, 4)] * 3)), st.data())
def test_a_streamed_array_is_indexed_like_one_in_memory(tmp_path_factory, images, data):
    directory = tmp_path_factory.mktemp("dataset")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        found = stored(images, directory)
    assert (found.shape, found.dtype, len(found)) == (images.shape, images.dtype, len(images))
    rows = st.integers(-len(images), len(images) - 1)
    index = data.draw(np_st.arrays(np.int32, np_st.array_shapes(max_dims=2), elements=rows))
    np.testing.assert_array_equal(found[index], images[index])
    some = data.draw(np_st.arrays(np.int64, 3, elements=rows))
    np.testing.assert_array_equal(found.take(some)[index % 3], images[some][index % 3])
    np.testing.assert_array_equal(np.concatenate([*found.pieces()]), images)


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 5), st.integers(0, 3))
def test_a_chunk_from_the_host_is_the_one_from_the_device(examples, batch_size, steps, first):
    images = np.arange(examples * 2, dtype=np.uint8).reshape(examples, 1, 2, 1)
    labels = np.arange(examples, dtype=np.int32)
    order = np.random.default_rng(0).permutation(examples).astype(np.int32)
    how = {"chunk_steps": steps, "batch_size": batch_size, "sharding": split_batch(create_mesh())}
    host = read_chunk(images, labels, order, first, **how)
    device = take_chunk(*map(jax.device_put, (images, labels, order)), first, **how)
    assert host.keys() == device.keys()
    for name in host:
        np.testing.assert_array_equal(host[name], device[name])
        assert host[name].dtype == device[name].dtype
        assert host[name].sharding.is_equivalent_to(device[name].sharding, host[name].ndim)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    workdir = tmp_path_factory.mktemp("memory") / "run"
    return workdir, train(TINY, workdir)


def test_streaming_has_the_bits_of_the_memory_loader(memory, tmp_path):
    workdir, run = memory
    assert results(train(STREAM, tmp_path / "run")) == results(run)
    assert rows(tmp_path / "run") == rows(workdir)
    for split in ("train", "validation", "test"):
        assert evaluate(tmp_path / "run", split) == evaluate(workdir, split)
    images: Any = load_splits(**vars(STREAM.data))[0]["test"].images
    assert isinstance(images, StreamedImages)
    expected = predict(workdir, images[np.arange(len(images))])
    jax.tree.map(np.testing.assert_array_equal, predict(tmp_path / "run", images), expected)


@pytest.mark.slow
def test_without_room_for_decoded_images_they_are_decoded_every_time(memory, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    with pytest.warns(UserWarning, match="cannot cache .* in /proc/none"):
        run = train(STREAM, tmp_path / "stream")
    assert results(run) == results(memory[1])


@pytest.mark.slow
def test_the_wait_for_images_is_measured_and_reported(monkeypatch, tmp_path, capsys):
    read = StreamedImages.__getitem__

    def slow(self, index):
        time.sleep(0.2)
        return read(self, index)

    monkeypatch.setattr(StreamedImages, "__getitem__", slow)
    monkeypatch.setenv("COLUMNS", "200")  # narrow lines leave the wait out
    run = train(replace_fields(STREAM, {"epochs": 1}), tmp_path, listeners=[console()])
    # Reading begins with the wait for the first chunk; the second may be there in time.
    assert run.history[0]["input_seconds"] >= 0.2
    assert run.result["seconds"]["data"] >= run.history[0]["input_seconds"]
    assert f"waited {run.history[0]['input_seconds']:.2f} s for images" in capsys.readouterr().out


def test_a_file_that_is_cut_off_while_it_is_read_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = stored(np.zeros((100, 8, 8, 1), np.uint8), tmp_path)
    (file,) = tmp_path.glob("cache/mnist_jax/arrays/*")
    with file.open("r+b") as opened:
        opened.truncate(1000)
    with pytest.raises(OSError, match="was cut off; run the command again"):
        images[np.arange(100)]


def test_prefetch_keeps_the_order_reads_ahead_and_ends_its_thread():
    made, threads = [], []

    def numbers():
        threads.append(threading.current_thread())
        for number in range(5):
            made.append(number)
            yield number

    chunks = prefetch(numbers(), depth=2)
    assert next(chunks) == 0
    wait_until(lambda: len(made) == 3)  # the one given out, and two ahead
    time.sleep(0.05)
    assert made == [0, 1, 2]
    assert [*chunks] == [1, 2, 3, 4]
    chunks = prefetch(numbers(), depth=2)
    next(chunks)
    chunks.close()
    assert threads[0] != threads[1]
    assert not any(thread.is_alive() for thread in threads)


def test_an_error_of_reading_ends_the_training():
    def broken():
        yield 1
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(prefetch(broken()))
