"""Where arrays live: one mesh over all devices, batches split, everything else on each device."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def create_mesh() -> Mesh:
    """Returns a one-dimensional mesh over all devices, its axis named `data`."""
    # Without `axis_types` the default depends on the version of JAX (explicit from 0.10 on).
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters and datasets: whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The sharding of a chunk [k, B, ...]: steps in order, each batch split over the devices."""
    return NamedSharding(mesh, PartitionSpec(None, "data"))
