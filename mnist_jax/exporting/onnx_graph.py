"""JAX's primitives as a graph of ONNX operators.

JAX traces a function into primitives, which the tables at the end translate. Values independent of
the input are computed here. Broadcasting is left to ONNX, which does it like NumPy. A transposition
only notes the order of the axes, until an operator needs another order. So convolutions with the
batch last, as in `models`, become convolutions with the batch first, without transpositions.

References:
    https://docs.jax.dev/en/latest/jaxpr.html
    https://onnx.ai/onnx/operators
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jax.extend.core import Literal, jaxpr_as_fun
from onnx import helper, numpy_helper

from mnist_jax.exporting.contract import INPUT, OUTPUT


class Tensor(NamedTuple):
    """An array that depends on the input, as an ONNX tensor with axes in another order."""

    name: str
    axes: tuple[int, ...]  # the tensor's axis j is the array's axes[j]
    shape: tuple[Any, ...]  # of the array; 1 for axes still to be broadcast

    def places(self, axes: Sequence[int]) -> np.ndarray:
        """Returns the tensor's indices of these axes of the array, int64 [len(axes)]."""
        return np.array([self.axes.index(axis) for axis in axes], np.int64)


Array = np.ndarray | Tensor


class Graph:
    """A growing graph: nodes in order of execution, and constants by content."""

    def __init__(self, batch: Any):
        self.batch = batch  # N, the number of images, a symbol
        self.nodes: list[Any] = []
        self.constants: dict[tuple[Any, ...], Any] = {}

    def add(self, operator: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        """Adds a node; returns the name of its output."""
        names = [self.constant(x) if isinstance(x, np.ndarray) else x for x in inputs]
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], name=output, **attributes))
        return output

    def constant(self, array: np.ndarray) -> str:
        """Names a constant; equal ones share their name."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            name = f"constant_{len(self.constants)}"
            self.constants[key] = numpy_helper.from_array(array, name)
        return self.constants[key].name

    def hold(self, array: Array, axes: Sequence[int]) -> str:
        """Names a tensor that holds the array's axes in this order."""
        if isinstance(array, np.ndarray):
            return self.constant(array.transpose(axes))
        if array.axes == tuple(axes):
            return array.name
        return self.add("Transpose", array.name, perm=array.places(axes).tolist())

    def combine(self, operator: str, *arrays: Array, **attributes: Any) -> Tensor:
        """Adds an elementwise operator on arrays of one rank and scalars."""
        rank = max(len(array.shape) for array in arrays)
        orders = {array.axes for array in arrays if isinstance(array, Tensor)}
        axes = orders.pop() if len(orders) == 1 else tuple(range(rank))
        names = [self.hold(array, axes if array.shape else ()) for array in arrays]
        shapes = [array.shape or (1,) * rank for array in arrays]
        shape = [next((n for n in sizes if n != 1), 1) for sizes in zip(*shapes, strict=True)]
        return Tensor(self.add(operator, *names, **attributes), axes, tuple(shape))

    def expand(self, array: Array, shape: tuple[Any, ...]) -> Array:
        """Adds an explicit broadcast."""
        if array.shape == shape:
            return array
        axes = tuple(range(len(shape))) if isinstance(array, np.ndarray) else array.axes
        target = []
        for axis in axes:
            size = 1 if array.shape[axis] == shape[axis] else shape[axis]  # 1 keeps the axis
            if size == self.batch:
                target.append(self.add("Shape", INPUT, start=0, end=1))
            elif isinstance(size, int):
                target.append(np.array([size]))
            else:
                raise ValueError(f"an ONNX graph here has no size {size}; export to StableHLO")
        target = self.add("Concat", *target, axis=0)
        return Tensor(self.add("Expand", self.hold(array, axes), target), axes, shape)

    def reshape(self, array: Array, shape: tuple[Any, ...]) -> Array:
        """Changes an array's shape.

        The batch is held first, unless axes on both sides of it merge: [C, H, W, N], held as
        [N, C, H, W], becomes [C * H * W, N], held as [N, C * H * W].
        """
        if isinstance(array, np.ndarray):
            return array.reshape(shape)
        if array.shape == shape:
            return array
        old, new = (
            sizes.index(self.batch) if self.batch in sizes else 0 for sizes in (array.shape, shape)
        )
        if any(math.prod(array.shape[: old + k]) != math.prod(shape[: new + k]) for k in (0, 1)):
            old = new = 0
        axes = sorted(range(len(shape)), key=lambda axis: axis != new)
        sizes = [shape[axis] if isinstance(shape[axis], int) else -1 for axis in axes]
        if sizes.count(-1) > 1:
            raise ValueError(f"an ONNX graph here has no shape {shape}; export to StableHLO")
        held = self.hold(array, sorted(range(len(array.shape)), key=lambda axis: axis != old))
        return Tensor(self.add("Reshape", held, np.array(sizes)), tuple(axes), shape)


