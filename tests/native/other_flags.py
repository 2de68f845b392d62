"""Compares a kernel compiled with further flags to XLA: `python other_flags.py FOLDER FLAG...`."""

import itertools
import sys
from pathlib import Path

import numpy as np
from layers import create_layer
from test_kernel import check_against_xla

from mnist_jax.native import library


def main(folder: str, *flags: str) -> None:
    library.register(library.start_compiling(Path(folder), library.find_compiler(), "", flags)())
    library._load = lambda: library.Library("a compiler with other flags")
    rng = np.random.default_rng(0)
    for pool, pool_size, size in itertools.product(("max", "mean"), (1, 2, 3), (3, 5)):
        shape = (pool_size if size == 3 else 4 + pool_size, 14, 15, 144)  # few channels, and many
        options = {"pool": pool, "pool_size": pool_size, "rectify": pool_size > 1}
        check_against_xla(create_layer(rng, shape, size, 4 + pool_size, **options))
    print("equal")


if __name__ == "__main__":
    main(*sys.argv[1:])
