"""JAX's primitives as a graph of ONNX operators.

JAX traces a function into a list of primitives. The tables at the end say what each becomes in the
graph; what depends on no input is computed here instead.

Two things keep the graph small and fast. Broadcasting is left to ONNX, which does it as NumPy does.
And a transposition only notes the order in which the axes are to be read, until something needs
them in another order: networks whose batch is the last axis, as those of `models`, become
convolutions whose batch is the first, with nothing moved in between.

References:
    https://docs.jax.dev/en/latest/jaxpr.html (what a traced function is made of).
    https://onnx.ai/onnx/operators
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.extend.core import Literal
from onnx import helper, numpy_helper

from mnist_jax.exporting.contract import INPUT, OUTPUT


class Tensor(NamedTuple):
    """An array that depends on the input.

    Attributes:
        name: the ONNX tensor that holds it.
        axes: the array's axes in the tensor's order; the tensor's axis j is the array's axes[j].
        shape: the array's shape, in its own order; 1 where it is still to be broadcast.
    """

    name: str
    axes: tuple[int, ...]
    shape: tuple[Any, ...]

    def places(self, axes: Sequence[int]) -> np.ndarray:
        """Returns the places of some of the array's axes in the tensor, int64 [len(axes)]."""
        return np.array([self.axes.index(axis) for axis in axes], np.int64)


Array = np.ndarray | Tensor


class Graph:
    """A graph that grows.

    Attributes:
        batch: N, the number of images, unknown until the graph runs.
        nodes: the nodes, in the order in which they run.
        constants: the constant tensors, by content.
    """

    def __init__(self, batch: Any):
        self.batch = batch
        self.nodes: list[Any] = []
        self.constants: dict[tuple[Any, ...], Any] = {}

    def add(self, operator: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        """Adds a node; returns the name of its output."""
        names = [self.constant(x) if isinstance(x, np.ndarray) else x for x in inputs]
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], name=output, **attributes))
        return output

    def constant(self, array: np.ndarray) -> str:
        """Returns the name of a constant; equal ones share it."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            name = f"constant_{len(self.constants)}"
            self.constants[key] = numpy_helper.from_array(array, name)
        return self.constants[key].name

    def hold(self, array: Array, axes: Sequence[int]) -> str:
        """Returns the name of a tensor that holds the array's axes in this order."""
        if isinstance(array, np.ndarray):
            return self.constant(array.transpose(axes))
        if array.axes == tuple(axes):
            return array.name
        return self.add("Transpose", array.name, perm=array.places(axes).tolist())

    def combine(self, operator: str, *arrays: Array, **attributes: Any) -> Tensor:
        """Adds an elementwise operator, of arrays of one rank and of scalars."""
        rank = max(len(array.shape) for array in arrays)
        orders = {array.axes for array in arrays if isinstance(array, Tensor)}
        axes = orders.pop() if len(orders) == 1 else tuple(range(rank))
        names = [self.hold(array, axes if array.shape else ()) for array in arrays]
        shapes = [array.shape or (1,) * rank for array in arrays]
        shape = [next((n for n in sizes if n != 1), 1) for sizes in zip(*shapes, strict=True)]
        return Tensor(self.add(operator, *names, **attributes), axes, tuple(shape))

    def expand(self, array: Array, shape: tuple[Any, ...]) -> Array:
        """Carries out a broadcast that was left to ONNX."""
        if array.shape == shape:
            return array
        axes = tuple(range(len(shape))) if isinstance(array, np.ndarray) else array.axes
        # An axis stays as it is where ONNX is given 1.
        sizes = [1 if array.shape[axis] == shape[axis] else shape[axis] for axis in axes]
        target = self.add("Concat", *map(self._size, sizes), axis=0)
        return Tensor(self.add("Expand", self.hold(array, axes), target), axes, shape)

    def _size(self, size: Any) -> str:
        """Returns the name of a tensor int64 [1] with a size."""
        if isinstance(size, int):
            return self.constant(np.array([size]))
        if size != self.batch:
            raise ValueError(f"an ONNX graph here has no size {size}; export to StableHLO")
        return self.add("Shape", INPUT, start=0, end=1)

    def reshape(self, array: Array, shape: tuple[Any, ...]) -> Array:
        """Gives an array another shape.

        The batch is held first, and stays there unless axes on both sides of it merge:
        [C, H, W, N], held as [N, C, H, W], becomes [C * H * W, N], held as [N, C * H * W].
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
    """Returns the graph of a function of images, uint8 [N, H, W, C], and its output's shape."""
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
    for eqn in reversed(jaxpr.eqns):  # without what no output needs, such as initial values
        if needed.intersection(eqn.outvars):
            eqns.append(eqn)
            needed.update(variable for variable in eqn.invars if type(variable) is not Literal)
    held = zip(jaxpr.constvars, constants, strict=True)
    arrays |= {variable: np.asarray(array) for variable, array in held if variable in needed}

    def read(variable: Any) -> Array:
        if type(variable) is Literal:  # its value may be a number of Python's
            return np.asarray(variable.val, variable.aval.dtype)  # pyright: ignore
        return arrays[variable]

    for eqn in reversed(eqns):
        operands = [read(variable) for variable in eqn.invars]
        arrays |= zip(eqn.outvars, _results(graph, eqn, operands), strict=True)
    return [read(variable) for variable in jaxpr.outvars]


