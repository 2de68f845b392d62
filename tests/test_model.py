from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import create_reference

from mnist_jax import rng
from mnist_jax.model import create_model, flatten
from mnist_jax.summary import format_table, step_flops, summarize


@pytest.fixture(scope="module")
def params():
    images = jnp.zeros((1, 28, 28, 1))
    return create_reference().init(rng.stream(0, "init"), images)["params"]


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


def test_logits_without_dropout_are_a_pure_function(params):
    model = create_reference()
    images = jax.random.uniform(jax.random.key(1), (3, 28, 28, 1))
    logits = jnp.asarray(model.apply({"params": params}, images))
    assert (logits.shape, logits.dtype) == ((3, 10), jnp.float32)
    np.testing.assert_array_equal(logits, model.apply({"params": params}, images))


def test_dropout_silences_hidden_units_and_scales_the_rest(params):
    identity = {"kernel": jnp.eye(64, 64), "bias": jnp.zeros(64)}
    model = create_reference(num_classes=64, dropout_rate=0.25)
    images = jax.random.uniform(jax.random.key(1), (200, 28, 28, 1))
    key = jax.random.key(2)
    hidden = model.apply({"params": params | {"output": identity}}, images)
    dropped = model.apply(
        {"params": params | {"output": identity}}, images, train=True, rngs={"dropout": key}
    )
    active = np.asarray(hidden) > 0
    ratio = np.asarray(dropped)[active] / np.asarray(hidden)[active]
    kept = ratio > 0
    np.testing.assert_allclose(ratio[kept], 1 / 0.75, rtol=1e-5)
    assert kept.mean() == pytest.approx(0.75, abs=0.02)


def test_flatten_lines_up_one_channel_after_another():
    images = jnp.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    np.testing.assert_array_equal(
        flatten(images), np.transpose(images, (0, 3, 1, 2)).reshape(2, 5 * 3 * 4)
    )


def test_fields_change_the_shapes():
    model = create_reference(num_classes=7, features=4, kernel_size=5, pool_size=3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 20, 31, 3)))
    assert shapes["params"]["conv1"]["kernel"].shape == (5, 5, 3, 4)
    assert shapes["params"]["dense"]["kernel"].shape == (5 * 9 * 4, 64)
    assert shapes["params"]["output"]["kernel"].shape == (64, 7)


def test_every_further_convolution_has_twice_the_filters():
    model = create_reference(features=4, depth=2, kernel_size=3, pool_size=2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 20, 31, 3)))["params"]
    assert shapes["conv1"]["kernel"].shape == (3, 3, 3, 4)
    assert shapes["conv2"]["kernel"].shape == (3, 3, 4, 8)
    assert shapes["dense"]["kernel"].shape == (3 * 6 * 8, 64)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_lowering_does_not_change_the_network(depth):
    images = jax.random.uniform(jax.random.key(1), (5, 28, 28, 1))
    models = {name: create_reference(lowering=name, depth=depth) for name in ("matmul", "xla")}
    params = models["matmul"].init(rng.stream(0, "init"), images)
    matmul, xla = (jnp.asarray(model.apply(params, images)) for model in models.values())
    np.testing.assert_allclose(matmul, xla, rtol=1e-4, atol=1e-5)


def test_an_unknown_model_names_the_known_ones():
    with pytest.raises(ValueError, match=r"model.name is 'cnm'; expected one of cnn"):
        create_model("cnm")


def test_summary_is_computed_from_the_module():
    layers = summarize(create_reference(), (28, 28, 1))
    assert [(layer.name, layer.shape, layer.params) for layer in layers] == [
        ("conv1", (26, 26, 32), 320),
        ("max_pool", (13, 13, 32), 0),
        ("flatten", (5408,), 0),
        ("dense", (64,), 346176),
        ("dropout", (64,), 0),
        ("output", (10,), 650),
    ]
    # Multiplications and additions of one image: 26*26*32 outputs of 9 products each, and so on.
    assert [layer.flops for layer in layers] == [389376, 0, 0, 692224, 0, 1280]
    assert all(layer.purpose for layer in layers)
    table = format_table(layers, (28, 28, 1))
    assert "347,146" in table
    assert "26x26x32" in table


def test_a_step_needs_no_gradient_of_the_images():
    # Forward, and the gradients of the weights and of the inputs; of the convolution only two.
    assert step_flops(create_reference(), (28, 28, 1), 128) == 128 * (
        2 * 389376 + 3 * (692224 + 1280)
    )


def test_summary_follows_the_fields():
    layers = summarize(create_reference(features=8, kernel_size=5, pool_size=1), (12, 10, 3))
    assert layers[0][:3] == ("conv1", (8, 6, 8), 5 * 5 * 3 * 8 + 8)
    assert layers[1][:2] == ("flatten", (8 * 6 * 8,))


def test_the_readme_shows_the_table_as_it_is():
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    image_shape = (28, 28, 1)
    assert format_table(summarize(create_reference(), image_shape), image_shape) in readme