def trace(
    function: Callable[[jax.Array], jax.Array], image_shape: tuple[int, ...]
) -> tuple[Graph, tuple[Any, ...]]:
    """Converts a function of images, uint8 [N, H, W, C], to a graph and its output shape."""
    images = jax.ShapeDtypeStruct((*export.symbolic_shape("N"), *image_shape), np.uint8)
    traced = jax.make_jaxpr(function)(images)
    graph = Graph(images.shape[0])
    whole = Tensor(INPUT, (0, 1, 2, 3), images.shape)
    (result,) = _run(graph, traced.jaxpr, traced.consts, [whole])
    shape = traced.out_avals[0].shape
    held = graph.hold(graph.expand(result, shape), range(len(shape)))
    graph.nodes.append(helper.make_node("Identity", [held], [OUTPUT], name=OUTPUT))
    return graph, shape


def _run(
    graph: Graph, jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Array]
) -> list[Array]:
    """Adds a traced function to the graph; returns its outputs."""
    arrays: dict[Any, Array] = dict(zip(jaxpr.invars, inputs, strict=True))
    needed: set[Any] = {variable for variable in jaxpr.outvars if type(variable) is not Literal}
    eqns = []
    for eqn in reversed(jaxpr.eqns):  # skips unused ones
        if needed.intersection(eqn.outvars):
            eqns.append(eqn)
            needed.update(variable for variable in eqn.invars if type(variable) is not Literal)
    held = zip(jaxpr.constvars, constants, strict=True)
    arrays |= {variable: np.asarray(array) for variable, array in held if variable in needed}

    def read(variable: Any) -> Array:
        if type(variable) is Literal:  # perhaps a Python number
            return np.asarray(variable.val, variable.aval.dtype)  # pyright: ignore
        return arrays[variable]

    for eqn in reversed(eqns):
        operands = [read(variable) for variable in eqn.invars]
        arrays |= zip(eqn.outvars, _results(graph, eqn, operands), strict=True)
    return [read(variable) for variable in jaxpr.outvars]


def _results(graph: Graph, eqn: Any, operands: Sequence[Array]) -> Sequence[Array]:
    """Adds an equation, or computes it if its operands are constants.

    The broadcast of a constant is added, because a computed one would enlarge the file.
    """
    name, params = eqn.primitive.name, eqn.params
    if name in INLINED:
        inner = params.get("jaxpr") or params["call_jaxpr"]
        return _run(graph, getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), operands)
    avals = [variable.aval for variable in (*eqn.invars, *eqn.outvars)]
    pairs = [(x, aval.shape) for x, aval in zip(operands, avals, strict=False)]
    is_constant = all(isinstance(x, np.ndarray) for x in operands)
    if is_constant and all(_are_known(aval.shape) for aval in avals) and name != "broadcast_in_dim":
        result = eqn.primitive.bind(*(np.broadcast_to(*pair) for pair in pairs), **params)
        return [np.asarray(x) for x in (result if eqn.primitive.multiple_results else [result])]
    if name in REWRITTEN:
        return _rewrite(graph, lambda *arrays: REWRITTEN[name](*arrays, **params), eqn, operands)
    if name in ELEMENTWISE:
        return [graph.combine(ELEMENTWISE[name], *operands)]
    if name in BROADCASTING:
        return [BROADCASTING[name](graph, eqn, *operands)]
    if name in OTHERS:
        return [OTHERS[name](graph, eqn, *(graph.expand(*pair) for pair in pairs))]
    raise ValueError(
        f"the network uses {name}, which has no translation to ONNX: add one to "
        "mnist_jax/exporting/onnx_graph.py, or export to StableHLO"
    )


