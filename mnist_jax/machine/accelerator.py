"""The machine's accelerator, and advice if JAX does not use it."""

import os
from pathlib import Path

import jax

# Colab's TPU machines set the first two, Cloud's one of the last two; others may leave them empty.
TPU_VARIABLES = ("COLAB_TPU_1VM", "TPU_ACCELERATOR_TYPE", "TPU_NAME")
GOOGLE = "0x1ae0"  # as PCI vendor
# The last is the driver in Windows (WSL2).
GPU_FILES = ("dev/nvidia[0-9]*", "dev/nvidiactl", "usr/lib/wsl/lib/libcuda.so.1")


def present_accelerator(root: str | Path = "/") -> str:
    """Detects this machine's accelerator by its device files below `root`.

    Returns "tpu", "gpu" (NVIDIA's), "amd" (a GPU, or a processor's graphics), or "cpu" for none.
    """
    root = Path(root)
    if any(os.environ.get(name, "") not in ("", "0") for name in TPU_VARIABLES):
        return "tpu"
    # Newer TPUs are /dev/vfio/0, like any device lent to a virtual machine: the vendor counts.
    vendors = (path.read_text().strip() for path in root.glob("sys/bus/pci/devices/*/vendor"))
    lent = any(root.glob("dev/vfio/[0-9]*"))
    if any(root.glob("dev/accel[0-9]*")) or (lent and GOOGLE in vendors):
        return "tpu"
    if any(any(root.glob(pattern)) for pattern in GPU_FILES):
        return "gpu"
    return "amd" if (root / "dev/kfd").exists() else "cpu"


def hidden_by(accelerator: str) -> str:
    """Returns the setting that hides an accelerator from JAX, as NAME=VALUE; "" if none."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return "JAX_PLATFORMS=cpu"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if accelerator == "gpu" and visible in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={visible}"
    return ""


def missing_accelerator(root: str | Path = "/") -> str:
    """Returns a warning if JAX does not use this machine's accelerator, else "".

    AMD GPUs are not reported, because ROCm may not support them. `root` is `present_accelerator`'s.
    """
    present = present_accelerator(root)
    if present in ("cpu", "amd") or hidden_by(present) or jax.default_backend() != "cpu":
        return ""
    return (
        f"this machine has a {present.upper()}, but JAX {jax.__version__} uses the CPU: "
        f"{remedy(present)}"
    )


def remedy(accelerator: str) -> str:
    """Returns advice if JAX does not use a machine's "gpu", "tpu" or "amd"."""
    if accelerator == "amd":
        return "install JAX for ROCm: https://docs.jax.dev/en/latest/installation.html"
    extra, platform, older = {
        "gpu": ("cuda13", "cuda", " (jax[cuda12] if nvidia-smi shows a driver before 580)"),
        "tpu": ("tpu", "tpu", ""),
    }[accelerator]
    return (
        f'pip install "jax[{extra}]=={jax.__version__}"{older}, and start again; if it is '
        f"installed, `JAX_PLATFORMS={platform} mnist-jax doctor` shows what fails"
    )
