"""Where arrays live: one mesh over all devices; batches, or members, split; the rest on each."""

import contextlib
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


class Target(NamedTuple):
    """The devices that a program is traced for.

    Attributes:
        platform: the platform, "cpu", "gpu" or "tpu".
        devices: the number of devices that a batch is split over.
    """

    platform: str
    devices: int


# As a context of JAX's own, it is part of the key by which `jit` finds what it has traced before.
_target = jax.make_user_context(None)


def target_of(mesh: Mesh) -> Target:
    """Returns the target that the devices of a mesh are; they need not be present."""
    platform = str(mesh.devices.flat[0].platform)
    return Target("gpu" if platform in ("cuda", "rocm") else platform, mesh.size)


def traced_for(target: Target) -> contextlib.AbstractContextManager[None]:
    """Has what is called within it traced for a target, whatever this process runs on."""
    return _target(target)


def target() -> Target:
    """Returns what is being traced for; outside of `traced_for`, all devices of this process."""
    found: Target = _target.value or Target(str(jax.default_backend()), jax.device_count())
    # In a `shard_map` each device has batches of its own.
    return found._replace(devices=1) if jax.sharding.get_abstract_mesh().manual_axes else found


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
