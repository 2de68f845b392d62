"""Metric sums against NumPy, and the exactness of their means."""

import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mnist_jax.metrics import (
    cross_entropy,
    guessing,
    mean_and_spread,
    mean_metrics,
    metric_sums,
    no_better_than_guessing,
    total_sums,
)
from mnist_jax.sharding import Target, traced_for

LOGITS = np.array([[2, 0, -1], [0, 3, 1], [1, 1, 0], [0, 0, 5], [4, 0, 0], [0, 1, 0]], np.float32)
LABELS = np.array([0, 1, 1, 2, 0, 1], np.int32)
MASK = np.array([True, True, True, True, False, False])


def test_metric_sums_over_the_real_examples_agree_with_numpy():
    found = metric_sums(*map(jnp.asarray, (LOGITS, LABELS, MASK)))
    logits = LOGITS.astype(np.float64)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), LABELS]
    expected = losses[:4].sum()
    np.testing.assert_allclose(found["loss_sum"], expected, rtol=1e-6)
    # All but the third are right: of equal logits the first class wins.
    assert (int(found["correct"]), int(found["count"])) == (3, 4)
    dtypes = {"loss_sum": jnp.float32, "correct": jnp.int32, "count": jnp.int32}
    assert {name: value.dtype for name, value in found.items()} == dtypes
    assert all(value.shape == () for value in found.values())
    # Given losses replace only the cross-entropy.
    found = metric_sums(*map(jnp.asarray, (LOGITS, LABELS, MASK, np.arange(6, dtype=np.float32))))
    assert [int(found[name]) for name in dtypes] == [0 + 1 + 2 + 3, 3, 4]


def test_metrics_ignore_padded_examples():
    expected = metric_sums(*map(jnp.asarray, (LOGITS, LABELS, MASK)))
    for value in (0, np.nan, np.inf, 1e30):
        logits = np.where(MASK[:, None], LOGITS, value).astype(np.float32)
        found = metric_sums(*map(jnp.asarray, (logits, LABELS, MASK)))
        assert found == expected
    none = metric_sums(jnp.asarray(LOGITS), jnp.asarray(LABELS), jnp.zeros(6, bool))
    assert {name: float(value) for name, value in none.items()} == dict.fromkeys(expected, 0.0)


def sums(losses: list[float], correct: int = 1, count: int = 2) -> dict[str, jax.Array]:
    number = len(losses)
    counts = {"correct": np.full(number, correct), "count": np.full(number, count)}
    return {"loss_sum": np.array(losses), **counts}  # type: ignore[return-value]


def test_means_are_by_examples_not_by_batches():
    found = mean_metrics([sums([4.0, 2.0], correct=3, count=4), sums([3.0], correct=1, count=2)])
    assert found == {"loss": 9 / 10, "accuracy": 7 / 10}


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=12), st.data())
def test_means_do_not_depend_on_the_division_into_chunks_or_on_json(losses, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(losses)))) | {0, len(losses)})
    parts = [sums(losses[start:end]) for start, end in itertools.pairwise(cuts)]
    whole = mean_metrics([sums(losses)])
    assert whole["loss"] == math.fsum(losses) / (2 * len(losses))
    assert mean_metrics(parts) == whole
    saved = json.loads(json.dumps(total_sums(parts[:-1]))) if parts[:-1] else None
    assert mean_metrics([*([saved] if saved else []), parts[-1]]) == whole


def test_totals_keep_the_losses_apart_and_in_order():
    found = total_sums([sums([3.0, 1.0]), sums([2.0], correct=0, count=1)])
    assert found == {"loss_sum": [3.0, 1.0, 2.0], "correct": 2, "count": 5}
    assert {type(found["correct"]), type(found["count"])} == {int}
    grid = {"loss_sum": np.arange(4.0).reshape(2, 2), "correct": np.ones((2, 2), np.int32)}
    many = total_sums([grid | {"count": np.full((2, 2), 3)}])  # type: ignore[dict-item]
    assert many == {"loss_sum": [0.0, 1.0, 2.0, 3.0], "correct": 4, "count": 12}
    assert total_sums([]) == {"loss_sum": [], "correct": 0, "count": 0}


def test_mean_deviation_and_interval_agree_with_scipy():
    values = [0.98, 0.99, 0.985, 0.97]
    found = mean_and_spread(values)
    assert found["mean"] == pytest.approx(0.98125)
    assert found["std"] == pytest.approx(np.sqrt(sum((x - 0.98125) ** 2 for x in values) / 3))
    assert found["ci95"] == pytest.approx(
        stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    )
    assert mean_and_spread([0.5, 0.5]) == {"mean": 0.5, "std": 0.0, "ci95": [0.5, 0.5]}
    assert mean_and_spread([0.5]) == {"mean": 0.5, "std": None, "ci95": None}


def test_guessing_is_the_largest_class_and_equal_probabilities():
    found = guessing(np.array([0, 2, 2, 1, 2], np.int32), 4)
    assert found == {"loss": math.log(4), "accuracy": 0.6}


@pytest.mark.parametrize(
    ("loss", "accuracy", "said"),
    [
        (0.5, 0.61, None),
        (2.302, 0.61, None),  # unsure, but right
        (0.5, 0.6, "it has learned nothing: test accuracy 60.00%, and 60.00% by always"),
        (2.3, 0.1, "it has learned nothing: test accuracy 10.00%, and 60.00% by always"),
        (3482.0, 0.2, "it has learned nothing"),
        (
            math.log(10),
            0.61,
            "it is surer than it is right: test accuracy 61.00%, but test loss 2.303",
        ),
        (
            3482.123,
            0.7,
            "it is surer than it is right: test accuracy 70.00%, but test loss 3482, and",
        ),
        (None, 0.7, "it is surer than it is right: test accuracy 70.00%, but test loss not finite"),
    ],
)
def test_a_network_that_is_no_better_than_guessing_is_found(loss, accuracy, said):
    found = no_better_than_guessing(loss, accuracy, {"loss": math.log(10), "accuracy": 0.6})
    assert found == said or (said and found and found.startswith(said))


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_an_accelerator_computes_the_same_cross_entropy_without_a_gather(platform):
    logits = 3 * jax.random.normal(jax.random.key(0), (64, 10))
    labels = jnp.arange(64) % 10

    def loss_and_gradient(logits):
        return jax.value_and_grad(lambda logits: cross_entropy(logits, labels).mean())(logits)

    expected = loss_and_gradient(logits)
    with traced_for(Target(platform, 1)):
        found = loss_and_gradient(logits)
        program = str(jax.make_jaxpr(loss_and_gradient)(logits))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-8)
    assert "gather" not in program
    assert "scatter" not in program
