"""Filters and feature maps, against the layers themselves."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from helpers import create_reference

from mnist_jax.datasets import load_dataset
from mnist_jax.ops import conv_pool
from mnist_jax.reporting.filters import feature_maps, first_filters


def images_of_mnist(count: int) -> jax.Array:
    return jnp.asarray(load_dataset("mnist", "test[:8]").images[:count], jnp.float32) / 255


def test_each_convolution_has_its_maps(subtests):
    for name, convolutions in {
        "cnn": ["conv1", "conv2"],
        "deep_cnn": ["conv1", "conv2", "conv3"],
        "mlp": [],
        "transformer": ["patches"],
        "resnet": ["block1/conv1", "block1/conv2"],
    }.items():
        with subtests.test(msg=name):
            model = create_reference(name=name, depth=2)
            images = images_of_mnist(2)
            shapes: Any = jax.eval_shape(model.init, jax.random.key(0), images)
            variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
            maps = jax.eval_shape(partial(feature_maps, model), variables, images)
            assert {*convolutions} <= {*maps}
            assert all(found.shape[0] == 2 and found.ndim == 4 for found in maps.values())
            assert (first_filters(variables) is None) == (not maps)


def test_maps_are_the_answers_of_the_filters():
    model = create_reference(features=4)
    images = images_of_mnist(3)
    variables: Any = jax.jit(model.init)(jax.random.key(0), images)
    filters = first_filters(variables)
    assert filters is not None
    kernel = filters.transpose(1, 2, 3, 0)
    expected = conv_pool(images.swapaxes(0, -1), kernel, pool_size=2).transpose(3, 1, 2, 0)
    (maps,) = feature_maps(model, variables, images).values()
    np.testing.assert_allclose(maps, expected, atol=1e-6)
    assert maps.shape == (3, 13, 13, 4)
