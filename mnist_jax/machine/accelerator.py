"""Which accelerator a machine has, whether JAX uses it, and what makes it do so."""

import contextlib
import importlib.metadata
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax

# Colab's TPU machines set the first to "1" and the second to a kind such as v5e-1; Cloud's have one
# of the latter two. Where there is no TPU, Colab leaves the first empty.
TPU_VARIABLES = ("COLAB_TPU_1VM", "TPU_ACCELERATOR_TYPE", "TPU_NAME")
GOOGLE = "0x1ae0"  # as a vendor of PCI devices: its network cards have the same one as its TPUs
TPU_MODELS = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")
PCI_DEVICES = "/sys/bus/pci/devices"
GPU_DEVICES = ("nvidia[0-9]*", "nvidiactl")
# Under Windows (WSL2) every GPU is /dev/dxg; the driver's library is there for NVIDIA's alone.
WSL_LIBRARIES = "/usr/lib/wsl/lib"
NVIDIA_DRIVER = "/proc/driver/nvidia/version"
# The oldest driver for each of JAX's extras, the one to prefer first. JAX's installation page, "You
# must first install the NVIDIA driver": https://docs.jax.dev/en/latest/installation.html#nvidia-gpu
CUDA_DRIVERS = {"cuda13": 580, "cuda12": 525}
PLATFORMS = {"gpu": "cuda", "tpu": "tpu", "amd": "rocm"}  # what JAX calls them in $JAX_PLATFORMS
PLUGINS = {
    "gpu": ("jax-cuda13-plugin", "jax-cuda12-plugin"),
    "tpu": ("libtpu",),
    "amd": ("jax-rocm7-plugin", "jax-rocm60-plugin"),
}


def present_accelerator(
    devices: str | Path = "/dev", pci: str | Path = PCI_DEVICES, wsl: str | Path = WSL_LIBRARIES
) -> str:
    """Tells which accelerator this machine has, whether JAX finds it or not.

    Args:
        devices: where Linux lists devices.
        pci: where it has a directory for each one on the PCI bus, with files `vendor` and `device`.
        wsl: where Windows puts the libraries of its drivers.

    Returns:
        "tpu", "gpu" (of NVIDIA), "amd", or "cpu": there is none. A part of a processor, as in many
        laptops, can be "amd" too, and not each of these can be used.

    References:
        https://github.com/jax-ml/jax/blob/main/jax/_src/hardware_utils.py
    """
    devices = Path(devices)
    told = any(os.environ.get(name, "") not in ("", "0") for name in TPU_VARIABLES)
    if told or any(_is_tpu(path.parent) for path in Path(pci).glob("*/vendor")):
        return "tpu"
    in_windows = (devices / "dxg").exists() and (Path(wsl) / "libcuda.so.1").exists()
    if in_windows or any(any(devices.glob(pattern)) for pattern in GPU_DEVICES):
        return "gpu"
    return "amd" if (devices / "kfd").exists() else "cpu"


def _is_tpu(device: Path) -> bool:
    vendor, model = ((device / name).read_text().strip() for name in ("vendor", "device"))
    return vendor == GOOGLE and model in TPU_MODELS


def hidden_by(accelerator: str) -> str:
    """Tells which setting of the user keeps JAX from an accelerator, as NAME=VALUE; "" if none."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return "JAX_PLATFORMS=cpu"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if accelerator == "gpu" and visible in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={visible}"
    return ""


def expected_accelerator(devices: str | Path = "/dev", pci: str | Path = PCI_DEVICES) -> str:
    """Tells which accelerator JAX should use: "tpu", "gpu" (of NVIDIA), or "cpu".

    "cpu" too where the user wants none, and on a machine with a GPU of AMD.

    Args:
        devices: see `present_accelerator`.
        pci: see there, too.
    """
    present = present_accelerator(devices, pci)
    return "cpu" if present == "amd" or hidden_by(present) else present


def missing_accelerator(
    devices: str | Path = "/dev", pci: str | Path = PCI_DEVICES, driver: str | Path = NVIDIA_DRIVER
) -> str:
    """Says in a line that JAX does not use the accelerator of this machine; "" where it does.

    Args:
        devices: see `present_accelerator`.
        pci: see there, too.
        driver: see `remedy`.
    """
    expected = expected_accelerator(devices, pci)
    if expected == "cpu" or jax.default_backend() != "cpu":
        return ""
    return (
        f"this machine has a {expected.upper()}, but JAX {jax.__version__} does not find it and "
        f"uses the CPU: {remedy(expected, driver) or look_closer(expected)}"
    )


def remedy(accelerator: str, driver: str | Path = NVIDIA_DRIVER) -> str:
    """Says what to install so that JAX uses an accelerator; "" where that is installed, and fits.

    Args:
        accelerator: "tpu", "gpu" or "amd".
        driver: the file in which NVIDIA's driver tells its version; under Windows there is none.
    """
    release = _driver_release(driver) if accelerator == "gpu" else None
    plugins = _installed(PLUGINS[accelerator])
    unfit = misfits(plugins, release)
    if plugins and not unfit:
        return ""
    extras = _extras(accelerator)
    if not extras:
        return f"JAX {jax.__version__} has no package for it"
    extra = next((name for name in extras if (release or extras[name]) >= extras[name]), "")
    if not extra:
        return f"its driver has version {release}: install {min(extras.values())} or newer"
    line = f'pip install "jax[{extra}]=={jax.__version__}", and start anew'
    if accelerator == "gpu" and release is None:
        line += f" (the driver must be {extras[extra]} or newer: nvidia-smi tells)"
    return "; ".join([*unfit, line])


def look_closer(accelerator: str) -> str:
    """Says how to see why JAX does not use an accelerator though all is installed for it."""
    ask = f"JAX_PLATFORMS={PLATFORMS[accelerator]} mnist-jax doctor"
    return f"what it needs is installed, and `{ask}` tells what fails"


def misfits(plugins: Mapping[str, str], release: int | None) -> list[str]:
    """Returns a line for each of CUDA's plugins that cannot work here.

    JAX ignores those whose version is not jaxlib's.

    Args:
        plugins: versions by name of the package.
        release: the first number of the version of NVIDIA's driver, where that is known.
    """
    jaxlib = importlib.metadata.version("jaxlib")
    lines = []
    for name, version in plugins.items():
        oldest = CUDA_DRIVERS.get(name.removeprefix("jax-").removesuffix("-plugin"))
        if oldest and _numbers(version) != _numbers(jaxlib):
            lines.append(f"{name} {version} does not fit jaxlib {jaxlib}")
        elif oldest and release is not None and release < oldest:
            lines.append(f"uninstall {name}: it needs driver {oldest}, this one is {release}")
    return lines


def _installed(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _numbers(version: str) -> str:
    return re.split(r"[^0-9.]", version, maxsplit=1)[0].rstrip(".")  # without .dev3, rc1, +cuda


def _driver_release(file: str | Path) -> int | None:
    """The first number of the driver's version: 580 of 580.65.06."""
    try:
        text = Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"Kernel Module.*?\s(\d+)\.", text)
    return int(found[1]) if found else None


def _extras(accelerator: str) -> dict[str, int]:
    """The extras of the installed JAX for an accelerator, with the oldest driver for each."""
    offered = importlib.metadata.metadata("jax").get_all("Provides-Extra") or []
    if accelerator == "gpu":
        return {name: oldest for name, oldest in CUDA_DRIVERS.items() if name in offered}
    # "rocm7-local", in older versions "rocm"
    return {name: 0 for name in offered if name.startswith(PLATFORMS[accelerator])}
