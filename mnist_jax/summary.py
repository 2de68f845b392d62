"""The layer table of a network, read off the module itself."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from mnist_jax.model import ConvPool

PURPOSES = {
    "conv": "finds small patterns: each filter slides over the image and answers where it fits",
    "max_pool": "keeps the strongest answer of each window: fewer numbers, small shifts forgiven",
    "flatten": "lines the feature maps up as one vector",
    "dense": "combines all patterns into evidence; every output sees every input",
    "dropout": "in training, silences units at random, so none is relied upon alone",
    "output": "one score (logit) a class; softmax turns them into probabilities",
}


class Layer(NamedTuple):
    """A row of the table; `flops` are those of the forward pass of one image."""

    name: str
    shape: tuple[int, ...]
    params: int
    flops: int
    purpose: str


def summarize(model: nn.Module, image_shape: tuple[int, ...]) -> list[Layer]:
    """Returns the layers of a model in the order in which data goes through them.

    The module is traced, not run. A multiplication and an addition are two FLOPs; only those of
    matrix products and convolutions are counted, a weight being used once an output position.

    Args:
        model: images -> logits.
        image_shape: (H, W, C).
    """
    layers: list[Layer] = []
    previous = image_shape

    def add(name: str, module: nn.Module, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
        flops = 2 * sizes.get("kernel", 0) * math.prod(shape[:-1])
        purpose = (
            PURPOSES.get(name.rstrip("0123456789")) or (module.__doc__ or "").strip().split("\n")[0]
        )
        layers.append(Layer(name, shape, sum(sizes.values()), flops, purpose))

    def record(next_fun, args, kwargs, context):
        nonlocal previous
        output = next_fun(*args, **kwargs)
        module, inputs = context.module, args[0].shape[1:]
        if module is not model and module.name and context.method_name == "__call__":
            if inputs != previous and math.prod(inputs) == math.prod(previous):
                add("flatten", module, inputs, {})
            params = module.variables.get("params", {})
            sizes = {name: leaf.size for name, leaf in params.items() if hasattr(leaf, "size")}
            shape = output.shape[1:]
            if isinstance(module, ConvPool):
                before_pool = tuple(n - module.kernel_size + 1 for n in inputs[:2])
                add(module.name, module, (*before_pool, shape[-1]), sizes)
                if module.pool_size > 1:
                    add("max_pool", module, shape, {})
            else:
                add(module.name, module, shape, sizes)
            previous = shape
        return output

    with nn.intercept_methods(record):
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        jax.eval_shape(model.init, jax.random.key(0), images)
    return layers


def step_flops(model: nn.Module, image_shape: tuple[int, ...], batch_size: int) -> int:
    """Returns the FLOPs that a training step on a batch cannot do without.

    Two products of the same size as the forward one give the gradients of a layer's weights and of
    its inputs; the first layer's inputs are the images, which need none. Counted as in `summarize`.
    """
    flops = [layer.flops for layer in summarize(model, image_shape) if layer.flops]
    return batch_size * (3 * sum(flops) - flops[0])


def format_table(layers: list[Layer], image_shape: tuple[int, ...]) -> str:
    """Lays the layers out as text, with the totals below."""
    rows = [("layer", "output", "parameters", "FLOPs", "what it is for")]
    rows += [("image", _shape(image_shape), "0", "0", "pixels, scaled to 0..1")]
    rows += [
        (layer.name, _shape(layer.shape), f"{layer.params:,}", f"{layer.flops:,}", layer.purpose)
        for layer in layers
    ]
    total_params, total_flops = (sum(column) for column in list(zip(*layers, strict=True))[2:4])
    rows += [("total", "", f"{total_params:,}", f"{total_flops:,}", "FLOPs: one image, forward")]
    name, shape, params, flops = (max(len(row[i]) for row in rows) for i in range(4))
    return "\n".join(
        f"{row[0]:{name}}  {row[1]:>{shape}}  {row[2]:>{params}}  {row[3]:>{flops}}  {row[4]}"
        for row in rows
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
