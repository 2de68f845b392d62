"""The compiled program of a training and of a population, on a tiny network."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn

from mnist_jax import loader, rng
from mnist_jax.laboratory.member_program import compile_population, member_sums
from mnist_jax.loader import chunk_index, epoch_order, eval_chunks
from mnist_jax.metrics import mean_metrics
from mnist_jax.models import create_model, model_names
from mnist_jax.program import StepParts, compile_initial_state, compile_program
from mnist_jax.sharding import create_mesh, split_batch
from mnist_jax.state import create_train_state
from mnist_jax.steps import StepOptions, run_eval_steps, run_steps
from mnist_jax.workdir.hashing import tree_sha256

SEED = 2**32 - 2
OPTIONS: StepOptions = {"ema_decay": 0.5, "cutout": 2}  # the fastest to compile


class Small(nn.Module):
    """A layer with dropout, which uses every role of keys."""

    rate: float = 0.3

    @nn.compact
    def __call__(self, images, *, train=False, mask=None):  # noqa: ARG002
        x = nn.Dropout(self.rate)(images.reshape(len(images), -1), deterministic=not train)
        return nn.Dense(3)(x)


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (count, 4, 4, 1)).astype(np.uint8)
    return images, draw.integers(0, 3, count).astype(np.int32)


# 5 steps per epoch, the last of 2 examples, in chunks of 2, 2 and 1.
SPLITS = {"train": drawn(18, 0), "validation": drawn(7, 1), "test": drawn(5, 2)}
LAYOUT: dict[str, Any] = {"batch_size": 4, "chunk_steps": 2}
TX = optax.sgd(0.1)


@functools.cache
def compiled() -> tuple[Any, Any]:

    def create(key: jax.Array) -> Any:
        return create_train_state(Small(), TX, key, (4, 4, 1), averaged=True)

    return jax.jit(create), jax.jit(functools.partial(run_steps, **OPTIONS))


@pytest.mark.slow
@pytest.mark.parametrize("name", model_names())
def test_parameters_have_the_bits_that_xla_draws_with_all_its_passes(name):
    parts, key = StepParts(create_model(name, 10), TX, {}), rng.stream(SEED, "init")
    plain = jax.jit(lambda key: create_train_state(parts.model, TX, key, (28, 28, 1)).params)
    state = compile_initial_state(parts, (28, 28, 1), averaged=False)(key)
    assert tree_sha256(state.params) == tree_sha256(plain(key))


def by_hand(seed: int, steps: int = 10) -> tuple[Any, list[Any]]:
    create, step = compiled()
    keys = {role: rng.stream(seed, role) for role in ("dropout", "augment")}
    state, sums = create(rng.stream(seed, "init")), []
    images, labels = SPLITS["train"]
    for number in range(steps):
        epoch, position = divmod(number, 5)
        order = np.asarray(epoch_order(rng.stream(seed, "shuffle"), epoch, 18))
        own = order[4 * position : 4 * position + 4]
        mask, own = np.arange(4) < len(own), np.resize(own, 4)
        chunk = {"image": images[own], "label": labels[own], "mask": mask}
        scale = np.float32(1 if number < 5 else 0.25)
        state, step_sums = step(state, {name: x[None] for name, x in chunk.items()}, keys, scale)
        sums.append(step_sums)
    return state, sums


def measured(state: Any, split: str) -> dict[str, float]:
    images, labels = SPLITS[split]
    batch = {"image": images, "label": labels, "mask": np.ones(len(labels), bool)}
    chunk = {name: x[None] for name, x in batch.items()}
    return mean_metrics([run_eval_steps(state.eval_variables, Small().apply, chunk)])


def assert_close(actual: Any, expected: Any) -> None:
    for ours, theirs in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)


def test_a_program_makes_the_steps_of_its_seed():
    """Two epochs, with every role's key, order, batch, rate and option."""
    program = compile_program(Small(), TX, SPLITS, seed=SEED, **LAYOUT, **OPTIONS)
    state, sums, sizes = program.state, [], []
    for chunk in program.train_chunks(0, 10):
        sizes.append(len(chunk["label"]))
        state, step_sums = program.run_chunk(state, chunk, 1.0 if len(sizes) <= 3 else 0.25)
        sums.append(step_sums)
    assert sizes == [2, 2, 1] * 2
    expected, wanted = by_hand(SEED)
    assert int(state.step) == 10
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(program.state))  # it is used up
    assert_close((state.params, state.average), (expected.params, expected.average))
    for name in wanted[0]:
        assert_close(*(np.concatenate([np.ravel(s[name]) for s in x]) for x in (sums, wanted)))
    for split in ("validation", "test"):
        assert program.measure(state, split) == pytest.approx(measured(expected, split), rel=1e-4)
    # The same batches follow the end of any chunk.
    rest = [*program.train_chunks(7, 10)]
    assert [len(chunk["label"]) for chunk in rest] == [2, 1]
    last = [*program.train_chunks(0, 10)][-2:]
    jax.tree.map(np.testing.assert_array_equal, rest, last)
    assert [*program.train_chunks(10, 10)] == []


