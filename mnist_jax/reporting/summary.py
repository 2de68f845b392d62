"""The layer table of a network, traced from its module."""

import collections
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from mnist_jax.config import LARGEST, Config
from mnist_jax.datasets import load_splits
from mnist_jax.datasets.info import DataInfo
from mnist_jax.forward import Forward
from mnist_jax.models import create_model
from mnist_jax.models.layers import ConvPool
from mnist_jax.parts import OwnModel, Parts, own_model
from mnist_jax.workdir.hashing import named_leaves

BATCH = LARGEST + 1  # only the batch's axis is as large
SCOPE = "mnist_jax_call_"  # with the call's number, in the names of its operations
RESHAPED = ("",)

Shape = tuple[int, ...]
Path = tuple[str, ...]  # of a module, from the model down
# A module's call, and shapes of one image: of the previous output, the input and the output.
Call = tuple[nn.Module, Shape, Shape, Shape]

PURPOSES = {
    "attention": "lets each token gather what it needs from all tokens",
    "conv": "finds small patterns: each filter slides over the image and responds where it fits",
    "dense": "combines all patterns into evidence; every output sees every input",
    "dropout": "in training, silences units at random, so that none is indispensable",
    "flatten": "turns the feature maps into one vector",
    "key": "what each token offers: attention is high where it matches a query",
    "max_pool": "keeps the strongest response of each window: fewer numbers, small shifts forgiven",
    "mean": "averages over all places: where a pattern was found no longer matters",
    "mean_pool": "keeps the mean response of each window: fewer numbers, small shifts forgiven",
    "norm": "normalises to mean 0 and variance 1, then scales and shifts: steadier training",
    "output": "one score (logit) per class; softmax turns them into probabilities",
    "patches": "cuts the image into squares and describes each by a vector, a token",
    "position": "tells each token where it is",
    "projection": "maps what attention has gathered back to the tokens' size",
    "query": "what each token looks for",
    "shortcut": "maps a block's input to the shape of its output",
    "value": "what each token passes on where it is attended to",
}


class Layer(NamedTuple):
    """A row of the table.

    `flops` count one image's forward pass. `lowering` names a convolution's, see `ops.conv_pool`.
    """

    name: str
    shape: Shape
    params: int
    flops: int
    purpose: str
    lowering: str = ""


def summarize_recipe(
    config: Config,
    image_shape: Shape | None = None,
    num_classes: int | None = None,
    *,
    model: OwnModel = None,
    splits: Any = None,
) -> tuple[Shape, list[Layer]]:
    """Summarizes a recipe's model, by default for the images and classes of its dataset.

    An own model and splits replace the recipe's, as in `train`. Returns the images' shape,
    (H, W, C), and the layers. Raises ValueError if a size is not 1 to LARGEST, or the model does
    not fit the images.
    """
    classes = () if num_classes is None else (num_classes,)
    for name, sizes in (("image-shape", image_shape or ()), ("num-classes", classes)):
        if not all(1 <= size <= LARGEST for size in sizes):
            raise ValueError(f"--{name} must be 1 to {LARGEST}, got {sizes}")
    if image_shape is None or num_classes is None:
        splits, label_names = load_splits(**vars(config.data), own=splits)
        image_shape = image_shape or (*splits["train"].images.shape[1:],)
        num_classes = len(label_names) if num_classes is None else num_classes
    info = DataInfo(image_shape, tuple(map(str, range(num_classes))))
    # Arrays have no names of classes; an own model may know more classes.
    module = own_model(Parts(model=model, splits=splits), info) or create_model(
        num_classes=num_classes, **vars(config.model)
    )
    lowerings = _lowerings(module, (config.batch_size, *image_shape))
    layers = summarize(module, image_shape)
    return image_shape, [each._replace(lowering=lowerings.get(each.name, "")) for each in layers]


