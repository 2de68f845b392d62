"""Modules of any style are applied with the arguments they take, or refused in a line."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from own_modules import MODULES, OPTIMIZERS, REFUSED

from mnist_jax import rng, train_step
from mnist_jax.forward import FLAGS, Forward, check_module
from mnist_jax.parts import Parts, own_optimizer
from mnist_jax.state import create_train_state

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
    assert jax.tree.map(jnp.result_type, new.average) == jax.tree.map(
        jnp.result_type, new.variables
    )
    assert new.average["noise"]["key"] == new.variables["noise"]["key"]


@pytest.mark.parametrize("flag", FLAGS)
def test_every_usual_flag_tells_a_module_to_train(flag):
    model = type("Flagged", (nn.Module,), {"__call__": eval(f"lambda self, x, {flag}=0: {flag}")})
    told = [Forward(model())({}, IMAGES, train=train) for train in (True, False)]
    assert told == [FLAGS[flag], not FLAGS[flag]]


def learn(model: Any, tx: Any, steps: int = 8) -> tuple[Any, Any, Any, Any]:
    """Returns the first and last loss, and the collections before and after."""
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
    (_, after, _), losses = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(steps)))(
        carry
    )
    return losses[0], losses[-1], others, after


@pytest.mark.parametrize("name", [name for name in REFUSED if name != "seven classes"])
def test_a_module_that_is_not_an_image_network_is_refused_in_a_line(name):
    with pytest.raises(ValueError, match=r"^model \w+ [^\n]*$"):
        check_module(Forward(REFUSED[name]()), SHAPE)


def test_a_function_without_a_module_can_make_an_optimizer():
    """Notebooks and tests of the docs define functions by `exec`."""
    defined: dict[str, Any] = {"optax": optax}
    exec("def make(num_steps): return optax.sgd(1 / num_steps)", defined)
    assert defined["make"].__module__ in (None, "builtins")
    defined["make"].__module__ = None
    for tx in (defined["make"], functools.partial(defined["make"])):
        assert isinstance(own_optimizer(Parts(tx=tx), 3), optax.GradientTransformation)
