import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers import create_reference
from jax import lax

from mnist_jax import rng
from mnist_jax.models import create_model, model_names
from mnist_jax.models.layers import ConvPool, Dropout, batch_last, batch_norm

SMALL = {"features": 8, "depth": 2, "padding": "SAME", "hidden_size": 32}


def choices(name: str) -> set[str]:
    return {field.name for field in dataclasses.fields(create_model(name, 10))}


def create_small(name: str, **fields: Any) -> nn.Module:
    """Creates a small network, without the fields that its architecture lacks."""
    fields = {"num_classes": 10} | SMALL | fields
    return create_model(name, **{k: v for k, v in fields.items() if k in choices(name)})


NORMALISED = [name for name in model_names() if "batch_norm" in choices(name)]
NETWORKS = [(name, False) for name in model_names()] + [(name, True) for name in NORMALISED]


def random_normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


def init(model: nn.Module, images: jax.Array) -> dict[str, Any]:
    """Initialises variables with XLA's generator, which compiles in a third of the time."""
    return jax.jit(model.init)(jax.random.key(0, impl="rbg"), images)


def networks_quick_if(quick: Callable[[str, bool], bool]) -> pytest.MarkDecorator:
    cases = [n if quick(*n) else pytest.param(*n, marks=pytest.mark.slow) for n in NETWORKS]
    return pytest.mark.parametrize(("name", "batch_norm"), cases)


def test_every_network_takes_images_of_any_shape_and_any_number_of_classes(subtests):
    for name, normalised in NETWORKS:
        model = create_small(name, batch_norm=normalised, num_classes=7)
        for shape in ((15, 17, 3), (28, 28, 1)):
            with subtests.test(msg=f"{name}, batch_norm={normalised}, {shape}"):
                images = jnp.zeros((2, *shape))
                initialised = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
                logits, variables = initialised
                assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
                assert ("batch_stats" in variables) == normalised


@networks_quick_if(lambda name, batch_norm: batch_norm or name not in NORMALISED)
def test_every_network_learns_64_examples_by_heart(name, batch_norm, mnist):
    images, labels = mnist["train"]
    images, labels = jnp.asarray(images[:64, ::2, ::2] / np.float32(255)), labels[:64]
    model = create_small(name, batch_norm=batch_norm, dropout_rate=0.0)
    variables = init(model, images)
    tx = optax.adam(0.01)

    def train_step(carry, _):
        params, stats, opt_state = carry

        def loss_fn(params):
            logits, updated = model.apply(
                {"params": params, **stats}, images, train=True, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), updated

        grads, stats = jax.grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(params, updates), stats, opt_state), None

    params = variables["params"]
    stats = {key: value for key, value in variables.items() if key != "params"}
    carry = (params, stats, tx.init(params))
    params, stats, _ = jax.jit(lambda carry: lax.scan(train_step, carry, length=120)[0])(carry)
    logits = jax.jit(model.apply)({"params": params, **stats}, images)
    assert (logits.argmax(axis=-1) == labels).all()


@networks_quick_if(lambda *network: network in [("transformer", False), ("cnn", True)])
def test_logits_do_not_depend_on_padding_or_on_the_rest_of_the_batch(name, batch_norm):
    model = create_small(name, batch_norm=batch_norm, dropout_rate=0.0)
    images = jnp.abs(random_normal(8, 14, 14, 1)) / 3
    variables = init(model, images)

    @jax.jit
    def apply(images, mask=None):
        return model.apply(variables, images, train=True, mask=mask, mutable=["batch_stats"])

    mask = jnp.arange(8) < 5
    logits, stats = apply(images, mask)
    others, other_stats = apply(images.at[5:].set(9.0), mask)
    np.testing.assert_array_equal(logits[:5], others[:5])
    jax.tree.map(np.testing.assert_array_equal, stats, other_stats)
    alone, stats_alone = apply(images[:5])
    np.testing.assert_allclose(logits[:5], alone, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), stats, stats_alone)
    if batch_norm:  # where the mask is needed
        assert not np.allclose(apply(images.at[5:].set(9.0))[0][:5], alone)

    evaluate = jax.jit(create_small(name, batch_norm=batch_norm).apply)
    logits = evaluate(variables, images)
    np.testing.assert_allclose(logits[:1], evaluate(variables, images[:1]), rtol=1e-4, atol=1e-5)
    if batch_norm:
        other = variables | {"batch_stats": jax.tree.map(lambda x: x + 1, variables["batch_stats"])}
        assert not np.allclose(logits, evaluate(other, images))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("cnm", {}, "model.name is 'cnm'; expected one of cnn, deep_cnn, mlp, resnet, transformer"),
        ("layers", {}, "model.name is 'layers'; expected one of cnn, deep_cnn, mlp, resnet, trans"),
        # A default is accepted.
        ("mlp", {"pool_size": 3, "pool": "max"}, "model.pool_size has no effect on mlp, which"),
    ],
)
def test_an_unknown_model_and_a_field_without_effect_are_refused(name, fields, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        create_model(name, 10, **fields)


@pytest.mark.parametrize("name", ["cnn", "deep_cnn", "resnet"])
def test_too_many_features_are_refused_before_memory_is_allocated(name):
    model = create_model(name, 10, depth=20, kernel_size=1)
    message = r"model.features \* 2\*\*\(model.depth - 1\) must be at most"
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))


@pytest.mark.parametrize(("features", "heads"), [(7, 1), (32, 2), (49, 1), (50, 2), (96, 6)])
def test_a_transformers_heads_are_of_one_size_and_have_about_16_features(features, heads):
    model, found = create_model("transformer", 10, features=features), []

    def record(next_fun, args, kwargs, context):
        if context.module.name == "attention":
            found.append(context.module.heads)
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 6, 6, 1)))
    assert found == [heads]


