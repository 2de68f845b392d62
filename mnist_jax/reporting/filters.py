"""Pictures of a network's filters and feature maps."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from mnist_jax.datasets.arrays import as_bytes
from mnist_jax.forward import Forward
from mnist_jax.models.layers import ConvPool
from mnist_jax.reporting.pictures import sheet, visible
from mnist_jax.state import Variables
from mnist_jax.steps import to_float
from mnist_jax.workdir.hashing import named_leaves

KINDS = (ConvPool, nn.Conv)
COLUMNS = 8  # of a sheet
MOST = 64  # pictures of a sheet


@functools.cache
def convolutions(forward: Forward, image_shape: tuple[int, ...]) -> dict[str, bool]:
    """Finds a model's convolutions for images (H, W, C), in the order of their calls.

    Returns whether the batch is the last axis of each one's output (not the first), by name.
    """
    found: dict[str, bool] = {}

    def record(next_fun, args, kwargs, context):
        if context.method_name == "__call__" and isinstance(context.module, KINDS):
            found["/".join(context.module.path)] = isinstance(context.module, ConvPool)
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(record):
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        jax.eval_shape(forward.init, jax.random.key(0), images)
    return {**found}


def first_filters(
    model: nn.Module, variables: Variables, image_shape: tuple[int, ...]
) -> jax.Array | None:
    """Returns the filters over the image itself, float32 [features, k, k, C].

    Returns None if no convolution takes the image (H, W, C).
    """
    first = next(iter(convolutions(Forward(model), image_shape)), None)
    kernel = named_leaves(variables["params"]).get(f"{first}/kernel")
    if kernel is None or kernel.ndim != 4 or kernel.shape[2] != image_shape[2]:
        return None
    return kernel.transpose(3, 0, 1, 2)


def feature_maps(model: nn.Module, variables: Variables, images: Any) -> dict[str, jax.Array]:
    """Computes the outputs of each convolution for images, float32 [B, H, W, C] in [0, 1].

    The result has float [B, H', W', features] by the convolution's name. The output of this
    package's own layers is taken after pooling and rectifier, and before any normalisation. With a
    normalisation, the rectifier comes later. Convolutions inside `nn.scan` and `nn.vmap` are left
    out.
    """
    return _feature_maps(Forward(model), variables, images)


@functools.partial(jax.jit, static_argnums=0)
def _feature_maps(forward: Forward, variables: Variables, images: Any) -> dict[str, jax.Array]:
    def keep(next_fun, args, kwargs, context):
        answer = next_fun(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(context.module, KINDS):
            context.module.sow("intermediates", "__call__", answer)
        return answer

    # In float32, as `steps.eval_logits` computes.
    with nn.intercept_methods(keep), jax.default_matmul_precision("float32"):
        _, captured = forward(variables, images, mutable=["intermediates"])
    kept: dict[str, Any] = flatten_dict(dict(captured).get("intermediates", {}), sep="/")
    return {
        name: kept[key][0].transpose(*([3, 1, 2, 0] if is_last else range(4)))
        for name, is_last in convolutions(forward, images.shape[1:]).items()
        if (key := f"{name}/__call__") in kept and kept[key][0].ndim == 4
    }


def filter_sheet(filters: jax.Array, *, clear: bool = False) -> np.ndarray:
    """Draws `first_filters`, at most `MOST`: grey is 0, lighter is positive.

    The result is uint8 [H, W, C], C = 1 or 3; other channels are averaged. With `clear`, C = 4, and
    the gaps are transparent.
    """
    if filters.shape[-1] not in (1, 3):
        filters = filters.mean(axis=-1, keepdims=True)
    pictures = visible(np.asarray(filters)[:MOST], signed=True)
    if clear:
        colours = np.broadcast_to(pictures, (*pictures.shape[:3], 3))
        pictures = np.pad(colours, [(0, 0)] * 3 + [(0, 1)], constant_values=255)
    return sheet(pictures, COLUMNS, ground=0 if clear else 255)


def map_sheets(maps: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """Draws the `feature_maps` of one image, at most `MOST` per layer: black is 0 or less.

    The result has a sheet by layer, uint8 [H, W, 1], those outside blocks first.
    """

    def order(name: str) -> Any:  # conv10 after conv9
        parts = re.split(r"(\d+)", name)
        return name.count("/"), [int(part) if part.isdigit() else part for part in parts]

    return {
        name: sheet(
            visible(np.asarray(maps[name][0]).transpose(2, 0, 1)[:MOST, ..., None]), COLUMNS
        )
        for name in sorted(maps, key=order)
    }


def drawn(model: nn.Module, variables: Variables, image: np.ndarray) -> dict[str, np.ndarray]:
    """Draws an image, the filters of a network, and their feature maps.

    The image is uint8, or float in [0, 1], [H, W, C]. The pictures are uint8 [H, W, C], C = 1 or 3:
    "image" if it has 1 or 3 channels, "filters" if there are any, and "maps/NAME" by convolution.
    """
    maps = feature_maps(model, variables, to_float(jnp.asarray(image[None])))
    filters = first_filters(model, variables, image.shape)
    return {
        **({"image": as_bytes(image)} if image.shape[-1] in (1, 3) else {}),
        **({} if filters is None else {"filters": filter_sheet(filters)}),
        **{f"maps/{name}": picture for name, picture in map_sheets(maps).items()},
    }
