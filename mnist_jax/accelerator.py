"""Which accelerator a machine has, and whether JAX uses it."""

import os
from pathlib import Path

import jax

# Colab's TPU machines set the first to "1" and the second to a kind such as v5e-1; Cloud's have one
# of the latter two. Where there is no TPU, Colab leaves the first empty.
TPU_VARIABLES = ("COLAB_TPU_1VM", "TPU_ACCELERATOR_TYPE", "TPU_NAME")
GOOGLE = "0x1ae0"  # as a vendor of PCI devices: its network cards have the same one as its TPUs
TPU_MODELS = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")
PCI_DEVICES = "/sys/bus/pci/devices"
GPU_DEVICES = ("nvidia[0-9]*", "nvidiactl")
JAX_PACKAGES = {"tpu": "jax[tpu]", "gpu": "jax[cuda13]"}


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
        f'uses the CPU: pip install "{JAX_PACKAGES[expected]}=={jax.__version__}", and start anew'
    )
