"""Prints hashes of the kernel's results: `python same_bits.py CORES [WORKDIR]`.

CORES are those that this process may use, as 0,1,...; a short training goes to WORKDIR.
"""

import hashlib
import itertools
import os
import sys

os.sched_setaffinity(0, {int(core) for core in sys.argv[1].split(",")})

import jax  # noqa: E402
import numpy as np  # noqa: E402
from layers import create_layer  # noqa: E402

from mnist_jax.ops import conv_pool  # noqa: E402


def arrays_of_layers():
    """Computes outputs and gradients of layers of all kinds, with denormal numbers."""
    rng = np.random.default_rng(0)
    for pool, pool_size, size in itertools.product(("max", "mean"), (1, 2, 3), (3, 5)):
        channels = 2 if pool_size < 3 else 5  # few and many have different code for gradients
        layer = create_layer(rng, (channels, 15, 14, 272), size, 6, pool=pool, pool_size=pool_size)
        images, kernel, bias, grads = (
            rng.normal(size=a.shape) * rng.choice([1, 1e-20, 1e-38], a.shape) for a in layer[:4]
        )
        x = [a.astype(np.float32) for a in (images, kernel, bias)]
        options = layer.options | {"rectify": size == 3}

        @jax.jit
        def compute(x, grads, options=options):
            outputs, vjp = jax.vjp(lambda *x: conv_pool(*x, lowering="native", **options), *x)
            return outputs, vjp(grads)

        yield from jax.tree.leaves(compute(x, grads.astype(np.float32)))


def main() -> None:
    hashed, denormal = hashlib.sha256(), 0
    for array in arrays_of_layers():
        values = np.asarray(array)
        hashed.update(values.tobytes())
        denormal += int(((values != 0) & (np.abs(values) < np.finfo(np.float32).tiny)).sum())
    print(hashed.hexdigest(), denormal)
    if len(sys.argv) > 2:
        from helpers import TINY

        from mnist_jax import train

        print(train(TINY, sys.argv[2]).result["params_sha256"])


if __name__ == "__main__":
    main()
