"""Compiled programs, known by their text."""

import hashlib
import re
from typing import Any

import jax

SHARDINGS = re.compile(r"(sdy\.sharding = #sdy\.sharding<[^>]*>|mhlo\.sharding = \"[^\"]*\")(, )?")
KEPT = 16  # programs in memory: all trials of a sweep that differ by numbers share the same
_programs: dict[Any, Any] = {}


def text_sha256(lowered: jax.stages.Lowered) -> str:
    """Returns the SHA-256 of a lowered program as StableHLO.

    It is the same wherever the source of the program lies and its arguments come from: lines of the
    source are no part of the text, and the placement of arguments is left out. The number of
    devices, the platform, and the versions of JAX and Flax change it.
    """
    text = SHARDINGS.sub("", lowered.as_text())
    return hashlib.sha256(text.encode()).hexdigest()


def compile_once(
    lowered: jax.stages.Lowered, options: dict[str, Any] | None = None
) -> tuple[Any, str]:
    """Compiles a program, unless the same one was compiled before by this process.

    Args:
        lowered: the program.
        options: XLA's, by name; None for its defaults.

    Returns:
        The compiled program and its `text_sha256`.
    """
    key = lowered.as_text(), lowered.in_tree, lowered.out_tree, str(options)
    if key not in _programs:
        _programs[key] = lowered.compile(options)
    _programs[key] = _programs.pop(key)  # the newest is the last
    while len(_programs) > KEPT:
        del _programs[next(iter(_programs))]
    return _programs[key], text_sha256(lowered)
