"""Compiled programs, known by their text."""

import hashlib
from typing import Any

import jax

KEPT = 16  # programs in memory: all trials of a sweep that differ by numbers share the same
_programs: dict[Any, Any] = {}


def text_sha256(lowered: jax.stages.Lowered) -> str:
    """Returns the SHA-256 of a lowered program as StableHLO, without the lines of its source."""
    return hashlib.sha256(lowered.as_text().encode()).hexdigest()


def compile_once(lowered: jax.stages.Lowered) -> tuple[Any, str]:
    """Compiles a program, unless the same one was compiled before by this process.

    Returns:
        The compiled program and its `text_sha256`.
    """
    sha256 = text_sha256(lowered)
    key = sha256, lowered.in_tree, lowered.out_tree
    if key not in _programs:
        _programs[key] = lowered.compile()
    _programs[key] = _programs.pop(key)  # the newest is the last
    while len(_programs) > KEPT:
        del _programs[next(iter(_programs))]
    return _programs[key], sha256
