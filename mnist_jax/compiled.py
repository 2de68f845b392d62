"""Compiled programs, identified by their text."""

import hashlib
import re
from typing import Any

import jax

SHARDINGS = re.compile(r"(sdy\.sharding = #sdy\.sharding<[^>]*>|mhlo\.sharding = \"[^\"]*\")(, )?")
KEPT = 16  # programs in memory, shared by trials of a sweep that differ only in numbers
_programs: dict[Any, Any] = {}


def text_sha256(lowered: jax.stages.Lowered) -> str:
    """Returns the SHA-256 of a lowered program as StableHLO.

    The number of devices, the platform, and the versions of JAX and Flax change it; source lines
    and the placement of arguments do not.
    """
    text = SHARDINGS.sub("", lowered.as_text())
    return hashlib.sha256(text.encode()).hexdigest()


def compile_once(
    lowered: jax.stages.Lowered, options: dict[str, Any] | None = None
) -> tuple[Any, str]:
    """Compiles a program, with XLA's options by name, unless this process has done so before.

    Returns the compiled program and its `text_sha256`.
    """
    key = lowered.as_text(), lowered.in_tree, lowered.out_tree, str(options)
    # Inserted again: the newest is the last.
    _programs[key] = _programs.pop(key, None) or lowered.compile(options)
    while len(_programs) > KEPT:
        del _programs[next(iter(_programs))]
    return _programs[key], text_sha256(lowered)