def _results(graph: Graph, eqn: Any, operands: Sequence[Array]) -> Sequence[Array]:
    """Adds one equation of a traced function, or computes it if its operands are constants.

    Not so a broadcast of a constant: the graph would hold all the copies.
    """
    name = eqn.primitive.name
    if name in INLINED:
        return _run(graph, *_inner(eqn), operands)
    shapes = [variable.aval.shape for variable in (*eqn.invars, *eqn.outvars)]
    pairs = [*zip(operands, shapes, strict=False)]
    is_constant = all(isinstance(x, np.ndarray) for x in operands)
    if is_constant and all(map(_is_known, shapes)) and name != "broadcast_in_dim":
        result = eqn.primitive.bind(*(np.broadcast_to(*pair) for pair in pairs), **eqn.params)
        return [np.asarray(x) for x in (result if eqn.primitive.multiple_results else [result])]
    if name in SEVERAL:
        return SEVERAL[name](graph, eqn, operands)
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


def _inner(eqn: Any) -> tuple[Any, Sequence[Any]]:
    """Returns the traced function that an equation calls, and its constants."""
    inner = eqn.params.get("jaxpr") or eqn.params["call_jaxpr"]
    return getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())


def _scan(graph: Graph, eqn: Any, operands: Sequence[Array]) -> Sequence[Array]:
    """Adds a loop over constants, such as the parameters of layers, one turn after another."""
    start = eqn.params["num_consts"]
    end = start + eqn.params["num_carry"]
    over = [
        np.broadcast_to(x, variable.aval.shape)
        for x, variable in zip(operands[end:], eqn.invars[end:], strict=True)
        if isinstance(x, np.ndarray)
    ]
    _expect(len(over) == len(operands) - end, eqn, "a loop over what depends on the images")
    _expect(len(eqn.outvars) == end - start, eqn, "an output of each turn")
    turns = range(eqn.params["length"])
    carry = operands[start:end]
    for turn in reversed(turns) if eqn.params["reverse"] else turns:
        carry = _run(graph, *_inner(eqn), [*operands[:start], *carry, *(x[turn] for x in over)])
    return carry


