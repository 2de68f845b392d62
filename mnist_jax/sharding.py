"""The placement of arrays on one mesh of all devices, which split batches or members."""

import contextlib
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


class Target(NamedTuple):
    """The devices that a program is traced for."""

    platform: str  # "cpu", "gpu" or "tpu"
    devices: int  # number of those that split a batch


# A context is part of the key of `jit`'s cache.
_target = jax.make_user_context(None)


def target_of(mesh: Mesh) -> Target:
    """Returns the target of a mesh, whose devices may be absent."""
    platform = str(mesh.devices.flat[0].platform)
    return Target("gpu" if platform in ("cuda", "rocm") else platform, mesh.size)


def traced_for(target: Target) -> contextlib.AbstractContextManager[None]:
    """Traces the calls in its block for any target."""
    return _target(target)


def target() -> Target:
    """Returns the target of `traced_for`; by default, all devices of this process."""
    current: Target = _target.value or Target(str(jax.default_backend()), jax.device_count())
    # In a `shard_map` each device has its own batches.
    return current._replace(devices=1) if jax.sharding.get_abstract_mesh().manual_axes else current


def create_mesh(axis: str = "data") -> Mesh:
    """Returns a one-dimensional mesh over all devices, of all processes."""
    # JAX's default axis type is explicit from 0.10.
    return jax.make_mesh((jax.device_count(),), (axis,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of parameters and datasets: whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a chunk [k, B, ...]: batches split over the devices."""
    return NamedSharding(mesh, PartitionSpec(None, "data"))


def split_members(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays [N, ...] of members: the first axis splits."""
    return NamedSharding(mesh, PartitionSpec(*mesh.axis_names))


def place(arrays: Any, sharding: NamedSharding) -> Any:
    """Puts a tree of NumPy arrays, the same in every process, on the devices.

    A process reads only the parts of its own devices.
    """
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__), arrays
    )