def summarize(model: nn.Module, image_shape: Shape) -> list[Layer]:
    """Returns the layers of a model of images (H, W, C), in the order of their calls.

    The model is traced, not run. A layer is a module with parameters or products of its own, or one
    that calls no other module; each is listed once. A multiplication and an addition are two FLOPs;
    only those of matrix products and convolutions count.
    """
    # Other lowerings of the same convolutions have more products.
    forward = Forward(model.clone(lowering="xla") if hasattr(model, "lowering") else model)
    images = jax.ShapeDtypeStruct((BATCH, *image_shape), jnp.float32)
    variables = jax.eval_shape(forward.init, jax.random.key(0), images)
    calls, products, primitives = _trace(forward, variables, images)
    sizes: collections.Counter[Path] = collections.Counter()
    for name, leaf in named_leaves(variables["params"]).items():
        path = tuple(name.split("/"))
        while path not in calls:  # ends at the model, ()
            path = path[:-1]
        sizes[path] += leaf.size
    layers: list[Layer] = []
    for path, (module, before, given, shape) in calls.items():
        if path[:1] == RESHAPED:
            if name := _reshaping(given, before, primitives[path[1:-1]]):
                layers.append(Layer(name, given, 0, 0, PURPOSES[name]))
            continue
        is_container = any(path == other[: len(path)] != other for other in calls)
        if is_container and not (sizes[path] or products[path]):
            continue
        name = path[-1] if path else type(model).__name__
        shapes = {name: shape}
        if isinstance(module, ConvPool) and module.pool != "stride" and module.pool_size > 1:
            before_pool: Any = jax.eval_shape(
                module.clone(parent=None, pool_size=1).init_with_output,
                jax.random.key(0),
                jax.ShapeDtypeStruct((given[-1], *given[:-1], BATCH), jnp.float32),
            )
            shapes = {name: _one(before_pool[0]), f"{module.pool}_pool": shape}
        counts = sizes[path], products[path] // BATCH
        for row, output in shapes.items():
            full_name = "/".join((*path[:-1], row))
            layers.append(Layer(full_name, output, *counts, _purpose(row, module)))
            counts = 0, 0
    return layers


def _lowerings(model: nn.Module, shape: Shape) -> dict[str, str]:
    """Returns each `ConvPool`'s lowering by name, for batches of a shape."""
    found = {}

    def record(next_fun, args, kwargs, context):
        if isinstance(context.module, ConvPool) and context.method_name == "__call__":
            found["/".join(context.module.path)] = context.module.chosen_lowering(*args)
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(record):
        images = jax.ShapeDtypeStruct(shape, jnp.float32)
        jax.eval_shape(Forward(model).init, jax.random.key(0), images)
    return found


def _trace(
    forward: Forward, variables: Any, images: Any
) -> tuple[dict[Path, Call], collections.Counter[Path], dict[Path, set[str]]]:
    """Traces a model.

    Returns:
        By module's path: its first call, preceded by one at RESHAPED + path if the caller turned
        maps into its vector; its own FLOPs for a batch; and its own primitives.
    """
    calls: dict[Path, Call] = {}
    paths: list[Path] = []
    previous = _one(images)

    def record(next_fun, args, kwargs, context):
        nonlocal previous
        if context.method_name != "__call__":
            return next_fun(*args, **kwargs)
        before, previous = previous, _one((args, kwargs), previous)
        given, path = previous, context.module.path
        if len(given) == 1 < len(before):
            calls.setdefault(RESHAPED + path, (context.module, before, given, given))
        paths.append(path)
        with jax.named_scope(f"{SCOPE}{len(paths) - 1}"):
            output = next_fun(*args, **kwargs)
        previous = _one(output, ())
        calls.setdefault(path, (context.module, before, given, previous))
        return output

    with nn.intercept_methods(record):
        program: Any = jax.make_jaxpr(forward)(variables, images)
    products: collections.Counter[Path] = collections.Counter()
    primitives: dict[Path, set[str]] = collections.defaultdict(set)
    for name, scope, flops in _equations(program.jaxpr):
        numbers = re.findall(rf"{SCOPE}(\d+)", scope)
        path = paths[int(numbers[-1])] if numbers else ()
        primitives[path].add(name)
        products[path] += flops
    return dict(calls), products, primitives


