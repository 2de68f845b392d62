"""Small networks of every architecture for the tests of exported files, and their answers."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from helpers import trained_network

from mnist_jax.datasets.info import DataInfo
from mnist_jax.exporting.contract import BATCH
from mnist_jax.exporting.export import export_model
from mnist_jax.models import create_model
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.steps import predict_step

SMALL = {"features": 4, "hidden_size": 8}
# Together they make every choice that an architecture has, of one and three channels.
NETWORKS = {
    "cnn": ((28, 28, 1), {"num_classes": 10}),
    "cnn, mean of windows": (
        (13, 9, 3),
        {"depth": 2, "padding": "SAME", "batch_norm": True, "pool": "mean", "num_classes": 2},
    ),
    "cnn, strides": ((15, 17, 3), {"pool": "stride", "pool_size": 3, "stride": 2}),
    "deep_cnn": ((21, 19, 1), {"depth": 2, "batch_norm": True}),
    "deep_cnn, padded": ((12, 12, 3), {"depth": 2, "padding": "SAME", "num_classes": 10_000}),
    "mlp": ((7, 5, 3), {"depth": 2}),
    "resnet": ((15, 17, 3), {"depth": 3}),
    "resnet, normalised": ((28, 28, 1), {"depth": 2, "stride": 2, "batch_norm": True}),
    "transformer": ((9, 10, 3), {"depth": 1, "kernel_size": 4}),
    "transformer, two heads": ((8, 8, 1), {"depth": 2, "features": 32}),
}


@functools.cache
def network(name: str) -> tuple[nn.Module, dict[str, Any], np.ndarray]:
    shape, options = NETWORKS[name]
    architecture = name.partition(",")[0]
    fields = {field.name for field in dataclasses.fields(create_model(architecture, num_classes=5))}
    small = {key: value for key, value in SMALL.items() if key in fields}
    model = create_model(architecture, **({"num_classes": 5} | small | options))
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2 * BATCH + 1, *shape), dtype=np.uint8)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        """Draws biases and statistics like after training; initially they are all 0 or 1."""
        if leaf.ndim == 1:
            values = (path[-1].key in ("scale", "var")) + random.uniform(0, 0.3, leaf.shape)
        else:
            values = random.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        return values.astype(np.float32)

    # `model.init` itself would be compiled, for seconds.
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    return model, jax.device_put(variables, replicated(create_mesh())), images


@functools.cache
def probabilities(name: str) -> np.ndarray:
    model, variables, images = network(name)
    outputs, _ = jax.jit(predict_step, static_argnums=1)(variables, model.apply, images)
    assert outputs.min() < outputs.max() < 0.99
    return np.asarray(outputs)


def export_network(name: str, file_format: Any, labels: Sequence[str] = ("a", "b")) -> bytes:
    model, variables, images = network(name)
    info = DataInfo(images.shape[1:], tuple(labels))
    return export_model(trained_network(model, variables, info), file_format)


exported = functools.cache(export_network)
