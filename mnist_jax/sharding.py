"""Where arrays live: one mesh over all devices; batches, or members, split; the rest on each."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def create_mesh(axis: str = "data") -> Mesh:
    """Returns a one-dimensional mesh over all devices, of all processes."""
    # Without `axis_types` the default depends on the version of JAX (explicit from 0.10 on).
    return jax.make_mesh((jax.device_count(),), (axis,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters and datasets: whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The sharding of a chunk [k, B, ...]: steps in order, each batch split over the devices."""
    return NamedSharding(mesh, PartitionSpec(None, "data"))


def split_members(mesh: Mesh) -> NamedSharding:
    """The sharding of what has an axis of members first: these split over the devices."""
    return NamedSharding(mesh, PartitionSpec(*mesh.axis_names))


def place(arrays: Any, sharding: NamedSharding) -> Any:
    """Puts NumPy arrays on the devices.

    Args:
        arrays: a tree of them; every process has the same.
        sharding: of each. A process only reads what its own devices get.
    """
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__), arrays
    )
