"""What the bits of a run depend on beside its config and its data."""

import importlib.metadata
import os
import platform
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")
UNTOLD = {"process_count": 1}  # what older versions did not tell, and how it was


def cpu_count() -> int | None:
    """Returns how many cores this process may use.

    XLA cuts the work for a CPU into as many parts, and sums of other parts are rounded otherwise.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return len(affinity(0)) if affinity else os.cpu_count()


def environment() -> dict[str, Any]:
    """Returns `platform`, `device_kind`, the counts of devices, processes and cores, `versions`."""
    return {
        "platform": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
        "cpu_count": cpu_count(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }
