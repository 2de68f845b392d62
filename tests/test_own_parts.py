"""A user's own parts train, resume, verify, predict, report and export like a recipe's."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers import some_slow, stop_after
from optuna.distributions import FloatDistribution
from own_modules import MODULES, OPTIMIZERS, REFUSED

from mnist_jax import evaluate, export, load_network, predict, report, rng, train, train_step
from mnist_jax.config import Config, replace_fields
from mnist_jax.forward import FLAGS, Forward, check_module
from mnist_jax.laboratory.population import population
from mnist_jax.laboratory.sweep import sweep
from mnist_jax.laboratory.verify import verify
from mnist_jax.parts import Parts, own_optimizer
from mnist_jax.state import create_train_state
from mnist_jax.workdir.hashing import tree_sha256
from mnist_jax.workdir.history import read_history

CONFIG = Config(epochs=2, batch_size=16, chunk_steps=2)
QUICK = ("batch norm", "two rngs", "sequential", "key", "noise")


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws images of ten classes, each with its own brightest row."""
    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.arange(count) % 10).astype(np.int32)
    images = draw.integers(0, 100, (count, 12, 12, 1)).astype(np.uint8)
    images[np.arange(count), labels] += 150
    return images, labels


SPLITS = {"train": drawn(100, 0), "test": drawn(40, 1)}  # 80 to train on: 5 steps an epoch


def squared(logits: jax.Array, labels: jax.Array, params: Any) -> jax.Array:
    errors = jax.nn.softmax(logits) - jax.nn.one_hot(labels, logits.shape[-1])
    return jnp.sum(errors**2, axis=-1) + 1e-4 * optax.tree.norm(params, squared=True)


def in_top3(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return (jax.lax.top_k(logits, 3)[1] == labels[:, None]).any(axis=-1)


def assert_resumes(workdir: Path, **own: Any) -> Any:
    """Asserts that a stopped run resumes and verifies to the bit; returns an uninterrupted one."""
    whole = train(CONFIG, workdir / "whole", **own)
    for chunks in (2, 1):
        stop_after(chunks, train, CONFIG, workdir / "stopped", **own)
    resumed = train(CONFIG, workdir / "stopped", **own)
    assert resumed.result["params_sha256"] == whole.result["params_sha256"]
    assert tree_sha256(resumed.state.opt_state) == tree_sha256(whole.state.opt_state)
    assert verify(workdir / "whole", **own) == []
    return whole


@pytest.mark.parametrize("name", some_slow(QUICK, MODULES))
def test_any_module_goes_through_everything(tmp_path, name):
    model, workdir = MODULES[name](), tmp_path / "whole"
    run = assert_resumes(tmp_path, model=model, splits=SPLITS)
    network = load_network(workdir, model=model)
    found = predict(workdir, SPLITS["test"][0], model=model)
    assert (found.classes == SPLITS["test"][1]).mean() == run.result["test_accuracy"]
    assert evaluate(workdir, model=model, splits=SPLITS)["loss"] == run.result["test_loss"]
    assert report(workdir, model=model, splits=SPLITS).path.stat().st_size > 10_000
    export(workdir, tmp_path / "file", format="stablehlo", model=model)
    exported = load_network(tmp_path / "file").predict(SPLITS["test"][0])
    np.testing.assert_allclose(exported.probabilities, found.probabilities, atol=1e-5)
    assert (network.model, network.config) == (model, CONFIG)


@pytest.mark.parametrize("name", some_slow(QUICK, OPTIMIZERS))
def test_any_optimizer_resumes_and_verifies_to_the_bit(tmp_path, name):
    run = assert_resumes(tmp_path, model=MODULES["shared"](), tx=OPTIMIZERS[name](), splits=SPLITS)
    if name == "injected":
        assert [row["learning_rate"] for row in run.history] == pytest.approx([0.1, 0.1])


def test_an_own_loss_and_metric_are_in_history_result_and_evaluation(tmp_path):
    own: Any = {"loss_fn": squared, "metrics": {"top3": in_top3}, "splits": SPLITS}
    run = assert_resumes(tmp_path, model=MODULES["setup"](), **own)
    measured = evaluate(tmp_path / "whole", "validation", model=MODULES["setup"](), **own)
    assert run.history[-1]["val_loss"] == measured["loss"] < 2.1
    assert {"train_top3", "val_top3"} < {*run.history[0]}
    result: Any = run.result
    assert result["val_top3"] == measured["top3"] >= measured["accuracy"]
    assert result["test_top3"] >= result["test_accuracy"]
    assert "loss" not in result["guessing"]


@dataclasses.dataclass
class Weighted:
    weights: Any

    def __call__(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        return self.weights[labels] * jnp.square(logits[:, 0])


def test_unhashable_functions_and_nan_metrics_are_accepted(tmp_path):
    weighted = Weighted(jnp.ones(10))
    metrics = {"own": weighted, "nan": lambda _, labels: jnp.full(len(labels), jnp.nan)}
    own: Any = {"model": MODULES["no train"](), "loss_fn": weighted, "splits": SPLITS}
    run: Any = train(CONFIG, tmp_path, metrics=metrics, **own)
    row = run.history[-1]
    assert (row["val_own"], row["val_nan"]) == (pytest.approx(row["val_loss"]), None)
    assert (run.result["test_nan"], verify(tmp_path, metrics=metrics, **own)) == (None, [])
    assert evaluate(tmp_path, metrics={"again": weighted}, **own)["again"] > 0
    with pytest.raises(ValueError, match=r"^metrics must have names .* got 'accuracy'"):
        evaluate(tmp_path, metrics={"accuracy": weighted}, **own)


def test_the_projects_own_network_as_a_part_gives_the_same_bits(tmp_path):
    """Own parts have constant numbers, so the recipe varies none but the learning rate."""
    fields = {"model.features": 2, "model.hidden_size": 8, "model.dropout_rate": 0.0}
    fields |= {"optimizer.name": "sgd", "optimizer.momentum": 0.0}
    config = replace_fields(CONFIG, fields)
    named = train(config, tmp_path / "named", splits=SPLITS)
    model = named.state.apply_fn.model  # type: ignore[attr-defined]
    handed = train(config, tmp_path / "handed", model=model, splits=SPLITS)
    assert handed.result["params_sha256"] == named.result["params_sha256"]
    assert "model" not in named.result


def test_a_population_of_own_parts_has_the_bits_of_each_seed_alone(tmp_path):
    own: Any = {"model": MODULES["setup"](), "tx": optax.adamax(0.01), "splits": SPLITS}
    many = population(CONFIG, tmp_path / "many", seeds=2, metrics={"top3": in_top3}, **own)
    alone = train(dataclasses.replace(CONFIG, seed=1), tmp_path / "alone", **own)
    assert many["params_sha256"][1] == alone.result["params_sha256"]
    other = own | {"tx": optax.adam(0.01)}
    with pytest.raises(ValueError, match="another tx than it was trained with"):
        population(CONFIG, tmp_path / "many", seeds=2, metrics={"top3": in_top3}, **other)
    vary = {"model.dropout_rate": [0.1, 0.2]}
    with pytest.raises(ValueError, match="dropout_rate cannot vary: your own model"):
        population(CONFIG, tmp_path / "varied", seeds=1, vary=vary, **own)


def test_a_search_keeps_its_own_parts_and_names_them_in_its_last_command(tmp_path):
    lines: list[str] = []
    own = Parts(model=MODULES["no train"](), splits=SPLITS, metrics={"top3": in_top3})
    search: Any = {"optimizer.learning_rate": FloatDistribution(1e-3, 1e-2)}
    how: Any = {"tell": lines.append}
    [trial] = sweep(CONFIG, search, tmp_path, trials=1, parts=lambda _: own, **how)
    assert "val_top3" in read_history(tmp_path / "trials" / "0")[-1]
    [line] = [line for line in lines if line.startswith("next: ")]
    rate = trial.params["optimizer.learning_rate"]
    assert line.endswith(f"--config RECIPE --optimizer.learning-rate {rate}")
    for other, name in (
        (own._replace(metrics=None), "metric top3"),
        (own._replace(model=MODULES["setup"]()), "model"),
        (own._replace(loss_fn=squared), "loss_fn"),
    ):
        with pytest.raises(ValueError, match=f"holds a search with a different {name}"):
            sweep(CONFIG, search, tmp_path, trials=2, parts=lambda _, x=other: x, **how)


OWN: dict[str, Any] = {
    "model": MODULES["setup"](),
    "tx": optax.adam(0.01),
    "loss_fn": squared,
    "metrics": {"top3": in_top3},
    "splits": SPLITS,
}


@pytest.fixture(scope="module")
def run_of_own(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("own") / "run"
    stop_after(2, train, CONFIG, workdir, **OWN)
    return workdir


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": None}, "holds a run with its own model: pass it again"),
        ({"tx": None}, "holds a run with its own tx"),
        ({"loss_fn": None}, "holds a run with its own loss_fn"),
        ({"metrics": None}, r"its own metric top3: pass it again \(metrics= in"),
        ({"model": MODULES["no train"]()}, "another model than it was trained with"),
        ({"tx": optax.adam(0.02)}, "another tx than it was trained with"),
        (
            {"loss_fn": lambda logits, labels: 2 * squared(logits, labels, {})},
            "another loss_fn than it was",
        ),
        ({"splits": {"train": SPLITS["test"]}}, "another splits than it was trained with"),
        ({"splits": None}, "holds a run with its own splits"),
    ],
)
def test_a_run_resumes_with_its_own_parts_alone(run_of_own, changed, message):
    before = sorted(path.stat().st_mtime_ns for path in run_of_own.rglob("*"))
    with pytest.raises(ValueError, match=message):
        train(CONFIG, run_of_own, **OWN | changed)
    assert sorted(path.stat().st_mtime_ns for path in run_of_own.rglob("*")) == before


@pytest.mark.parametrize("name", REFUSED)
def test_a_module_that_is_not_a_network_is_refused_before_any_write(tmp_path, name):
    with pytest.raises(ValueError, match=r"^model \w+ [^\n]*$|there are 7 classes"):
        train(CONFIG, tmp_path / "run", model=REFUSED[name](), splits=SPLITS)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"loss_fn": lambda logits, _: logits.mean()}, "loss_fn must return a number for each"),
        ({"metrics": {"loss": in_top3}}, "metrics must have names such as top5, and not loss"),
        ({"metrics": {"mean": lambda *_: 1.0}}, "metric 'mean' must return a number for each"),
        ({"tx": "adam"}, "tx must be an Optax transformation"),
        ({"tx": optax.adam}, "tx must be an Optax transformation, .* function of learning_rate"),
        ({"tx": functools.partial(optax.sgd, 0.1)}, "tx must be .* function of momentum: call it"),
        ({"tx": lambda learning_rate: optax.adam(learning_rate)}, "tx must be .* learning_rate"),
        ({"tx": optax.lookahead(optax.sgd(0.1), 5, 0.5)}, "tx cannot be applied: AttributeError"),
        ({"loss_fn": lambda *_: 1 / 0}, "loss_fn cannot be applied: ZeroDivisionError: division"),
        ({"metrics": {"one": lambda _: 1}}, "metric one cannot be applied: TypeError"),
        ({"listeners": print}, "listeners must be a list of functions"),
        ({"listeners": ["console"]}, "listeners must be a list of functions"),
        ({"loss_fn": "mse"}, "loss_fn must be a function"),
        ({"metrics": [in_top3]}, "metrics must be functions by name"),
        ({"model": MODULES["setup"]}, "model must be an instance of a Flax Linen module"),
    ],
)
def test_a_part_of_the_wrong_type_is_refused_in_a_line(tmp_path, own, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        train(CONFIG, tmp_path / "run", splits=SPLITS, **own)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("run", [train, population])
def test_a_config_or_workdir_of_the_wrong_type_is_refused_in_a_line(tmp_path, run):
    for arguments, message in (
        (({"epochs": 3}, tmp_path), "config must be a Config, such as Config"),
        ((CONFIG, None), "workdir must be the name of a directory, got None"),
        ((CONFIG, ""), "workdir must be the name of a directory, got ''"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            run(*arguments, **({} if run is train else {"seeds": 2}))


def test_logits_and_probabilities_are_pure_functions_of_batches_and_single_images(tmp_path):
    model = MODULES["batch norm"]()
    train(CONFIG, tmp_path, model=model, splits=SPLITS)
    network, images = load_network(tmp_path, model=model), SPLITS["test"][0][:4]
    floats, close = jnp.asarray(images) / 255, np.testing.assert_allclose
    logits = jax.jit(network.logits)(images)
    close(jax.vmap(network.logits)(images), logits, rtol=1e-4, atol=1e-5)
    close(network.logits(images[0]), logits[0], rtol=1e-4, atol=1e-5)
    close(network.probabilities(floats), network.predict(images)[0], atol=1e-6)
    gradient = jax.grad(lambda image: network.probabilities(image)[3])(floats[0])
    assert gradient.shape == (12, 12, 1)
    assert float(jnp.abs(gradient).max()) > 0
    of_params = jax.grad(lambda variables: network.logits(images, variables).sum())
    assert jax.tree.structure(of_params(network.variables)) == jax.tree.structure(network.variables)


SHAPE = (12, 12, 1)
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(size=(20, *SHAPE)), jnp.float32)
LABELS = jnp.arange(20) % 10


@pytest.mark.parametrize("name", MODULES)
def test_any_module_learns_in_a_loop_of_plain_jax(name):
    assert check_module(Forward(MODULES[name](3)), SHAPE) == 3
    first, last, before, after = learn(MODULES[name](), optax.adam(0.01))
    assert last < first
    described = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (before, after))
    assert described[0] == described[1]
    if name == "counter":
        assert (before["counter"]["calls"], after["counter"]["calls"]) == (0, 8)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_lowers_the_loss_in_a_loop_of_plain_jax(name):
    first, last, _, _ = learn(MODULES["shared"](), OPTIMIZERS[name]())
    assert last < first


def test_a_running_mean_keeps_the_types_of_counters_keys_and_small_floats():
    state = create_train_state(MODULES["key"](), optax.sgd(0.1), rng.streams(0)["init"], SHAPE)
    state = state.replace(average=state.variables)
    batch = {"image": IMAGES, "label": LABELS, "mask": jnp.ones(20, bool)}
    new, _ = train_step(state, batch, rng.streams(0), ema_decay=0.9)
    types = (jax.tree.map(jnp.result_type, tree) for tree in (new.average, new.variables))
    assert next(types) == next(types)
    assert new.average["noise"]["key"] == new.variables["noise"]["key"]


@pytest.mark.parametrize("flag", FLAGS)
def test_every_usual_flag_tells_a_module_to_train(flag):
    model = type("Flagged", (nn.Module,), {"__call__": eval(f"lambda self, x, {flag}=0: {flag}")})
    told = [Forward(model())({}, IMAGES, train=train) for train in (True, False)]
    assert told == [FLAGS[flag], not FLAGS[flag]]


def learn(model: Any, tx: Any, steps: int = 8) -> tuple[Any, Any, Any, Any]:
    tx = tx if hasattr(tx, "update") else tx(steps)
    tx = tx.gradient_transformation() if isinstance(tx, optax.MultiSteps) else tx
    tx, forward = optax.with_extra_args_support(tx), Forward(model)

    def loss_fn(params: Any, others: Any, key: jax.Array) -> Any:
        variables, names, rngs = {"params": params, **others}, [*others], {"params": key}
        logits, new = forward(variables, IMAGES, train=True, rngs=rngs, mutable=names)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)
        return losses.mean(), dict(new)

    def step(carry: Any, number: jax.Array) -> Any:
        params, others, opt_state = carry
        key = jax.random.fold_in(jax.random.key(1), number)
        (value, new), grad = jax.value_and_grad(loss_fn, has_aux=True)(params, others, key)
        extra = {"value_fn": lambda params: loss_fn(params, others, key)[0]}
        updates, opt_state = tx.update(grad, opt_state, params, value=value, grad=grad, **extra)
        return (optax.apply_updates(params, updates), new, opt_state), value

    others: Any = jax.jit(forward.init)(jax.random.key(0), IMAGES)
    params = others.pop("params")
    carry = (params, others, tx.init(params))
    (_, after, _), losses = jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(steps)))(carry)
    return losses[0], losses[-1], others, after


def test_a_function_without_a_module_can_make_an_optimizer():
    """Notebooks and tests of the docs define functions by `exec`."""
    defined: dict[str, Any] = {"optax": optax}
    exec("def make(num_steps): return optax.sgd(1 / num_steps)", defined)
    assert defined["make"].__module__ in (None, "builtins")
    defined["make"].__module__ = None
    for tx in (defined["make"], functools.partial(defined["make"])):
        assert isinstance(own_optimizer(Parts(tx=tx), 3), optax.GradientTransformation)
