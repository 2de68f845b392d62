"""Joint decisions of several processes.

All make the same compiled calls: if one skips a call, the others wait forever. So the first process
makes every decision that depends on one machine, such as on its files.
"""

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from mnist_jax.sharding import create_mesh, place, replicated, split_members


def is_first() -> bool:
    """Tells whether this is the first or only process, which writes files."""
    return jax.process_index() == 0


def by_first_process(function: Callable[..., None]) -> Callable[..., None]:
    """Restricts a function to the first process."""

    @functools.wraps(function)
    def write(*args: Any, **kwargs: Any) -> None:
        if is_first():
            function(*args, **kwargs)

    return write


def from_first(function: Callable[[], Any]) -> Any:
    """Calls a function in the first process and returns its value, for JSON, in every process.

    An error is raised in the first process; the others raise ValueError with its message.
    """
    if jax.process_count() == 1:
        return function()
    value = message = error = None
    if is_first():
        try:
            value = function()
        except Exception as raised:
            error, message = raised, str(raised)
    said = np.frombuffer(json.dumps([value, message]).encode(), np.uint8)
    length = multihost_utils.broadcast_one_to_all(np.int32(len(said)))
    said = multihost_utils.broadcast_one_to_all(np.resize(said, int(length)))
    value, message = json.loads(bytes(np.asarray(said)))
    if message is not None:
        raise error or ValueError(message)
    return value


def check_alike(what: str, values: Any) -> None:
    """Raises ValueError in all processes if their values, named `what`, differ.

    Values are for JSON, or convertible to text, such as paths.
    """
    if jax.process_count() == 1:
        return
    own = json.dumps(values, default=str)
    alike = multihost_utils.process_allgather(np.array(own == from_first(lambda: own)))
    if not alike.all():
        raise ValueError(
            f"processes {np.flatnonzero(~alike).tolist()} have different {what} from process 0; "
            "start the same command in every process"
        )


def agreement() -> Callable[[int], int]:
    """Returns a function by which processes agree on the largest of their numbers.

    All must call it equally often. To avoid waiting, it returns the largest of the previous call;
    in a single process, the number itself.
    """
    if jax.process_count() == 1:
        return lambda number: number
    mesh = create_mesh()
    largest = jax.jit(jnp.max, out_shardings=replicated(mesh))
    answers = []

    def agree(number: int) -> int:
        numbers = np.full(mesh.size, number, np.int32)
        answers.append(largest(place(numbers, split_members(mesh))))
        return int(answers.pop(0)) if len(answers) > 1 else 0

    return agree
