from typing import Any

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_jax import rng
from mnist_jax.loader import epoch_order, eval_chunks, steps_per_epoch, train_chunks
from mnist_jax.sharding import create_mesh, split_batch


def numbered(num_examples):
    """Makes images that carry their own number, which identifies the examples of a chunk."""
    number = jnp.arange(num_examples)
    pixels = jnp.stack([number // 256, number % 256], axis=-1).astype(jnp.uint8)
    return pixels.reshape(num_examples, 1, 2, 1), number.astype(jnp.int32)


def examples(chunks, sharding):
    """Returns the numbers of the real examples, and asserts that images and labels agree."""
    found = []
    for chunk in chunks:
        assert all(leaf.sharding.is_equivalent_to(sharding, leaf.ndim) for leaf in chunk.values())
        image = np.asarray(chunk["image"], int)
        np.testing.assert_array_equal(image[..., 0, :, 0] @ [256, 1], chunk["label"])
        found.append(np.asarray(chunk["label"])[np.asarray(chunk["mask"])])
    return np.concatenate(found)


@settings(max_examples=8)
@given(st.integers(1, 400), st.integers(1, 70), st.integers(1, 9))
def test_an_epoch_shows_each_example_once_in_its_order(num_examples, batch_size, chunk_steps):
    order = epoch_order(rng.stream(0, "shuffle"), 3, num_examples)
    sharding = split_batch(create_mesh())
    layout: Any = {"chunk_steps": chunk_steps, "batch_size": batch_size, "sharding": sharding}
    chunks = list(train_chunks(*numbered(num_examples), order, **layout))
    np.testing.assert_array_equal(examples(chunks, sharding), order)
    assert sorted(order.tolist()) == list(range(num_examples))
    sizes = [len(chunk["label"]) for chunk in chunks]
    assert sum(sizes) == steps_per_epoch(num_examples, batch_size)
    assert all(size == min(chunk_steps, sum(sizes)) for size in sizes[:-1])
    # Every batch except the last is full.
    counts = np.concatenate([np.asarray(chunk["mask"]).sum(axis=1) for chunk in chunks])
    assert (counts[:-1] == batch_size).all()
    assert 1 <= counts[-1] <= batch_size


@settings(max_examples=8)
@given(st.integers(1, 400), st.integers(1, 70))
def test_an_evaluation_shows_each_example_once_in_order(num_examples, batch_size):
    sharding = split_batch(create_mesh())
    chunks = list(eval_chunks(*numbered(num_examples), batch_size=batch_size, sharding=sharding))
    np.testing.assert_array_equal(examples(chunks, sharding), np.arange(num_examples))
    assert len({chunk["label"].shape for chunk in chunks}) == 1  # one compilation
