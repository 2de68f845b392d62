"""The machine of a benchmark, timing of calls, and rates of matrix products and memory copies."""

import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Name = TypeVar("Name")


def processor() -> str:
    """Returns the processor's name if the system reports it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def describe() -> dict[str, Any]:
    """Returns the machine, its `load` average of the last minute, and versions."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "load": os.getloadavg()[0],
        "date": str(datetime.datetime.now(datetime.UTC).date()),
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
    }


def headline(machine: dict[str, Any] | None = None) -> str:
    """Formats a result of `describe`, by default a new one, as a table's caption."""
    machine = machine or describe()
    versions = machine["versions"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, Python {versions['python']}, "
        f"jax {versions['jax']}, {machine['date']}."
    )


def device() -> dict[str, Any]:
    """Describes JAX's devices.

    Returns:
        `platform`, `kind`, `count`, `driver` and `packages`, the versions of JAX's packages.
    """
    first = jax.devices()[0]
    driver = " ".join(first.client.platform_version.split())
    if first.platform == "gpu" and (program := shutil.which("nvidia-smi")):
        query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
        driver = f"NVIDIA driver {answer[0]}" if answer else driver
    installed = {d.name: d.version for d in importlib.metadata.distributions() if d.name}
    prefixes = ("jax", "libtpu", "nvidia-cudnn")
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": jax.device_count(),
        "driver": driver,
        "packages": {n: v for n, v in sorted(installed.items()) if n.startswith(prefixes)},
    }


def alternate(
    runs: Mapping[Name, Callable[[], Any]], rounds: int, scale: float = 1.0
) -> dict[Name, list[float]]:
    """Times calls in turn, round after round, so other load affects all of them.

    The first round compiles and is not counted.

    Args:
        runs: functions that return JAX arrays.
        rounds: number of timed rounds.
        scale: factor from seconds to the unit of the result.

    Returns:
        The times of each function, from the call until its result is computed.
    """
    times: dict[Name, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(scale * (time.perf_counter() - start))
    return {name: values[1:] for name, values in times.items()}


def best_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Returns the seconds of the fastest call."""
    return min(alternate({"": run}, repeats)[""])


def matmul_rates(
    sizes: tuple[int, ...] = (1024, 1536, 2048, 3072),
    repeats: int = 5,
    dtype: str = "float32",
    precision: str | None = "highest",
) -> dict[int, float]:
    """Measures JAX's products of square matrices, with `jnp.matmul`'s precision.

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
