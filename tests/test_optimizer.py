import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax.optimizer import create_optimizer


def updates(schedule: str, num_steps: int) -> np.ndarray:
    """The sizes of Adam's updates for a gradient that is always 1: the rate at each step."""
    tx = create_optimizer(0.01, schedule, b1=0.7, b2=0.9, eps=1e-7, num_steps=num_steps)
    params, sizes = jnp.zeros(()), []
    state = tx.init(params)
    for _ in range(num_steps):
        update, state = tx.update(jnp.ones(()), state, params)
        sizes.append(-np.asarray(update))
    return np.array(sizes)


def test_a_constant_rate_is_the_learning_rate():
    np.testing.assert_allclose(updates("constant", 5), 0.01, rtol=1e-4)


@pytest.mark.parametrize("num_steps", [20, 100])
def test_one_cycle_rises_for_thirty_percent_and_falls_to_nothing(num_steps):
    sizes = updates("one_cycle", num_steps)
    top = int(sizes.argmax())
    assert top == pytest.approx(0.3 * num_steps, abs=1)
    assert sizes[0] == pytest.approx(0.01 / 25, rel=1e-3)
    assert sizes[top] == pytest.approx(0.01, rel=1e-3)
    assert (np.diff(sizes[: top + 1]) > 0).all()
    assert (np.diff(sizes[top:]) < 0).all()
    assert sizes[-1] < 0.01 / 50


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_the_shortest_runs_have_a_schedule_too(num_steps):
    assert np.isfinite(updates("one_cycle", num_steps)).all()
