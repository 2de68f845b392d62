"""One number for a tree of arrays, to tell whether two runs are the same."""

import hashlib
from typing import Any

import jax
import numpy as np


def tree_sha256(tree: Any) -> str:
    """Returns the SHA-256 of a tree of arrays, in hexadecimal.

    For each leaf, in sorted order of its path ("conv/kernel"), the path, the dtype, the shape and
    the bytes in C order. Equal sums mean equal bits; the place of the arrays does not matter.

    Args:
        tree: a pytree of arrays that fit into host memory.
    """
    leaves = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), np.asarray(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    digest = hashlib.sha256()
    for path, array in sorted(leaves, key=lambda leaf: leaf[0]):
        digest.update(f"{path} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
