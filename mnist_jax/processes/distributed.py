"""Decisions that several processes of one training take together.

Each process runs the same program and makes the same compiled calls; JAX puts their devices into
one mesh. What one process alone decides, or finds on a disk, would set them apart, and a call that
one of them does not make leaves the others waiting. So the first process decides for all.
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
    """Whether this process is the one that writes files: the first, or the only one."""
    return jax.process_index() == 0


def by_first_process(function: Callable[..., None]) -> Callable[..., None]:
    """Returns a function that writes in the first process, and does nothing in the others."""

    @functools.wraps(function)
    def write(*args: Any, **kwargs: Any) -> None:
        if is_first():
            function(*args, **kwargs)

    return write


def from_first(function: Callable[[], Any]) -> Any:
    """Calls a function in the first process alone, and returns its value in every process.

    JSON must be able to hold the value. What the function raises, the first process raises; the
    others raise a ValueError with its message.
    """
    if jax.process_count() == 1:
        return function()
    value, error = None, None
    if is_first():
        try:
            value = function()
        except Exception as raised:
            error = raised
    message = None if error is None else str(error)
    said = np.frombuffer(json.dumps([value, message]).encode(), np.uint8)
    length = multihost_utils.broadcast_one_to_all(np.int32(len(said)))
    said = multihost_utils.broadcast_one_to_all(np.resize(said, int(length)))
    value, message = json.loads(bytes(np.asarray(said)))
    if error:
        raise error
    if message is not None:
        raise ValueError(message)
    return value


def check_alike(what: str, values: Any) -> None:
    """Raises ValueError, in all processes, if values differ: some would train something else.

    Args:
        what: Name of the values in the message.
        values: Values that JSON can hold, or that have a text, such as paths.
    """
    if jax.process_count() == 1:
        return
    own = json.dumps(values, default=str)
    alike = multihost_utils.process_allgather(np.array(own == from_first(lambda: own)))
    if not alike.all():
        raise ValueError(
            f"processes {np.flatnonzero(~alike).tolist()} have other {what} than process 0: start "
            "the same command in every process"
        )


def agreement() -> Callable[[int], int]:
    """Returns a function by which the processes agree on a number: the largest of all.

    So that nobody waits, it returns the largest number of the call before; in a single process,
    the number itself. All processes have to call it equally often.
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