def test_the_conv_pool_layer_agrees_with_lax(subtests):
    images, kernel = random_normal(2, 13, 16, 3), random_normal(3, 3, 3, 4)
    variables = {"params": {"kernel": kernel, "bias": jnp.arange(4.0)}}

    @functools.partial(jax.jit, static_argnums=(0, 1, 2))
    def found_and_expected(pool, stride, padding):
        distance = 2 * stride if pool == "stride" else stride
        expected: Any = lax.conv_general_dilated(
            images, kernel, (distance,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        if pool != "stride":
            reduce = nn.max_pool if pool == "max" else nn.avg_pool
            expected = reduce(expected, (2, 2), (2, 2))
        layer = ConvPool(4, 3, stride, padding, pool, 2)
        expected = batch_last(expected + jnp.arange(4.0).reshape(1, 1, 1, 4))
        return layer.apply(variables, batch_last(images)), expected

    for options in itertools.product(["max", "mean", "stride"], [1, 2], ["VALID", "SAME"]):
        with subtests.test(msg=str(options)):
            np.testing.assert_allclose(*found_and_expected(*options), rtol=1e-4, atol=1e-5)


class Named(nn.Module):
    """Batch normalisation or dropout as a submodule."""

    layer: Any

    @nn.compact
    def __call__(self, *args, **kwargs):
        return self.layer(*args, **kwargs)


def test_batch_norm_agrees_with_numpy():
    x = 3 * random_normal(3, 4, 5, 8) + 2
    real = np.asarray(x)[..., :6]
    mean, var = real.mean(axis=(1, 2, 3)), real.var(axis=(1, 2, 3))
    model = Named(lambda x, **kwargs: batch_norm(x, name="norm", **kwargs))
    scale, bias, means, variances = np.array([[1, 2, 3], [0, 1, 2], [1, 1, 1], [2, 2, 2]], "f4")
    params = {"norm": {"scale": scale, "bias": bias}}
    variables = {"params": params, "batch_stats": {"norm": {"mean": means, "var": variances}}}

    def expected(*statistics):
        s, b, m, v = (each.reshape(3, 1, 1, 1) for each in (scale, bias, *statistics))
        return (x - m) / np.sqrt(v + 1e-5) * s + b

    options = {"train": True, "mask": jnp.arange(8) < 6, "mutable": ["batch_stats"]}
    y, updated = model.apply(variables, x, **options)
    np.testing.assert_allclose(jnp.asarray(y), expected(mean, var), rtol=1e-4, atol=1e-5)
    running = dict(updated)["batch_stats"]["norm"]
    np.testing.assert_allclose(running["mean"], 0.9 * 1 + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(running["var"], 0.9 * 2 + 0.1 * var, rtol=1e-5)
    y = jnp.asarray(model.apply(variables, x, train=False, mask=None))
    np.testing.assert_allclose(y, expected(means, variances), rtol=1e-4, atol=1e-5)


def test_dropout_has_the_bits_of_flax(subtests):
    x = random_normal(50, 64)
    rngs = {"dropout": jax.random.key(1)}

    def flax(rate, x):
        return Named(nn.Dropout(rate, name="dropout")).apply({}, x, False, rngs=rngs)

    def dropout(rate, x):
        return Named(Dropout(rate, name="dropout")).apply({}, x, train=True, rngs=rngs)

    traced = jax.jit(dropout)
    for rate in (0, 0.0, 0.1, 0.2, 0.5, 0.9):
        with subtests.test(msg=f"{rate!r}"):
            ours, theirs = jax.jit(lambda x, rate=rate: (dropout(rate, x), flax(rate, x)))(x)
            np.testing.assert_array_equal(ours, theirs)
            # A traced rate is a float32, and so is 1 - rate.
            np.testing.assert_allclose(traced(jnp.float32(rate), x), theirs, rtol=1e-6)
            assert Named(Dropout(rate, name="dropout")).apply({}, x, train=False) is x


@pytest.fixture(scope="module")
def params():
    model, images = create_reference(), jnp.zeros((1, 28, 28, 1))
    return jax.jit(model.init)(rng.stream(0, "init"), images)["params"]


def test_the_reference_network_has_347146_parameters(params):
    sizes = {name: sum(x.size for x in jax.tree.leaves(layer)) for name, layer in params.items()}
    assert sizes == {"conv1": 320, "dense": 346176, "output": 650}


def test_kernels_are_glorot_uniform_and_biases_zero(params):
    fans = {"conv1": (9 * 1, 9 * 32), "dense": (5408, 64), "output": (64, 10)}
    for name, (fan_in, fan_out) in fans.items():
        limit = np.sqrt(6 / (fan_in + fan_out))
        kernel = np.asarray(params[name]["kernel"])
        assert np.abs(kernel).max() <= limit
        assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.1)
        assert not np.asarray(params[name]["bias"]).any()


def test_the_fields_of_a_model_change_its_shapes():
    model = create_reference(num_classes=7, features=4, depth=2, kernel_size=5, pool_size=3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 30, 41, 3)))["params"]
    assert shapes["conv1"]["kernel"].shape == (5, 5, 3, 4)
    assert shapes["conv2"]["kernel"].shape == (5, 5, 4, 8)  # twice the filters
    assert shapes["dense"]["kernel"].shape == (1 * 2 * 8, 64)
    assert shapes["output"]["kernel"].shape == (64, 7)
