"""The precision of a step's products; everything else stays float32."""

import functools
import re
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import trained_network
from jax import export, lax

from mnist_jax import Config, rng
from mnist_jax.config import OptimizerConfig
from mnist_jax.datasets.info import DataInfo
from mnist_jax.exporting.export import export_model
from mnist_jax.models import create_model, model_names
from mnist_jax.ops import conv_pool
from mnist_jax.optimizer import create_optimizer
from mnist_jax.reporting.filters import feature_maps
from mnist_jax.state import TrainState, create_train_state
from mnist_jax.steps import (
    batch_loss,
    predict_step,
    run_ensemble_steps,
    run_eval_steps,
    run_steps,
)

PRECISIONS = get_args(get_type_hints(Config)["precision"])
RNGS = {role: rng.stream(0, role) for role in ("dropout", "augment")}
STEPS, SIZE = 3, 16
NARROW_TO_WIDE = [jnp.bfloat16, jnp.float32]
MODELS: dict[str, dict[str, Any]] = {
    "cnn": {"features": 4},
    "deep_cnn": {"features": 4, "batch_norm": True},
    "mlp": {},
    "resnet": {"features": 4, "batch_norm": True},
    "transformer": {"features": 16, "kernel_size": 7},
}
every_model = pytest.mark.parametrize("name", model_names())
Product = tuple[str, str, lax.Precision]


@functools.cache
def create_state(name: str, optimizer: str = "adam", **fields: Any) -> TrainState:
    model = create_model(name, num_classes=10, **(MODELS[name] | fields))
    tx = create_optimizer(**vars(OptimizerConfig(name=optimizer)), num_steps=STEPS)  # type: ignore[arg-type]
    create = functools.partial(create_train_state, model, tx, image_shape=(28, 28, 1))
    return jax.jit(functools.partial(create, averaged=True))(rng.stream(0, "init"))


def shape_of_state(name: str, **fields: Any) -> TrainState:
    """Returns the minimum to trace a step."""
    return jax.eval_shape(lambda: create_state.__wrapped__(name, **fields))


@pytest.fixture(scope="module")
def chunk(mnist) -> dict[str, jax.Array]:
    images, labels = (x[: STEPS * SIZE] for x in mnist["train"])
    return {
        "image": jnp.asarray(images).reshape(STEPS, SIZE, *images.shape[1:]),
        "label": jnp.asarray(labels).reshape(STEPS, SIZE),
        "mask": jnp.ones((STEPS, SIZE), bool).at[-1, -5:].set(False),
    }


