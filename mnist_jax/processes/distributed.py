"""What several processes of one training decide together.

Each process runs the same program and makes the same compiled calls; JAX puts their devices into
one mesh. What one process alone decides, or finds on a disk, would set them apart, and a call that
one of them does not make leaves the others waiting. So the first process decides, and tells them.
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
    """Tells whether this process is the one that writes files: the first, or the only one."""
    return jax.process_index() == 0


def by_first_process(function: Callable[..., None]) -> Callable[..., None]:
    """Makes a function that writes do nothing in the other processes."""

    @functools.wraps(function)
    def write(*args: Any, **kwargs: Any) -> None:
        if is_first():
            function(*args, **kwargs)

    return write


def from_first(function: Callable[[], Any]) -> Any:
    """Returns in every process what a function returns in the first one, where alone it is called.

    Args:
        function: its value is made of what JSON has.

    Raises:
        Whatever the function raises, in the first process; in the others a ValueError with its
            message.
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
    """Compares what every process was started with: others would train something else, or wait.

    Args:
        what: names it in the message.
        values: made of what JSON has, or of what has a text, such as paths.

    Raises:
        ValueError: in every process, where one has other values than the first one.
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
    """Returns a function by which the processes agree upon a number: the largest of all.

    So that nobody waits, its answer is from the numbers of the call before; of one process, it is
    the number at once. All processes have to call it equally often.
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