def _rewrite(
    graph: Graph, function: Callable[..., Any], eqn: Any, operands: Sequence[Array]
) -> Sequence[Array]:
    """Adds a function instead of an equation."""
    avals = [variable.aval for variable in eqn.invars[: len(operands)]]
    traced = jax.make_jaxpr(function)(*avals)
    return _run(graph, traced.jaxpr, traced.consts, operands)


def _are_known(sizes: Sequence[Any]) -> bool:
    """Tells whether sizes are independent of the number of images."""
    return all(isinstance(size, int) for size in sizes)


def _expect(condition: Any, eqn: Any, what: str) -> None:
    if not condition:
        raise ValueError(
            f"the network uses {eqn.primitive.name} with {what}, which has no translation to ONNX: "
            "export to StableHLO"
        )


def _convolution(graph: Graph, eqn: Any, images: Array, kernel: Array) -> Array:
    params = eqn.params
    _expect(np.min(params["padding"]) >= 0, eqn, "crops")
    _expect({*params["lhs_dilation"], params["batch_group_count"]} == {1}, eqn, "dilated images")
    images_axes, kernel_axes, output_axes = params["dimension_numbers"]
    output = graph.add(
        "Conv",
        graph.hold(images, images_axes),
        graph.hold(kernel, kernel_axes),
        group=params["feature_group_count"],
        strides=params["window_strides"],
        dilations=params["rhs_dilation"],
        pads=np.ravel(params["padding"], "F").tolist(),
    )
    return Tensor(output, tuple(output_axes), eqn.outvars[0].aval.shape)


def _pool(graph: Graph, eqn: Any, x: Tensor) -> Tensor:
    """Adds the maximum of each window, or its sum: the mean times the size."""
    params, shape = eqn.params, eqn.outvars[0].aval.shape
    names = ("window_dimensions", "window_strides", "padding")
    windows = [*zip(*(params[name] for name in names), strict=True)]
    still = [axis for axis in x.axes if windows[axis] == (1, 1, (0, 0))]
    if len(still) == len(windows):
        return x
    _expect(len(still) >= 2, eqn, "windows over the batch or the features")
    _expect({*params["base_dilation"], *params["window_dilation"]} == {1}, eqn, "dilation")
    moving = [axis for axis in x.axes if axis not in still[:2]]
    size, strides, padding = zip(*(windows[axis] for axis in moving), strict=True)
    options = {"kernel_shape": size, "strides": strides, "pads": np.ravel(padding, "F").tolist()}
    axes = (*still[:2], *moving)
    held = graph.hold(x, axes)
    if eqn.primitive.name == "reduce_window_max":
        return Tensor(graph.add("MaxPool", held, **options), axes, shape)
    means = Tensor(graph.add("AveragePool", held, count_include_pad=1, **options), axes, shape)
    return graph.combine("Mul", means, np.asarray(math.prod(size), eqn.outvars[0].aval.dtype))


def _product(graph: Graph, eqn: Any, a: Array, b: Array) -> Array:
    """Adds a matrix product, or one for each index of the common axes.

    The summed axes become one, and so do the kept ones.
    """
    (a_summed, b_summed), (a_common, b_common) = eqn.params["dimension_numbers"]
    a_free = [axis for axis in range(len(a.shape)) if axis not in (*a_summed, *a_common)]
    b_free = [axis for axis in range(len(b.shape)) if axis not in (*b_summed, *b_common)]
    # Without common axes, MatMul takes any number of a's own axes.
    a_groups = [a_free] if a_common else [[axis] for axis in a_free]
    left = _merged(graph, a, [*([axis] for axis in a_common), *a_groups, a_summed])
    right = _merged(graph, b, [*([axis] for axis in b_common), b_summed, b_free])
    names = (graph.hold(array, range(len(array.shape))) for array in (left, right))
    shape = (*left.shape[:-1], right.shape[-1])
    product = Tensor(graph.add("MatMul", *names), tuple(range(len(shape))), shape)
    return graph.reshape(product, eqn.outvars[0].aval.shape)


