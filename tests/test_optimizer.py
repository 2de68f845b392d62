from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnist_jax.config import OPTIMIZER_CHOICES, OptimizerConfig
from mnist_jax.optimizer import create_optimizer, rate_schedule


def updates(tx: optax.GradientTransformation, num_steps: int) -> np.ndarray:
    """The sizes of the updates for a gradient that is always 1."""
    params, sizes = jnp.zeros(()), []
    state = tx.init(params)
    for _ in range(num_steps):
        update, state = tx.update(jnp.ones(()), state, params)
        sizes.append(-np.asarray(update))
    return np.array(sizes)


def create(num_steps: int = 10, **fields: Any) -> optax.GradientTransformation:
    return create_optimizer(**vars(OptimizerConfig(**fields)), num_steps=num_steps)


def first_update(tx: optax.GradientTransformation, grads: Any, params: Any) -> Any:
    return tx.update(grads, tx.init(params), params)[0]


def test_a_constant_rate_is_the_learning_rate():
    np.testing.assert_allclose(updates(create(learning_rate=0.01), 5), 0.01, rtol=1e-4)


@pytest.mark.parametrize("num_steps", [20, 100])
def test_one_cycle_rises_for_thirty_percent_and_falls_to_nothing(num_steps):
    tx = create(num_steps, learning_rate=0.01, schedule="one_cycle", b1=0.7, b2=0.9)
    sizes = updates(tx, num_steps)
    top = int(sizes.argmax())
    assert top == pytest.approx(0.3 * num_steps, abs=1)
    assert sizes[0] == pytest.approx(0.01 / 25, rel=1e-3)
    assert sizes[top] == pytest.approx(0.01, rel=1e-3)
    assert (np.diff(sizes[: top + 1]) > 0).all()
    assert (np.diff(sizes[top:]) < 0).all()
    assert sizes[-1] < 0.01 / 50


def test_the_shortest_runs_have_a_schedule_too(subtests):
    for num_steps in (1, 2, 3):
        for fields in (
            {"schedule": "one_cycle"},
            {"schedule": "cosine", "warmup": 0.9},
            {"schedule": "exponential", "warmup": 0.9},
        ):
            with subtests.test(msg=f"{num_steps} steps, {fields}"):
                assert np.isfinite(updates(create(num_steps, **fields), num_steps)).all()


@pytest.mark.parametrize(
    ("schedule", "middle", "end"),
    [("constant", 1, 1), ("cosine", 0.5, 0), ("exponential", 0.1, 0.01)],
)
@pytest.mark.parametrize("warmup", [0, 0.2])
def test_schedules_begin_at_the_whole_rate_after_a_warm_up(schedule, middle, end, warmup):
    shape = rate_schedule(schedule, warmup, 1000)
    first = int(1000 * warmup)
    if shape is None:
        assert (schedule, warmup) == ("constant", 0)
        return
    found: Any = [shape(step) for step in (first, (first + 1000) // 2, 1000)]
    np.testing.assert_allclose(found, [1, middle, end], atol=1e-6)
    for step in range(0, first, 50):
        assert shape(step) == pytest.approx(step / first, abs=1e-6)


@pytest.mark.parametrize("name", OPTIMIZER_CHOICES)
def test_every_optimizer_finds_the_minimum(name):
    """Of a quadratic with a matrix, a convolution kernel, a bias and a position embedding."""
    goal = {
        "dense": {"kernel": jnp.ones((3, 4)), "bias": jnp.full(4, 0.5)},
        "conv": {"kernel": jnp.full((2, 2, 3, 4), -1.0)},
        "position": {"embedding": jnp.full((1, 5, 4), 0.3)},
    }
    params = jax.tree.map(jnp.zeros_like, goal)
    # Muon's updates of a matrix of rank one are smaller.
    rate = 0.3 if name == "muon" else 0.03
    tx = create(300, name=name, learning_rate=rate, schedule="cosine", clip_norm=1.0)

    def loss(params):
        return sum(jax.tree.leaves(jax.tree.map(lambda p, g: jnp.sum((p - g) ** 2), params, goal)))

    def step(carry, _):
        params, state = carry
        update, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, update), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=300)
    assert loss(params) < 0.02


def test_muon_makes_the_updates_of_kernels_orthogonal_and_of_nothing_else():
    shapes = {"kernel": (2, 3, 2, 8), "embedding": (1, 6, 8)}
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    random = np.random.default_rng(1)
    grads = {name: jnp.asarray(random.normal(size=shape)) for name, shape in shapes.items()}
    update = first_update(create(name="muon", learning_rate=1.0), grads, params)
    for name, orthogonal in (("kernel", True), ("embedding", False)):
        values = np.linalg.svd(update[name].reshape(-1, 8), compute_uv=False)
        assert (values.max() < 2 * values.min()) == orthogonal, name


@pytest.mark.parametrize("name", [n for n, f in OPTIMIZER_CHOICES.items() if "decay" in f])
def test_only_what_is_to_decay_decays(name):
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones((1, 3))}
    zero = jax.tree.map(jnp.zeros_like, params)
    for decay, bias in [("kernels", 1.0), ("all", 0.99)]:
        tx = create(name=name, learning_rate=0.1, weight_decay=0.1, decay=decay)
        after: Any = optax.apply_updates(params, first_update(tx, zero, params))
        factor = 1.9 if name == "sgd" else 1.0  # Nesterov's first step
        np.testing.assert_allclose(after["kernel"], 1 - 0.01 * factor, rtol=1e-5)
        np.testing.assert_allclose(after["bias"], 1 - (1 - bias) * factor, rtol=1e-5)


def test_clipping_limits_the_norm_of_all_gradients():
    tx = create(name="sgd", learning_rate=1.0, momentum=0.0, clip_norm=0.5)
    params = {"a": jnp.zeros(3), "b": jnp.zeros(4)}
    grads = jax.tree.map(lambda x: jnp.full(x.shape, 7.0), params)
    update = first_update(tx, grads, params)
    assert float(jnp.sqrt(sum(jnp.sum(x**2) for x in update.values()))) == pytest.approx(
        0.5, rel=1e-5
    )


def test_an_option_that_an_optimizer_does_not_use_is_refused():
    for name, choices in OPTIMIZER_CHOICES.items():
        for field, value in [("momentum", 0.5), ("b1", 0.5), ("weight_decay", 0.1), ("eps", 0.1)]:
            if field in choices:
                OptimizerConfig(name=name, **{field: value})  # type: ignore
            else:
                with pytest.raises(
                    ValueError, match=rf"optimizer.{field} must stay at .* with {name}"
                ):
                    OptimizerConfig(name=name, **{field: value})  # type: ignore
