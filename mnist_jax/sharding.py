"""The placement of arrays: one mesh over all devices, which split batches or members."""

import contextlib
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


class Target(NamedTuple):
    """The devices that a program is traced for.

    Attributes:
        platform: the platform, "cpu", "gpu" or "tpu".
        devices: the number of devices that split a batch.
    """

    platform: str
    devices: int


# A context of JAX's is part of the key of `jit`'s cache of traced functions.
_target = jax.make_user_context(None)


def target_of(mesh: Mesh) -> Target:
    """Returns the target of a mesh, whose devices need not be present."""
    platform = str(mesh.devices.flat[0].platform)
    return Target("gpu" if platform in ("cuda", "rocm") else platform, mesh.size)


def traced_for(target: Target) -> contextlib.AbstractContextManager[None]:
    """Traces the calls in its block for a target, whatever this process runs on."""
    return _target(target)


def target() -> Target:
    """Returns the target being traced for; outside `traced_for`, all devices of this process."""
    current: Target = _target.value or Target(str(jax.default_backend()), jax.device_count())
    # In a `shard_map` each device has batches of its own.
    return current._replace(devices=1) if jax.sharding.get_abstract_mesh().manual_axes else current


def create_mesh(axis: str = "data") -> Mesh:
    """Returns a one-dimensional mesh over all devices, of all processes."""
    # JAX's default axis type depends on its version (explicit from 0.10 on).
    return jax.make_mesh((jax.device_count(),), (axis,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of parameters and datasets: whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a chunk [k, B, ...], whose batches split over the devices."""
    return NamedSharding(mesh, PartitionSpec(None, "data"))


def split_members(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis, the members, splits over the devices."""
    return NamedSharding(mesh, PartitionSpec(*mesh.axis_names))


def place(arrays: Any, sharding: NamedSharding) -> Any:
    """Puts NumPy arrays on the devices.

    Args:
        arrays: a tree of arrays, the same in every process.
        sharding: each array's sharding; a process reads only its own devices' part.
    """
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__), arrays
    )
