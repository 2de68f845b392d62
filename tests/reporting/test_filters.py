"""Filters and feature maps, against the layers themselves."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import create_reference
from own_modules import MODULES

from mnist_jax.datasets import load_dataset
from mnist_jax.forward import Forward
from mnist_jax.ops import conv_pool
from mnist_jax.reporting.filters import convolutions, drawn, feature_maps, first_filters


def images_of_mnist(count: int) -> jax.Array:
    return jnp.asarray(load_dataset("mnist", "test[:8]").images[:count], jnp.float32) / 255


MAPS = {
    "cnn": {"conv1", "conv2"},
    "deep_cnn": {"conv1", "conv2", "conv3"},
    "mlp": {},
    "transformer": {"patches"},
    "resnet": {"block1/conv1", "block1/conv2"},
}


@pytest.mark.parametrize("name", MAPS)
def test_each_convolution_has_its_maps(name):
    model, images = create_reference(name=name, depth=2), images_of_mnist(2)
    shapes: Any = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    maps = jax.eval_shape(partial(feature_maps, model), variables, images)
    assert {*MAPS[name]} <= {*maps}
    assert all(found.shape[0] == 2 and found.ndim == 4 for found in maps.values())
    assert (first_filters(model, variables, (28, 28, 1)) is None) == (not maps)


CONVOLUTIONS = {
    "batch norm": "Conv_0",
    "attention": "embedding",
    "no train": "Conv_0",
    "sequential": "layers_0",
    "remat": "CheckpointConv_0",
}


@pytest.mark.parametrize("name", MODULES)
def test_pictures_of_any_module_are_drawn_or_left_out(name):
    model = MODULES[name]()
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 1), dtype=np.uint8)
    variables: Any = jax.jit(Forward(model).init)(jax.random.key(0), jnp.zeros((1, 12, 12, 1)))
    pictures = drawn(model, variables, image)
    maps = {f"maps/{found}" for found in convolutions(Forward(model), image.shape)}
    assert maps == {key for key in pictures if key.startswith("maps/")}
    assert {*pictures} == {"image", *maps} | ({"filters"} if name in CONVOLUTIONS else set())
    if name in CONVOLUTIONS:
        first = CONVOLUTIONS[name]
        images = jnp.asarray(image[None], jnp.float32) / 255
        kernel, bias = (variables["params"][first].get(leaf) for leaf in ("kernel", "bias"))
        stride = 12 // feature_maps(model, variables, images)[first].shape[1]
        conv = nn.Conv(kernel.shape[-1], kernel.shape[:2], stride, use_bias=bias is not None)
        if name != "no train":  # it does not pad
            expected: Any = conv.apply({"params": variables["params"][first]}, images)
            answer = feature_maps(model, variables, images)[first]
            np.testing.assert_allclose(answer, expected, atol=1e-6)


def test_maps_are_the_answers_of_the_filters():
    model = create_reference(features=4)
    images = images_of_mnist(3)
    variables: Any = jax.jit(model.init)(jax.random.key(0), images)
    filters: Any = first_filters(model, variables, (28, 28, 1))
    kernel = filters.transpose(1, 2, 3, 0)
    answers = conv_pool(images.swapaxes(0, -1), kernel, pool_size=2, rectify=True)
    (maps,) = feature_maps(model, variables, images).values()
    np.testing.assert_allclose(maps, answers.transpose(3, 1, 2, 0), atol=1e-6)
    assert maps.shape == (3, 13, 13, 4)