def _merged(graph: Graph, array: Array, groups: Sequence[Sequence[int]]) -> Array:
    """Merges each group of axes into one."""
    array = _transposed(array, [axis for group in groups for axis in group])
    sizes = iter(array.shape)
    shape = tuple(math.prod(next(sizes) for _ in group) for group in groups)
    return graph.reshape(array, shape)


def _reduce(graph: Graph, eqn: Any, x: Tensor) -> Tensor:
    gone = eqn.params["axes"]
    rest = [axis for axis in range(len(x.shape)) if axis not in gone]
    operator = eqn.primitive.name.title().replace("_", "")  # reduce_max: ReduceMax
    output = graph.add(operator, x.name, x.places(gone), keepdims=0)
    axes = tuple(rest.index(axis) for axis in x.axes if axis in rest)
    return Tensor(output, axes, eqn.outvars[0].aval.shape)


def _pad(graph: Graph, eqn: Any, x: Tensor, value: Array) -> Tensor:
    low, high, between = np.array(eqn.params["padding_config"])[[*x.axes]].T
    _expect(not between.any(), eqn, "padding between the numbers")
    if not (low.any() or high.any()):
        return x
    output = graph.add("Pad", x.name, np.concatenate([low, high]), graph.hold(value, ()))
    return Tensor(output, x.axes, eqn.outvars[0].aval.shape)


def _slice(graph: Graph, eqn: Any, x: Tensor) -> Array:
    rank = len(x.shape)
    fields = ("start_indices", "limit_indices", "strides")
    cuts = [*zip(*(eqn.params[field] or (1,) * rank for field in fields), strict=True)]
    axes = [axis for axis in range(rank) if cuts[axis] != (0, x.shape[axis], 1)]
    chosen = [cuts[axis] for axis in axes]
    _expect(all(map(_are_known, chosen)), eqn, "a number of images")
    begin, end, step = np.array(chosen, np.int64).reshape(-1, 3).T
    output = graph.add("Slice", x.name, begin, end, x.places(axes), step) if axes else x.name
    return Tensor(output, x.axes, eqn.outvars[0].aval.shape)


