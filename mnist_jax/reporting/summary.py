"""The layer table of a network, read off the module itself."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from mnist_jax.config import LARGEST, Config
from mnist_jax.datasets import load_splits
from mnist_jax.models import create_model
from mnist_jax.models.layers import ConvPool
from mnist_jax.ops import conv_pool

BATCH = LARGEST + 1  # nothing else in a network is as large: an axis of this size is the batch

PURPOSES = {
    "attention": "mixes all tokens, each after its own choice: what one is, another can use",
    "conv": "finds small patterns: each filter slides over the image and answers where it fits",
    "dense": "combines all patterns into evidence; every output sees every input",
    "dropout": "in training, silences units at random, so none is relied upon alone",
    "flatten": "lines the feature maps up as one vector",
    "key": "what each token offers; attention looks where a query meets a key",
    "max_pool": "keeps the strongest answer of each window: fewer numbers, small shifts forgiven",
    "mean": "averages over all places: where something was found matters no more",
    "mean_pool": "keeps the mean answer of each window: fewer numbers, small shifts forgiven",
    "norm": "shifts and scales to mean 0 and variance 1, then to what suits: steadier training",
    "output": "one score (logit) a class; softmax turns them into probabilities",
    "patches": "cuts the image into squares and describes each by a vector, a token",
    "position": "tells each token where it is",
    "projection": "fits what attention has gathered to what it is added to",
    "query": "what each token asks for",
    "shortcut": "fits what a block is given to the shape of what it adds",
    "value": "what each token hands on when asked",
}


class Layer(NamedTuple):
    """A row of the table; `flops` are those of the forward pass of one image."""

    name: str
    shape: tuple[int, ...]
    params: int
    flops: int
    purpose: str


def summarize_recipe(
    config: Config, image_shape: tuple[int, ...] | None = None, num_classes: int | None = None
) -> tuple[tuple[int, ...], list[Layer]]:
    """Summarizes a recipe's model, by default for the images and classes of its dataset.

    Returns:
        (H, W, C) and the layers.

    Raises:
        ValueError: A size is not 1 to LARGEST, or the model does not fit the images.
    """
    if image_shape is None or num_classes is None:
        splits, label_names = load_splits(**vars(config.data))
        image_shape = image_shape or (*splits["train"].images.shape[1:],)
        num_classes = len(label_names) if num_classes is None else num_classes
    for name, sizes in (("image-shape", image_shape), ("num-classes", (num_classes,))):
        if not all(1 <= size <= LARGEST for size in sizes):
            raise ValueError(f"--{name} must be 1 to {LARGEST}, got {sizes}")
    model = create_model(num_classes=num_classes, **vars(config.model))
    return image_shape, summarize(model, image_shape)


def summarize(model: nn.Module, image_shape: tuple[int, ...]) -> list[Layer]:
    """Returns the layers of a model in the order in which data goes through them.

    The model is traced, not run. A multiplication and an addition are two FLOPs; only those of
    matrix products and convolutions are counted: a weight is used once an output position, and a
    module with products of other things tells them by a method `flops`.

    Args:
        model: images -> logits.
        image_shape: (H, W, C).
    """
    layers: list[Layer] = []
    previous = image_shape

    def add(module: nn.Module, name: str, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
        count = getattr(module, "flops", None)
        flops = count(shape) if count else 2 * sizes.get("kernel", 0) * math.prod(shape[:-1])
        purpose = PURPOSES.get(name.rstrip("0123456789")) or (module.__doc__ or "").split("\n")[0]
        path = "/".join((*module.path[:-1], name))
        layers.append(Layer(path, shape, sum(sizes.values()), flops, purpose))

    def record(next_fun, args, kwargs, context):
        nonlocal previous
        module, rows = context.module, len(layers)
        if module is model or context.method_name != "__call__":
            return next_fun(*args, **kwargs)
        inputs = _without_batch(args[0].shape)
        if len(inputs) == 1 < len(previous):  # what models do themselves, before this module
            layers.append(_reshaped(inputs, previous))
        output = next_fun(*args, **kwargs)
        previous = _without_batch(output.shape)
        params = module.variables.get("params", {})
        sizes = {name: leaf.size for name, leaf in params.items() if hasattr(leaf, "size")}
        if isinstance(module, ConvPool) and module.pool != "stride" and module.pool_size > 1:
            conv = functools.partial(conv_pool, stride=module.stride, padding=module.padding)
            before_pool = jax.eval_shape(conv, args[0], params["kernel"])
            add(module, str(module.name), _without_batch(before_pool.shape), sizes)
            add(module, f"{module.pool}_pool", previous, {})
        elif sizes or rows == len(layers):  # not a mere container of the rows since
            add(module, str(module.name), previous, sizes)
        return output

    with nn.intercept_methods(record):
        images = jax.ShapeDtypeStruct((BATCH, *image_shape), jnp.float32)
        jax.eval_shape(model.init, jax.random.key(0), images)
    return [*layers]  # a copy: with `python -O`, Flax leaves its interceptor in place


def _without_batch(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[B, ...] -> (...), and [C, H, W, B], as between convolutions, -> (H, W, C)."""
    return shape[1:] if shape[0] == BATCH else (*shape[1:-1], shape[0])


def _reshaped(shape: tuple[int, ...], previous: tuple[int, ...]) -> Layer:
    """The row of what makes a vector of feature maps or tokens."""
    name = "flatten" if math.prod(shape) == math.prod(previous) else "mean"
    return Layer(name, shape, 0, 0, PURPOSES[name])


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
