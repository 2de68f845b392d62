"""Loops and operations of compiled programs, parsed from their text."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*?\{\n(.*?)^\}", re.DOTALL | re.MULTILINE)
OPERATION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$", re.MULTILINE)
BODY = re.compile(r"\bbody=%?([\w.\-]+)")
CALLED = re.compile(
    r"\b(?:calls|to_apply|\w+_computations?)=(\{[^}]*\}|%?[\w.\-]+)"  # one, or several in braces
)
ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
# Operations that compute nothing.
NO_WORK = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all")
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)


class Operation(NamedTuple):
    """An operation of a computation."""

    name: str
    shape: str  # type of the result, such as `f32[10,128]{1,0}`
    opcode: str  # such as `fusion`
    rest: str  # operands and attributes

    def called(self) -> list[str]:
        """Returns the names of the computations called, including a conditional's branches."""
        return re.findall(r"[\w.\-]+", " ".join(CALLED.findall(self.rest)))


class Program(NamedTuple):
    """A compiled program: the operations of its computations by name, and the first one's name."""

    computations: dict[str, list[Operation]]
    entry: str

    def within(self, name: str) -> Iterator[Operation]:
        """Yields the operations of a computation and of those that it calls or repeats."""
        for operation in self.computations.get(name, []):
            yield operation
            for called in operation.called() + BODY.findall(operation.rest):
                yield from self.within(called)

    def loops(self) -> list[str]:
        """Returns the names of the bodies of the entry's loops, largest first."""
        bodies = [body for each in self.started(self.entry) for body in BODY.findall(each.rest)]
        return sorted(bodies, key=lambda body: -sum(1 for _ in self.within(body)))

    def started(self, name: str) -> Iterator[Operation]:
        """Yields the operations that the device starts in sequence, including CUDA graphs'."""
        for operation in self.computations.get(name, []):
            if operation.opcode == "call":
                for called in operation.called():
                    yield from self.started(called)
            elif operation.opcode not in NO_WORK and not operation.opcode.endswith("-done"):
                yield operation


def parse(text: str) -> Program:
    """Parses a result of `jax.stages.Compiled.as_text`."""
    computations, entry = {}, ""
    for is_entry, name, body in COMPUTATION.findall(text):
        computations[name] = [Operation(*found) for found in OPERATION.findall(body)]
        entry = name if is_entry else entry
    return Program(computations, entry)


def size_in_bytes(shape: str) -> int:
    """Returns the bytes of all arrays in a type, without the layout's padding."""
    total = 0
    for kind, sizes in ARRAY.findall(shape):
        bits = 8 if kind == "pred" else int(re.findall(r"\d+", kind)[0])
        total += math.prod(map(int, filter(None, sizes.split(",")))) * bits // 8
    return total


def is_scalar(operation: Operation) -> bool:
    """Returns whether the result is one or two numbers, such as a random key."""
    sizes = [n for _, shape in ARRAY.findall(operation.shape) for n in shape.split(",") if n]
    return math.prod(map(int, sizes)) <= 2


def collectives(program: Program, name: str) -> dict[str, int]:
    """Returns the bytes that devices exchange in a computation, by opcode.

    An asynchronous collective is counted at its end, since the type of its start has operands, too.
    """
    found: Counter[str] = Counter()
    for operation in program.within(name):
        opcode = operation.opcode.removesuffix("-done")
        if opcode in COLLECTIVES:
            found[opcode] += size_in_bytes(operation.shape)
    return dict(found)


def summarize(text: str) -> dict[str, Any]:
    """Counts the operations in the largest loop of a program's text, or in one without loops.

    Returns:
        `operations` started in sequence (kernels, on a GPU); `scalars`, those with one or two
        numbers as result; `collectives`; and `opcodes`, the kinds that occur anywhere within.
    """
    program = parse(text)
    name = next(iter(program.loops()), program.entry)
    started = list(program.started(name))
    return {
        "operations": len(started),
        "scalars": sum(map(is_scalar, started)),
        "collectives": collectives(program, name),
        "opcodes": sorted({operation.opcode for operation in program.within(name)}),
    }


def estimate(cost: Mapping[str, float]) -> float | None:
    """Returns XLA's estimate of a program's seconds, or None.

    Args:
        cost: result of `jax.stages.Compiled.cost_analysis`, which counts the body of a loop once.
            XLA adds -1 per unknown operation; all others take less than a second.
    """
    return cost.get("optimal_seconds", 0.0) % 1.0 or None
