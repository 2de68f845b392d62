"""What the bits of a run depend on beside its config and its data."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")
# Colab's TPU machines set the first to "1" and the second to a kind such as v5e-1; Cloud's have one
# of the latter two. Where there is no TPU, Colab leaves the first empty.
TPU_VARIABLES = ("COLAB_TPU_1VM", "TPU_ACCELERATOR_TYPE", "TPU_NAME")
GOOGLE = "0x1ae0"  # as a vendor of PCI devices: its network cards have the same one as its TPUs
TPU_MODELS = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")
PCI_DEVICES = "/sys/bus/pci/devices"
GPU_DEVICES = ("nvidia[0-9]*", "nvidiactl")
EXTRAS = {"tpu": "jax[tpu]", "gpu": "jax[cuda13]"}


def cpu_count() -> int | None:
    """Returns how many cores this process may use.

    XLA cuts the work for a CPU into as many parts, and sums of other parts are rounded otherwise.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return len(affinity(0)) if affinity else os.cpu_count()


def environment() -> dict[str, Any]:
    """Returns `platform`, `device_kind`, `device_count`, `cpu_count` and `versions`."""
    return {
        "platform": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "cpu_count": cpu_count(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def expected_accelerator(devices: str | Path = "/dev", pci: str | Path = PCI_DEVICES) -> str:
    """Tells which accelerator this machine has, whether JAX finds it or not.

    Args:
        devices: where Linux lists devices.
        pci: where it has a directory for each one on the PCI bus, with files `vendor` and `device`.

    Returns:
        "tpu", "gpu" (of NVIDIA), or "cpu": there is none, or $JAX_PLATFORMS wants none.

    References:
        https://github.com/jax-ml/jax/blob/main/jax/_src/hardware_utils.py
    """
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return "cpu"

    told = any(os.environ.get(name, "") not in ("", "0") for name in TPU_VARIABLES)
    if told or any(_is_tpu(path.parent) for path in Path(pci).glob("*/vendor")):
        return "tpu"
    has_gpu = any(any(Path(devices).glob(pattern)) for pattern in GPU_DEVICES)
    return "gpu" if has_gpu else "cpu"


def _is_tpu(device: Path) -> bool:
    vendor, model = ((device / name).read_text().strip() for name in ("vendor", "device"))
    return vendor == GOOGLE and model in TPU_MODELS


def missing_accelerator(devices: str | Path = "/dev", pci: str | Path = PCI_DEVICES) -> str:
    """Says in a line that JAX does not use the accelerator of this machine; "" where it does.

    Args:
        devices: see `expected_accelerator`.
        pci: see there, too.
    """
    expected = expected_accelerator(devices, pci)
    if expected == "cpu" or jax.default_backend() != "cpu":
        return ""
    return (
        f"this machine has a {expected.upper()}, but JAX {jax.__version__} does not find it and "
        f'uses the CPU: pip install "{EXTRAS[expected]}=={jax.__version__}", and start anew'
    )
