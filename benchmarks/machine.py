"""The machine of a benchmark, and its rates of matrix products and memory copies."""

import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp


def processor() -> str:
    """Returns the processor's name if the system reports it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def describe() -> dict[str, Any]:
    """Describes the machine and its current load.

    Returns:
        `processor`, `cores`, `platform`, `load` (the average of the last minute), `date`, and
        `versions` of python and jax.
    """
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "load": os.getloadavg()[0],
        "date": str(datetime.datetime.now(datetime.UTC).date()),
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
    }


def headline(machine: dict[str, Any]) -> str:
    """Returns the result of `describe` as one line for a table's caption."""
    versions = machine["versions"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, Python {versions['python']}, "
        f"jax {versions['jax']}, {machine['date']}."
    )


def device() -> dict[str, Any]:
    """Describes the devices that JAX uses.

    Returns:
        `platform`, `kind` and `count`; `driver`, by nvidia-smi or, without it, JAX's own
        version of the platform; and `packages`, the versions of jax's packages.
    """
    first = jax.devices()[0]
    driver = " ".join(first.client.platform_version.split())
    if first.platform == "gpu" and (program := shutil.which("nvidia-smi")):
        query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
        driver = f"NVIDIA driver {answer[0]}" if answer else driver
    installed = {d.name: d.version for d in importlib.metadata.distributions() if d.name}
    packages = {
        name: version
        for name, version in sorted(installed.items())
        if name.startswith(("jax", "libtpu", "nvidia-cudnn"))
    }
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": jax.device_count(),
        "driver": driver,
        "packages": packages,
    }


def matmul_rates(
    sizes: tuple[int, ...] = (1024, 1536, 2048, 3072),
    repeats: int = 5,
    dtype: str = "float32",
    precision: str | None = "highest",
) -> dict[int, float]:
    """Measures how fast JAX multiplies two square matrices.

    Args:
        sizes: rows and columns.
        repeats: number of products of each size.
        dtype: type of the matrices.
        precision: precision of the products, see `jnp.matmul`; None is JAX's default.

    Returns:
        FLOPs per second by size, the best of `repeats`.
    """
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))
    rates = {}
    for size in sizes:
        a, b = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
        rates[size] = 2 * size**3 / best_seconds(lambda a=a, b=b: product(a, b), repeats)
    return rates


def copy_bandwidth(size: int = 2**28, repeats: int = 5) -> float:
    """Measures bytes read and written per second, by adding one to an array of `size` bytes."""
    add = jax.jit(lambda x: x + 1)
    x = jnp.zeros(size // 4, jnp.float32)
    return 2 * x.nbytes / best_seconds(lambda: add(x), repeats)


def best_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Returns the seconds of the fastest call, from its start until its result is computed."""
    jax.block_until_ready(run())  # compiles
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return min(seconds)