def _is_known(sizes: Sequence[Any]) -> bool:
    """Tells whether the sizes are the same for any number of images."""
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
        strides=params["window_strides"],
        pads=np.ravel(params["padding"], "F").tolist(),
        dilations=params["rhs_dilation"],
        group=params["feature_group_count"],
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
    """Adds a product of two matrices, or of a pair of them for each index of the common axes.

    Several axes that are summed over, or kept, become one.
    """
    (a_summed, b_summed), (a_common, b_common) = eqn.params["dimension_numbers"]
    a_free = [axis for axis in range(len(a.shape)) if axis not in (*a_summed, *a_common)]
    b_free = [axis for axis in range(len(b.shape)) if axis not in (*b_summed, *b_common)]
    # Without common axes, a may have any number of its own: as many products with one b.
    a_groups = [a_free] if a_common else [[axis] for axis in a_free]
    left = _merged(graph, a, [*([axis] for axis in a_common), *a_groups, a_summed])
    right = _merged(graph, b, [*([axis] for axis in b_common), b_summed, b_free])
    names = (graph.hold(array, range(len(array.shape))) for array in (left, right))
    shape = (*left.shape[:-1], right.shape[-1])
    product = Tensor(graph.add("MatMul", *names), tuple(range(len(shape))), shape)
    return graph.reshape(product, eqn.outvars[0].aval.shape)


def _merged(graph: Graph, array: Array, groups: Sequence[Sequence[int]]) -> Array:
    """Returns an array with an axis for each group of its axes, in this order."""
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


def _slice(graph: Graph, eqn: Any, x: Tensor) -> Tensor:
    params = eqn.params
    steps = params["strides"] or (1,) * len(x.shape)
    cuts = [*zip(params["start_indices"], params["limit_indices"], steps, strict=True)]
    return _cut(graph, eqn, x, cuts, eqn.outvars[0].aval.shape)