def equations(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves([*eqn.params.values()]):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def products(function: Any, *args: Any) -> list[Product]:
    found = []
    for eqn in equations(jax.make_jaxpr(function)(*args).jaxpr):
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            taken, given = ({str(x.aval.dtype) for x in xs} for xs in (eqn.invars, eqn.outvars))
            precision = {*eqn.params["precision"]}
            assert [len(taken), len(precision)] == [1, 1]
            found.append((taken.pop(), given.pop(), precision.pop()))
    return found


EXPECTED: dict[str, Product] = {
    "float32": ("float32", "float32", lax.Precision.HIGHEST),
    "tensorfloat32": ("float32", "float32", lax.Precision.HIGH),
    "bfloat16": ("bfloat16", "bfloat16", lax.Precision.DEFAULT),
}


@every_model
@pytest.mark.parametrize("lowering", ["matmul", pytest.param("xla", marks=pytest.mark.slow)])
def test_all_products_of_a_network_have_the_requested_precision(chunk, name, lowering):
    state = shape_of_state(name, **({} if name == "mlp" else {"lowering": lowering}))
    assert Config().precision == "float32"
    for precision in PRECISIONS:
        run = functools.partial(run_steps, precision=precision)
        assert {*products(run, state, chunk, RNGS)} == {EXPECTED[precision]}
    assert {*products(run_steps, state, chunk, RNGS)} == {EXPECTED["float32"]}


def test_a_traced_dropout_rate_leaves_all_products_in_bfloat16(chunk, subtests):
    """Members of a population may have their own rates."""
    for name in model_names():

        def run(rate, state, name=name):
            model = create_model(name, num_classes=10, **MODELS[name], dropout_rate=rate)
            return run_steps(state.replace(apply_fn=model.apply), chunk, RNGS, precision="bfloat16")

        with subtests.test(msg=name):
            found = products(run, jnp.float32(0.1), shape_of_state(name))
            assert {*found} == {EXPECTED["bfloat16"]}


def test_augmentation_and_optimizer_multiply_in_float32(chunk):
    state = shape_of_state("cnn", optimizer="muon")
    plain = products(functools.partial(run_steps, precision="bfloat16"), state, chunk, RNGS)
    options = {"precision": "bfloat16", "elastic": 1.0, "mixup_alpha": 0.2}
    bent = products(functools.partial(run_steps, **options), state, chunk, RNGS)
    assert {*plain} == {*bent} == {EXPECTED["float32"], EXPECTED["bfloat16"]}
    count = [found.count(EXPECTED["float32"]) for found in (plain, bent)]
    assert 0 < count[0] < count[1]
    assert plain.count(EXPECTED["bfloat16"]) == bent.count(EXPECTED["bfloat16"]) == 8


@pytest.mark.slow
@every_model
def test_every_network_learns_in_bfloat16_and_its_state_stays_float32(chunk, name):
    """test_steps.py compares gradients."""
    before, losses = create_state(name), []
    for precision in ("float32", "bfloat16"):
        run = jax.jit(functools.partial(run_steps, precision=precision, label_smoothing=0.1))
        state, sums = run(before, chunk, RNGS)
        losses.append(sums["loss_sum"])
        assert jax.tree.map(lambda x: x.dtype, state) == jax.tree.map(lambda x: x.dtype, before)
        assert {x.dtype for x in jax.tree.leaves(state.variables)} == {np.dtype(np.float32)}
        assert jax.tree.all(jax.tree.map(lambda x: jnp.isfinite(x).all(), state.variables))
    np.testing.assert_allclose(*losses, rtol=0.03)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a GPU has it")
def test_a_cpu_has_no_tensorfloat32_and_takes_float32(chunk):
    state = create_state("cnn")
    ours, theirs = (
        jax.jit(functools.partial(run_steps, precision=precision))(state, chunk, RNGS)
        for precision in ("float32", "tensorfloat32")
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("lowering", ["matmul", "xla"])
@pytest.mark.parametrize("pool", ["max", "mean"])
def test_convolutions_are_exact_where_bfloat16_is(lowering, pool):
    """All sums are whole numbers below 256, with ties among the maxima."""
    draw = np.random.default_rng(0)
    images = draw.integers(-1, 2, (2, 7, 6, 3))
    kernel = draw.integers(-1, 2, (3, 3, 2, 4))
    grad = 4 * draw.integers(-1, 2, (4, 2, 2, 3))  # a mean is of four

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def values_and_gradients(dtype, lowering):
        def conv(images, kernel):
            return conv_pool(images, kernel, pool=pool, pool_size=2, lowering=lowering)

        outputs, vjp = jax.vjp(conv, jnp.asarray(images, dtype), jnp.asarray(kernel, dtype))
        return outputs, *vjp(jnp.asarray(grad, dtype))

    found = values_and_gradients(jnp.bfloat16, lowering)
    expected = values_and_gradients(jnp.float32, "xla")
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_array_equal(ours.astype(jnp.float32), theirs)


def test_no_large_array_of_a_convolution_goes_back_to_float32(chunk):
    batch = jax.tree.map(lambda x: x[0], chunk)
    grad = jax.grad(functools.partial(batch_loss, precision="bfloat16"), has_aux=True)
    for lowering in ("matmul", "xla"):
        state, widened = shape_of_state("cnn", lowering=lowering), []
        for eqn in equations(jax.make_jaxpr(grad)(state.params, state, batch, RNGS).jaxpr):
            types = [x.aval.dtype for x in (*eqn.invars[:1], *eqn.outvars)]
            if eqn.primitive.name == "convert_element_type" and types == NARROW_TO_WIDE:
                widened.append(eqn.outvars[0].aval.shape)
        # The logits, and the gradient of each parameter.
        shapes = [(SIZE, 10), *(x.shape for x in jax.tree.leaves(state.params))]
        assert sorted(widened) == sorted(shapes)


def test_networks_are_measured_drawn_and_exported_in_float32_whatever_the_default_is(chunk):
    state, model = create_state("cnn"), create_model("cnn", num_classes=10, **MODELS["cnn"])
    apply_fn, variables, images = state.apply_fn, state.eval_variables, chunk["image"][0]
    trained = trained_network(model, variables, DataInfo((28, 28, 1), (*"0123456789",)))
    with jax.default_matmul_precision("bfloat16"):
        for function in (
            lambda v: run_eval_steps(v, apply_fn, chunk),
            lambda v: run_ensemble_steps((v,), (apply_fn,), chunk),
            lambda v: predict_step(v, apply_fn, images),
            lambda v: feature_maps(model, v, images / 255),
        ):
            assert {*products(function, variables)} == {EXPECTED["float32"]}
        data = export_model(trained, "stablehlo")
    program = export.deserialize(bytearray(data.rpartition(b"\n")[0])).mlir_module()
    found = re.findall(r"stablehlo\.(?:dot_general|convolution).*", program)
    assert found
    assert all("HIGHEST" in line for line in found)