def test_a_population_program_makes_the_steps_of_every_seed():
    seeds, rates = [SEED, 3], {"rate": [0.1, 0.1]}

    def build(values: Mapping[str, Any]) -> StepParts:
        return StepParts(Small(), optax.sgd(values.get("rate", 7.0)), OPTIONS)

    program = compile_population(build, SPLITS, seeds=seeds, values=rates, averaged=True, **LAYOUT)
    state, sums = program.state, []
    chunks = [*program.train_chunks(0, 10)]
    assert [chunk["step"].tolist() for chunk in chunks] == [[0, 1], [2, 3], [4]] * 2
    for number, chunk in enumerate(chunks):
        state, step_sums = program.run_chunk(state, chunk, [1.0 if number < 3 else 0.25] * 2)
        sums.append(jax.device_get(step_sums))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(program.state))  # it is used up
    again = program.place(program.collect(state))
    assert_close(state.params, again.params)
    assert np.asarray([again.step, state.step]).tolist() == [[10, 10]] * 2
    metrics = [program.measure(state, split) for split in ("validation", "test")]
    for member, seed in enumerate(seeds):
        expected, wanted = by_hand(seed)
        for ours, theirs in ((state.params, expected.params), (state.average, expected.average)):
            assert_close(jax.tree.map(lambda x, n=member: x[n], ours), theirs)
        assert mean_metrics(member_sums(sums, member)) == pytest.approx(mean_metrics(wanted))
        for own, split in zip(metrics, ("validation", "test"), strict=True):
            assert own[member] == pytest.approx(measured(expected, split), rel=1e-4)


def test_an_index_names_the_examples_of_each_batch_and_masks_the_rest():
    order = np.arange(10, 17)
    index, mask = chunk_index(order, 1, chunk_steps=3, batch_size=3, devices=2)
    # Batches of three are padded to four for two devices; the epoch ends in the second.
    assert index.tolist() == [[13, 14, 15, 16], [16] * 4, [16] * 4]
    assert mask.tolist() == [[True] * 3 + [False], [True] + [False] * 3, [False] * 4]
    assert chunk_index(order, 0, chunk_steps=1, batch_size=3)[0].tolist() == [[10, 11, 12]]


@pytest.mark.parametrize("put", [np.asarray, jax.device_put], ids=["host", "device"])
@pytest.mark.parametrize(
    ("size", "shapes"), [(8, [(2, 4)] * 3), (7, [(1, 4)] * 5), (2, [(1, 4)] * 5), (100, [(25, 4)])]
)
def test_evaluation_chunks_have_at_most_eval_images(monkeypatch, put, size, shapes):
    """But at least one batch."""
    images, labels = map(put, SPLITS["train"])
    monkeypatch.setattr(loader, "EVAL_IMAGES", size)
    chunks = [*eval_chunks(images, labels, batch_size=4, sharding=split_batch(create_mesh()))]
    assert [chunk["mask"].shape for chunk in chunks] == shapes
    real = [np.asarray(chunk["label"])[np.asarray(chunk["mask"])] for chunk in chunks]
    np.testing.assert_array_equal(np.concatenate(real), labels)
