"""A graph of ONNX operators, built one array after another.

Two things keep it small and fast. Broadcasting is left to ONNX, which does it as NumPy does. And a
transposition only notes the order in which the axes are to be read, until something needs them in
another one: networks whose batch is the last axis, as those of `models`, become convolutions whose
batch is the first, with nothing moved in between.

References:
    https://onnx.ai/onnx/operators
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Tensor(NamedTuple):
    """An array that depends on the input.

    Attributes:
        name: of the ONNX tensor that holds it.
        axes: the tensor's axis j is the array's axis axes[j].
        shape: of the array, in the array's own order; 1 where it is still to be broadcast.
    """

    name: str
    axes: tuple[int, ...]
    shape: tuple[Any, ...]

    def places(self, axes: Sequence[int]) -> np.ndarray:
        """Returns the tensor's axes that are these axes of the array, int64 [len(axes)]."""
        return np.array([self.axes.index(axis) for axis in axes], np.int64)


Array = np.ndarray | Tensor


class Graph:
    """A graph that grows.

    Attributes:
        nodes: in order; each is (operator, names of the inputs, name of the output, attributes).
        constants: (name, array) by content.
        batch: an input whose first size is N, unknown until the graph runs; and N itself.
    """

    def __init__(self, batch: tuple[str, Any]):
        self.batch = batch
        self.nodes: list[tuple[str, list[str], str, dict[str, Any]]] = []
        self.constants: dict[tuple[Any, ...], tuple[str, np.ndarray]] = {}

    def add(self, operator: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        """Adds a node; returns the name of its output."""
        names = [self.constant(x) if isinstance(x, np.ndarray) else x for x in inputs]
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append((operator, names, output, attributes))
        return output

    def constant(self, array: np.ndarray) -> str:
        """Returns the name of a constant; equal ones share it."""
        key = (array.dtype.str, array.shape, array.tobytes())
        return self.constants.setdefault(key, (f"constant_{len(self.constants)}", array))[0]

    def hold(self, array: Array, axes: Sequence[int]) -> str:
        """Returns the name of a tensor that holds the array's axes in this order."""
        if isinstance(array, np.ndarray):
            return self.constant(array.transpose(axes))
        if array.axes == tuple(axes):
            return array.name
        return self.add("Transpose", array.name, perm=array.places(axes).tolist())

    def combine(self, operator: str, *arrays: Array, **attributes: Any) -> Tensor:
        """Adds an operator that works number by number, on arrays of one rank and on scalars."""
        rank = max(len(array.shape) for array in arrays)
        orders = {array.axes for array in arrays if isinstance(array, Tensor)}
        axes = orders.pop() if len(orders) == 1 else tuple(range(rank))
        names = [self.hold(array, axes if array.shape else ()) for array in arrays]
        shapes = [array.shape or (1,) * rank for array in arrays]
        shape = [next((n for n in sizes if n != 1), 1) for sizes in zip(*shapes, strict=True)]
        return Tensor(self.add(operator, *names, **attributes), axes, tuple(shape))

    def expand(self, array: Array, shape: tuple[Any, ...]) -> Array:
        """Carries out a broadcast that was left to the graph."""
        if array.shape == shape:
            return array
        axes = tuple(range(len(shape))) if isinstance(array, np.ndarray) else array.axes
        # An axis to which 1 is given stays as it is.
        sizes = [1 if array.shape[axis] == shape[axis] else shape[axis] for axis in axes]
        target = self.add("Concat", *map(self._size, sizes), axis=0)
        return Tensor(self.add("Expand", self.hold(array, axes), target), axes, shape)

    def _size(self, size: Any) -> str:
        """Returns the name of a tensor int64 [1] with a size."""
        if isinstance(size, int):
            return self.constant(np.array([size]))
        name, batch = self.batch
        if size != batch:
            raise ValueError(f"an ONNX graph here has no size {size}; export to StableHLO")
        return self.add("Shape", name, start=0, end=1)

    def reshape(self, array: Array, shape: tuple[Any, ...]) -> Array:
        """Lines up the numbers of an array in another shape.

        Axes that turn into others together stay where they are, if they lie side by side:
        [C, H, W, N], held as [N, C, H, W], becomes [C * H * W, N], held as [N, C * H * W].
        """
        if isinstance(array, np.ndarray):
            return array.reshape(shape)
        if array.shape == shape:
            return array
        groups = _groups(array.shape, shape)
        held = [axis for axis in array.axes if array.shape[axis] != 1]
        if any((np.diff([held.index(axis) for axis in old]) != 1).any() for old, _ in groups):
            plain = tuple(range(len(array.shape)))
            array = Tensor(self.hold(array, plain), plain, array.shape)
            held.sort()
        groups.sort(key=lambda group: held.index(group[0][0]))
        axes = [axis for _, new in groups for axis in new]
        for axis in [axis for axis, size in enumerate(shape) if size == 1]:
            axes.insert(axes.index(axis - 1) + 1 if axis else 0, axis)
        sizes = [shape[axis] if isinstance(shape[axis], int) else -1 for axis in axes]
        if sizes.count(-1) > 1:
            raise ValueError(f"an ONNX graph here has no shape {shape}; export to StableHLO")
        return Tensor(self.add("Reshape", array.name, np.array(sizes)), tuple(axes), shape)


def _groups(old: Sequence[Any], new: Sequence[Any]) -> list[tuple[list[int], list[int]]]:
    """Pairs the axes that turn into one another, but for those of size 1.

    (28, 28, N, 1) to (784, N): 0 and 1 to 0, 2 to 1.
    """
    old_axes, new_axes = ([i for i, n in enumerate(shape) if n != 1] for shape in (old, new))
    groups, i, j = [], 0, 0
    for k in range(1, len(old_axes) + 1):
        size = math.prod(old[axis] for axis in old_axes[i:k])
        for m in range(j + 1, len(new_axes) + 1):
            if math.prod(new[axis] for axis in new_axes[j:m]) == size:
                groups.append((old_axes[i:k], new_axes[j:m]))
                i, j = k, m
                break
    return groups
