"""Every optimizer's updates against its formula in NumPy and float64; schedules and options."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax.config import OPTIMIZER_CHOICES, OptimizerConfig
from mnist_jax.optimizer import create_optimizer, is_frozen, rate_schedule

STEPS, RATE, DECAY = 6, 0.03, 0.2
B1, B2, EPS, MOMENTUM = 0.8, 0.95, 0.05, 0.7
SHAPES = {
    "conv": {"kernel": (2, 1, 2, 3)},
    "position": {"embedding": (1, 3, 4)},
    "out": {"kernel": (2, 4), "bias": (4,)},
}

Leaf = np.ndarray


def drawn(seed: int) -> dict[str, dict[str, Leaf]]:
    rng = np.random.default_rng(seed)
    return {
        layer: {name: rng.normal(size=shape) for name, shape in leaves.items()}
        for layer, leaves in SHAPES.items()
    }


GRADS = [drawn(seed) for seed in range(STEPS)]


def run(*, grads: Any = GRADS, freeze: str = "", **fields: Any) -> list[dict[str, Any]]:
    config = OptimizerConfig(learning_rate=RATE, **fields)
    tx = create_optimizer(**vars(config), num_steps=STEPS, freeze=freeze)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), drawn(100))
    grads = jax.tree.map(lambda *x: jnp.asarray(np.stack(x), jnp.float32), *grads)

    def step(carry: Any, grad: Any) -> Any:
        params, state = carry
        update, state = tx.update(grad, state, params)
        params = jax.tree.map(jnp.add, params, update)
        return (params, state), params

    _, after = jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g))(params, grads)
    return [jax.tree.map(lambda x, n=n: np.asarray(x[n]), after) for n in range(STEPS)]


class Rule:
    """Computes a step's change of one leaf, divided by the negative rate."""

    def __init__(self, kernel: bool, decays: bool) -> None:
        self.mean, self.square, self.count = 0.0, 0.0, 0
        self.kernel, self.decay = kernel, DECAY * decays

    def adam(self, grad: Leaf, _: Leaf, nesterov: bool = False) -> Leaf:
        self.count += 1
        self.mean = B1 * self.mean + (1 - B1) * grad
        self.square = B2 * self.square + (1 - B2) * grad**2
        mean = self.mean / (1 - B1**self.count)
        if nesterov:
            mean = B1 * self.mean / (1 - B1 ** (self.count + 1)) + (1 - B1) * grad / (
                1 - B1**self.count
            )
        return mean / (np.sqrt(self.square / (1 - B2**self.count)) + EPS)

    def adamw(self, grad: Leaf, x: Leaf) -> Leaf:
        return self.adam(grad, x) + self.decay * x

    def nadam(self, grad: Leaf, x: Leaf) -> Leaf:
        return self.adam(grad, x, nesterov=True) + self.decay * x

    def lion(self, grad: Leaf, x: Leaf) -> Leaf:
        sign = np.sign(B1 * self.mean + (1 - B1) * grad)
        self.mean = B2 * self.mean + (1 - B2) * grad
        return sign + self.decay * x

    def sgd(self, grad: Leaf, x: Leaf) -> Leaf:
        grad = grad + self.decay * x
        self.mean = MOMENTUM * self.mean + grad
        return grad + MOMENTUM * self.mean

    def muon(self, grad: Leaf, x: Leaf) -> Leaf:
        if not self.kernel:
            return self.nadam(grad, x)
        self.count += 1
        self.mean = MOMENTUM * self.mean + (1 - MOMENTUM) * grad
        ahead = MOMENTUM * self.mean / (1 - MOMENTUM ** (self.count + 1))
        ahead = ahead + (1 - MOMENTUM) * grad / (1 - MOMENTUM**self.count)
        matrix = ahead.reshape(-1, ahead.shape[-1])
        fan_in, fan_out = matrix.shape
        matrix = matrix / (np.linalg.norm(matrix) + EPS)
        for _ in range(5):  # Newton-Schulz, with the authors' coefficients
            square = matrix @ matrix.T
            matrix = 3.4445 * matrix + (-4.7750 * square + 2.0315 * square @ square) @ matrix
        size = 0.2 * np.sqrt(max(fan_in, fan_out))
        return size * matrix.reshape(ahead.shape) + self.decay * x


def expected(
    name: str, *, decay: str = "kernels", rates: list[float] = [RATE] * STEPS, grads: Any = GRADS
) -> list[dict[str, Any]]:
    params, after = drawn(100), []
    rules = {
        layer: {leaf: Rule(leaf == "kernel", decay in ("all", f"{leaf}s")) for leaf in leaves}
        for layer, leaves in SHAPES.items()
    }
    for rate, grad in zip(rates, grads, strict=True):
        for layer, leaves in params.items():
            for leaf, x in leaves.items():
                direction = getattr(rules[layer][leaf], name)(grad[layer][leaf], x)
                leaves[leaf] = x - rate * direction
        after.append({layer: dict(leaves) for layer, leaves in params.items()})
    return after


