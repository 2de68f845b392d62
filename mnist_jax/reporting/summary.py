"""The layer table of a network, read off the module itself."""

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

BATCH = LARGEST + 1  # nothing else in a network is as large: an axis of this size is the batch
SCOPE = "mnist_jax_call_"  # with the number of a call, in the names of what is computed there
RESHAPED = ("",)

Shape = tuple[int, ...]
Path = tuple[str, ...]  # of a module, from the model down
# A module's call: the previous output's shape, that given, and that returned, of one image each.
Call = tuple[nn.Module, Shape, Shape, Shape]

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
    """A row of the table.

    `flops` are those of the forward pass of one image. `lowering` says how a convolution is
    computed here, see `ops.conv_pool`; other layers have "".
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

    Model and splits are own ones in place of the recipe's, as in `train`. Returns the shape of the
    images, (H, W, C), and the layers. Raises ValueError if a size is not 1 to LARGEST, or the
    model does not fit the images.
    """
    if image_shape is None or num_classes is None:
        splits, label_names = load_splits(**vars(config.data), own=splits)
        image_shape = image_shape or (*splits["train"].images.shape[1:],)
        num_classes = len(label_names) if num_classes is None else num_classes
    for name, sizes in (("image-shape", image_shape), ("num-classes", (num_classes,))):
        if not all(1 <= size <= LARGEST for size in sizes):
            raise ValueError(f"--{name} must be 1 to {LARGEST}, got {sizes}")
    info = DataInfo(image_shape, tuple(map(str, range(num_classes))))
    # Of arrays the classes have no names: an own model may know more of them.
    module = own_model(Parts(model=model, splits=splits), info) or create_model(
        num_classes=num_classes, **vars(config.model)
    )
    lowerings = _lowerings(module, (config.batch_size, *image_shape))
    layers = summarize(module, image_shape)
    return image_shape, [each._replace(lowering=lowerings.get(each.name, "")) for each in layers]


def summarize(model: nn.Module, image_shape: Shape) -> list[Layer]:
    """Returns the layers of a model of images (H, W, C), in the order of the data.

    The model is traced, not run. A layer is a module that has parameters or products of its own, or
    that calls no other module; the model is one, too, where it has some. Each is listed once,
    however often it is called. A multiplication and an addition are two FLOPs; only those of matrix
    products and convolutions are counted.
    """
    # The other lowerings of the same convolutions have more products.
    forward = Forward(model.clone(lowering="xla") if hasattr(model, "lowering") else model)
    images = jax.ShapeDtypeStruct((BATCH, *image_shape), jnp.float32)
    variables = jax.eval_shape(forward.init, jax.random.key(0), images)
    calls, products, primitives = _trace(forward, variables, images)
    sizes: collections.Counter[Path] = collections.Counter()
    for name, leaf in named_leaves(variables["params"]).items():
        path = tuple(name.split("/"))
        while path not in calls:  # at last of the model, whose path is empty
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
    """Returns the lowering of each `ConvPool` by its name, for batches of images of a shape."""
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
        By the path of each module its first call, and before it, at RESHAPED with that path, one
        where vectors are made first; its own FLOPs, of a batch; and its own primitives.
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
    """Yields the primitive, the scope and the FLOPs of each equation of a program.

    What a loop repeats counts as often as it is known to be; of several branches, each counts.
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
    """Returns the shape that the first array of several has for one image.

    That is [B, ...] -> (...), and [C, H, W, B], as between convolutions, -> (H, W, C).
    """
    shapes = (leaf.shape for leaf in jax.tree.leaves(values) if hasattr(leaf, "shape"))
    shape = next(shapes, default)
    if shape[1:] and shape[-1] == BATCH != shape[0]:
        return (*shape[1:-1], shape[0])
    return tuple(size for size in shape if size != BATCH)


def _purpose(name: str, module: nn.Module) -> str:
    """Says what a layer is for: by its name, or in the first line of its class's docstring."""
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
    """Names what a model does itself to get a vector, "" where that is not known."""
    if math.prod(shape) == math.prod(previous):
        return "flatten"
    is_mean = "reduce_sum" in primitives and "reduce_max" not in primitives
    return "mean" if shape[0] == previous[-1] and is_mean else ""


def step_flops(model: nn.Module, image_shape: Shape, batch_size: int) -> int:
    """Returns the FLOPs that a training step on a batch cannot do without.

    Two products of the same size as the forward one give the gradients of a layer's weights and of
    its inputs; the first layer's inputs are the images, which need none. Counted as in `summarize`.
    """
    flops = [layer.flops for layer in summarize(model, image_shape) if layer.flops]
    return batch_size * (3 * sum(flops) - sum(flops[:1]))


def format_table(layers: list[Layer], image_shape: Shape) -> str:
    """Lays the layers out as text, with the totals below."""
    image = Layer("image", image_shape, 0, 0, "pixels, scaled to 0..1")
    params, flops = (sum(getattr(layer, name) for layer in layers) for name in ("params", "flops"))
    total = Layer("total", (), params, flops, "FLOPs: one image, forward")
    rows = [("layer", "output", "parameters", "FLOPs", "what it is for")]
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
