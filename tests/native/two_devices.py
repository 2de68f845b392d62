"""Prints the kernel's largest difference between two devices and one: `python two_devices.py`.

The batch is split over the devices, as in a training.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from layers import create_layer

from mnist_jax.ops import conv_pool


def main() -> None:
    rng = np.random.default_rng(0)
    layer = create_layer(rng, (1, 28, 28, 256), 3, 32, pool_size=2, rectify=True)
    x = [rng.normal(size=array.shape).astype(np.float32) for array in layer[:3]]

    @jax.jit
    def compute(images, kernel, bias):
        def loss(kernel, bias):
            outputs = conv_pool(images, kernel, bias, lowering="native", **layer.options)
            return jnp.sin(outputs).sum(), outputs

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(kernel, bias)

    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec(None, None, None, "batch"))
    whole = NamedSharding(mesh, PartitionSpec())
    alone = both = compute(*x)
    for _ in range(20):  # both devices compute at the same time, on the same threads
        both = compute(jax.device_put(x[0], split), *jax.device_put(x[1:], whole))
        for one, two in zip(jax.tree.leaves(alone), jax.tree.leaves(both), strict=True):
            error = float(np.abs(one - np.asarray(two)).max() / np.abs(one).max())
            assert error < 1e-5, error
    print("equal" if all(map(np.array_equal, *map(jax.tree.leaves, (alone, both)))) else "close")


if __name__ == "__main__":
    main()