def assert_close(found: Any, wanted: Any, rtol: float = 1e-4) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5), found, wanted)


FIELDS: dict[str, dict[str, Any]] = {
    "adam": {"b1": B1, "b2": B2, "eps": EPS},
    "adamw": {"b1": B1, "b2": B2, "eps": EPS, "weight_decay": DECAY},
    "nadam": {"b1": B1, "b2": B2, "eps": EPS, "weight_decay": DECAY},
    "lion": {"b1": B1, "b2": B2, "weight_decay": DECAY},
    "sgd": {"momentum": MOMENTUM, "weight_decay": DECAY},
    "muon": {"momentum": MOMENTUM, "b1": B1, "b2": B2, "eps": EPS, "weight_decay": DECAY},
}
COSINE = [RATE * 0.5 * (1 + np.cos(np.pi * step / STEPS)) for step in range(STEPS)]

CASES = {name: (name, {}) for name in OPTIMIZER_CHOICES}
CASES |= {f"{n}, all decay": (n, {"decay": "all"}) for n in FIELDS if "weight_decay" in FIELDS[n]}


@pytest.mark.parametrize(("name", "decay"), CASES.values(), ids=CASES)
def test_updates_follow_the_formula_at_the_rate_of_each_step(name, decay):
    """Kernels, a bias, and a position embedding, which also has three axes."""
    found = run(name=name, schedule="cosine", **FIELDS[name], **decay)
    assert_close(found, expected(name, rates=COSINE, **decay), 2e-3)


def norm(tree: Any) -> float:
    return float(np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(tree))))


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_all_gradients_are_clipped_together_before_the_optimizer(name):
    first = jax.tree.map(lambda x: x / 100, GRADS[0])
    found = run(name=name, clip_norm=0.5, grads=[first, *GRADS[1:]], **FIELDS[name])
    clipped = [jax.tree.map(lambda x, g=g: 0.5 * x / norm(g), g) for g in GRADS[1:]]
    assert_close(found, expected(name, grads=[first, *clipped]))


def test_frozen_parameters_stay_and_do_not_count_in_the_norm():
    grads = [{**grad, "conv": {"kernel": 1e3 * grad["conv"]["kernel"]}} for grad in GRADS]
    found = run(name="sgd", clip_norm=100.0, freeze="conv", grads=grads, **FIELDS["sgd"])
    for after, wanted in zip(found, expected("sgd"), strict=True):
        assert_close(after["out"], wanted["out"])
        assert_close(after["conv"], drawn(100)["conv"], 1e-6)


def test_patterns_name_parameters_and_layers(subtests):
    path = tuple(map(jax.tree_util.DictKey, ("conv1", "kernel")))
    frozen = ("conv1", "conv*", "*/kernel", "*/bias, conv1", "conv1/kernel", "conv[12]", "*")
    others = ("", "conv", "*/bias", "dense , */bias", "kernel", "conv1/ker", "Conv1")
    for freeze in frozen + others:
        with subtests.test(msg=freeze):
            assert is_frozen(path, freeze) is (freeze in frozen)


def rates(schedule: str, warmup: float, num_steps: int) -> np.ndarray:
    shape: Any = rate_schedule(schedule, warmup, num_steps)
    return np.array([shape(step) for step in range(num_steps)])


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_the_shortest_runs_have_a_schedule_too(num_steps):
    for schedule, warmup in (("one_cycle", 0.0), ("cosine", 0.9), ("exponential", 0.9)):
        assert np.isfinite(rates(schedule, warmup, num_steps)).all(), schedule


@pytest.mark.parametrize("num_steps", [20, 100])
def test_one_cycle_rises_for_thirty_percent_and_falls_to_nothing(num_steps):
    sizes = rates("one_cycle", 0.0, num_steps)
    top = int(sizes.argmax())
    assert top == pytest.approx(0.3 * num_steps, abs=1)
    assert (sizes[0], sizes[top]) == pytest.approx((1 / 25, 1), rel=1e-3)
    assert (np.diff(sizes[: top + 1]) > 0).all()
    assert (np.diff(sizes[top:]) < 0).all()
    assert sizes[-1] < 1 / 50


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


def test_an_option_that_an_optimizer_does_not_use_is_refused():
    for name, choices in OPTIMIZER_CHOICES.items():
        for field, value in [("momentum", 0.5), ("b1", 0.5), ("weight_decay", 0.1), ("eps", 0.1)]:
            message = rf"optimizer.{field} has no effect with {name}"
            refused = pytest.raises(ValueError, match=message)
            with contextlib.nullcontext() if field in choices else refused:
                OptimizerConfig(name=name, **{field: value})  # type: ignore