def _gather(graph: Graph, eqn: Any, x: Array, places: Array) -> Array:
    """Adds a slice at a known place, such as x[:, 0]."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    is_known = isinstance(places, np.ndarray) and places.ndim == 1
    _expect(is_known, eqn, "other places than one known")
    begins = [0] * len(sizes)
    for axis, place in zip(numbers.start_index_map, np.asarray(places).tolist(), strict=True):
        begins[axis] = place
    ends = [begin + size for begin, size in zip(begins, sizes, strict=True)]
    shape = eqn.outvars[0].aval.shape
    return _rewrite(graph, lambda x: lax.slice(x, begins, ends).reshape(shape), eqn, [x])[0]


def _concatenate(graph: Graph, eqn: Any, *arrays: Array) -> Tensor:
    axes = next(array.axes for array in arrays if isinstance(array, Tensor))
    place = axes.index(eqn.params["dimension"])
    output = graph.add("Concat", *(graph.hold(array, axes) for array in arrays), axis=place)
    return Tensor(output, axes, eqn.outvars[0].aval.shape)


def _broadcast(graph: Graph, eqn: Any, x: Array) -> Array:
    """Inserts axes of size 1, which ONNX broadcasts in use."""
    shape = [1] * len(eqn.params["shape"])
    for size, axis in zip(x.shape, eqn.params["broadcast_dimensions"], strict=True):
        shape[axis] = size
    return graph.reshape(x, tuple(shape))


def _transposed(x: Array, order: Sequence[int]) -> Array:
    if isinstance(x, np.ndarray):
        return x.transpose(order)
    return Tensor(x.name, tuple(map(order.index, x.axes)), tuple(x.shape[axis] for axis in order))


def _convert(graph: Graph, eqn: Any, x: Array) -> Tensor:
    _expect(eqn.params["new_dtype"] != jnp.bfloat16, eqn, "bfloat16")
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"]))
    return graph.combine("Cast", x, to=dtype)


def _maximum(graph: Graph, _: Any, a: Array, b: Array) -> Tensor:
    a, b = (b, a) if isinstance(a, np.ndarray) else (a, b)
    is_rectifier = isinstance(b, np.ndarray) and not b.any()
    return graph.combine("Relu", a) if is_rectifier else graph.combine("Max", a, b)


def _scan(*operands: Any, jaxpr: Any, length: int, reverse: bool, **params: Any) -> list[Any]:
    """Unrolls a loop, such as one over the parameters of layers."""
    start, count = params["num_consts"], params["num_carry"]
    end = start + count
    carry, rows = operands[start:end], {}
    for turn in range(length)[:: -1 if reverse else 1]:
        over = (lax.index_in_dim(x, turn, keepdims=False) for x in operands[end:])
        results = jaxpr_as_fun(jaxpr)(*operands[:start], *carry, *over)
        carry, rows[turn] = results[:count], results[count:]
    return [*carry, *map(jnp.stack, zip(*(rows[turn] for turn in range(length)), strict=True))]


INLINED = {"checkpoint", "closed_call", "jit", "pjit", "remat2"}
INLINED |= {"custom_jvp_call", "custom_vjp_call"}
# Primitives as functions of other primitives, (*arrays, **params).
REWRITTEN: dict[str, Callable[..., Any]] = {
    "expm1": lambda x, **_: lax.exp(x) - 1,
    "integer_pow": lambda x, y: lax.pow(x, lax.full_like(x, y)),
    "is_finite": lambda x: lax.abs(x) < np.inf,
    "log1p": lambda x, **_: lax.log(x + 1),
    "ne": lambda a, b: ~lax.eq(a, b),
    "rsqrt": lambda x, **_: 1 / lax.sqrt(x),
    "scan": _scan,
    "split": lambda x, sizes, axis: [
        lax.slice_in_dim(x, sum(sizes[:i]), sum(sizes[: i + 1]), axis=axis)
        for i in range(len(sizes))
    ],
    "square": lambda x: x * x,
    "stack": lambda *x, axis: lax.concatenate([lax.expand_dims(a, [axis]) for a in x], axis),
    "stop_gradient": lambda x: x,
}
SAME_NAME = "abs add and cos div erf exp log min mul neg not or pow sign sin sqrt sub tanh"
ELEMENTWISE = {
    **{name: name.capitalize() for name in SAME_NAME.split()},
    **{"eq": "Equal", "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "lt": "Less"},
    "logistic": "Sigmoid",
}
# Primitives of arrays with axes still to be broadcast, as (graph, equation, *operands).
BROADCASTING: dict[str, Callable[..., Array]] = {
    "broadcast_in_dim": _broadcast,
    "convert_element_type": _convert,
    "max": _maximum,
    "select_n": lambda graph, _, which, no, yes: graph.combine("Where", which, yes, no),
    "transpose": lambda _, eqn, x: _transposed(x, eqn.params["permutation"]),
}
# Primitives of whole arrays.
OTHERS: dict[str, Callable[..., Array]] = {
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "gather": _gather,
    "pad": _pad,
    **dict.fromkeys(("reduce_max", "reduce_min", "reduce_sum"), _reduce),
    **dict.fromkeys(("reduce_window_max", "reduce_window_sum"), _pool),
    **dict.fromkeys(
        ("reshape", "squeeze"), lambda graph, eqn, x: graph.reshape(x, eqn.outvars[0].aval.shape)
    ),
    "slice": _slice,
}