def _cut(graph: Graph, eqn: Any, x: Tensor, cuts: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    """Adds a slice: by axis where it begins, where it ends, and its step."""
    cut = [axis for axis, size in enumerate(x.shape) if cuts[axis] != (0, size, 1)]
    _expect(all(_is_known(cuts[axis]) for axis in cut), eqn, "a number of images")
    begin, end, step = np.array([cuts[axis] for axis in cut], np.int64).reshape(-1, 3).T
    return Tensor(graph.add("Slice", x.name, begin, end, x.places(cut), step), x.axes, shape)


def _split(graph: Graph, eqn: Any, operands: Sequence[Array]) -> Sequence[Array]:
    x: Any = graph.expand(operands[0], eqn.invars[0].aval.shape)
    cuts: list[Any] = [(0, size, 1) for size in x.shape]
    parts, begin, axis = [], 0, eqn.params["axis"]
    for size, variable in zip(eqn.params["sizes"], eqn.outvars, strict=True):
        size = int(size)  # of NumPy, where it comes from jnp.split
        cuts[axis] = (begin, begin + size, 1)
        parts.append(_cut(graph, eqn, x, cuts, variable.aval.shape))
        begin += size
    return parts


def _gather(graph: Graph, eqn: Any, x: Any, indices: Any) -> Array:
    """Adds a slice at a place that is known, such as x[:, 0]."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    is_slice = isinstance(x, Tensor) and isinstance(indices, np.ndarray) and indices.ndim == 1
    _expect(is_slice and not numbers.operand_batching_dims, eqn, "other places than one known")
    begins = dict(zip(numbers.start_index_map, indices.tolist(), strict=True))
    cuts = [(begins.get(axis, 0), begins.get(axis, 0) + n, 1) for axis, n in enumerate(sizes)]
    fits = all(cuts[axis][0] >= 0 and cuts[axis][1] <= x.shape[axis] for axis in begins)
    _expect(fits, eqn, "a place that is outside")
    return graph.reshape(_cut(graph, eqn, x, cuts, sizes), eqn.outvars[0].aval.shape)


def _concatenate(graph: Graph, eqn: Any, *arrays: Array) -> Tensor:
    axes = next(array.axes for array in arrays if isinstance(array, Tensor))
    place = axes.index(eqn.params["dimension"])
    output = graph.add("Concat", *(graph.hold(array, axes) for array in arrays), axis=place)
    return Tensor(output, axes, eqn.outvars[0].aval.shape)


def _reshape(graph: Graph, eqn: Any, x: Tensor) -> Array:
    return graph.reshape(x, eqn.outvars[0].aval.shape)


def _broadcast(graph: Graph, eqn: Any, x: Array) -> Array:
    """Inserts axes of size 1, which ONNX broadcasts where the result is used."""
    shape = [1] * len(eqn.params["shape"])
    for size, axis in zip(x.shape, eqn.params["broadcast_dimensions"], strict=True):
        shape[axis] = size
    return graph.reshape(x, tuple(shape))


def _transpose(graph: Graph, eqn: Any, x: Array) -> Array:
    del graph
    return _transposed(x, eqn.params["permutation"])


def _transposed(x: Array, order: Sequence[int]) -> Array:
    if isinstance(x, np.ndarray):
        return x.transpose(order)
    return Tensor(x.name, tuple(map(order.index, x.axes)), tuple(x.shape[axis] for axis in order))


def _convert(graph: Graph, eqn: Any, x: Array) -> Tensor:
    _expect(eqn.params["new_dtype"] != jnp.bfloat16, eqn, "bfloat16")
    return graph.combine(
        "Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"]))
    )


def _maximum(graph: Graph, _: Any, a: Array, b: Array) -> Tensor:
    a, b = (b, a) if isinstance(a, np.ndarray) else (a, b)
    is_rectifier = isinstance(b, np.ndarray) and not b.any()
    return graph.combine("Relu", a) if is_rectifier else graph.combine("Max", a, b)


def _power(graph: Graph, eqn: Any, x: Array) -> Tensor:
    return graph.combine("Pow", x, np.asarray(eqn.params["y"], eqn.invars[0].aval.dtype))


ONE = np.ones((), np.float32)
# Functions that become part of the one that calls them.
INLINED = (
    "checkpoint",
    "closed_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "jit",
    "pjit",
    "remat2",
)
# Elementwise primitives, with their operators.
ELEMENTWISE = {
    **{
        name: name.capitalize() for name in ("abs", "add", "and", "div", "erf", "exp", "log", "min")
    },
    **{name: name.capitalize() for name in ("cos", "mul", "neg", "not", "or", "pow", "sign")},
    **{name: name.capitalize() for name in ("sin", "sqrt", "sub", "tanh")},
    **{"eq": "Equal", "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "lt": "Less"},
    "logistic": "Sigmoid",
}
# Other primitives of arrays that are still to be broadcast, as (graph, equation, *operands).
BROADCASTING: dict[str, Callable[..., Array]] = {
    "broadcast_in_dim": _broadcast,
    "convert_element_type": _convert,
    "expm1": lambda graph, _, x: graph.combine("Sub", graph.combine("Exp", x), ONE),
    "integer_pow": _power,
    "is_finite": lambda graph, _, x: graph.combine(
        "Not", graph.combine("Or", graph.combine("IsInf", x), graph.combine("IsNaN", x))
    ),
    "log1p": lambda graph, _, x: graph.combine("Log", graph.combine("Add", x, ONE)),
    "max": _maximum,
    "ne": lambda graph, _, a, b: graph.combine("Not", graph.combine("Equal", a, b)),
    "rsqrt": lambda graph, _, x: graph.combine("Reciprocal", graph.combine("Sqrt", x)),
    "select_n": lambda graph, _, which, no, yes: graph.combine("Where", which, yes, no),
    "square": lambda graph, _, x: graph.combine("Mul", x, x),
    "stop_gradient": lambda _graph, _eqn, x: x,
    "transpose": _transpose,
}
# Primitives of whole arrays.
OTHERS: dict[str, Callable[..., Array]] = {
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "gather": _gather,
    "pad": _pad,
    "reduce_max": _reduce,
    "reduce_min": _reduce,
    "reduce_sum": _reduce,
    "reduce_window_max": _pool,
    "reduce_window_sum": _pool,
    "reshape": _reshape,
    "slice": _slice,
    "squeeze": _reshape,
}
# Primitives with several outputs, of arrays that are still to be broadcast.
SEVERAL: dict[str, Callable[..., Sequence[Array]]] = {"scan": _scan, "split": _split}