def _equations(jaxpr: Any, scope: str = "", times: int = 1) -> Iterator[tuple[str, str, int]]:
    """Yields each equation's primitive, scope and FLOPs.

    Loops count as often as is known; of several branches, each counts.
    """
    for eqn in jaxpr.eqns:
        inside = f"{scope}/{eqn.source_info.name_stack}"
        factors = 0
        if eqn.primitive.name == "dot_general":
            (summed, _), _ = eqn.params["dimension_numbers"]
            factors = math.prod(eqn.invars[0].aval.shape[axis] for axis in summed)
        elif eqn.primitive.name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            factors = math.prod(kernel) // kernel[eqn.params["dimension_numbers"][1][0]]
        flops = factors and 2 * factors * math.prod(eqn.outvars[0].aval.shape)
        yield eqn.primitive.name, inside, times * flops
        for inner in jax.tree.leaves([*eqn.params.values()], is_leaf=_is_program):
            if _is_program(inner):
                inner = getattr(inner, "jaxpr", inner)
                yield from _equations(inner, inside, times * eqn.params.get("length", 1))


def _is_program(value: Any) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")


def _one(values: Any, default: Shape = ()) -> Shape:
    """Returns the first array's shape for one image.

    [B, ...] becomes (...), and [C, H, W, B], as between convolutions, (H, W, C).
    """
    shapes = (leaf.shape for leaf in jax.tree.leaves(values) if hasattr(leaf, "shape"))
    shape = next(shapes, default)
    if shape[1:] and shape[-1] == BATCH != shape[0]:
        return (*shape[1:-1], shape[0])
    return tuple(size for size in shape if size != BATCH)


def _purpose(name: str, module: nn.Module) -> str:
    """Describes a layer's purpose by its name, or its class's docstring."""
    kind_of = re.sub(r"^(batch|group|layer)(?=norm)|_?\d+$", "", name.lower())
    if kind_of in PURPOSES:
        return PURPOSES[kind_of]
    kinds = type(module).__mro__
    for kind in kinds[: kinds.index(nn.Module)]:
        # A dataclass without a docstring gets its signature as one.
        if not str(kind.__doc__).startswith(f"{kind.__name__}("):
            return str(kind.__doc__).split("\n")[0]
    return ""


def _reshaping(shape: Shape, previous: Shape, primitives: set[str]) -> str:
    """Names the model's step from maps to a vector, "" if unknown."""
    if math.prod(shape) == math.prod(previous):
        return "flatten"
    is_mean = "reduce_sum" in primitives and "reduce_max" not in primitives
    return "mean" if shape[0] == previous[-1] and is_mean else ""


def step_flops(model: nn.Module, image_shape: Shape, batch_size: int) -> int:
    """Returns the FLOPs that a training step on a batch needs, counted as in `summarize`.

    The gradients of a layer's weights and of its inputs take two more products of the forward
    one's size; the first layer's inputs, the images, need no gradient.
    """
    flops = [layer.flops for layer in summarize(model, image_shape) if layer.flops]
    return batch_size * (3 * sum(flops) - sum(flops[:1]))


def format_table(layers: list[Layer], image_shape: Shape) -> str:
    """Writes the layers as text, with their totals."""
    image = Layer("image", image_shape, 0, 0, "pixels, scaled to 0..1")
    params, flops = sum(each.params for each in layers), sum(each.flops for each in layers)
    total = Layer("total", (), params, flops, "FLOPs: one image, forward")
    rows = [("layer", "output", "parameters", "FLOPs", "purpose")]
    rows += [
        (
            each.name,
            "x".join(map(str, each.shape)),
            f"{each.params:,}",
            f"{each.flops:,}",
            each.purpose,
        )
        for each in (image, *layers, total)
    ]
    name, shape, params, flops = (max(len(row[i]) for row in rows) for i in range(4))
    lines = [
        f"{row[0]:{name}}  {row[1]:>{shape}}  {row[2]:>{params}}  {row[3]:>{flops}}  {row[4]}"
        for row in rows
    ]
    lowered = [f"{each.name} {each.lowering}" for each in layers if each.lowering]
    return "\n".join([*lines, *([f"lowered here: {', '.join(lowered)}"] if lowered else [])])
