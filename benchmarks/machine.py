"""The machine that a benchmark runs on, and how fast it multiplies matrices."""

import datetime
import os
import platform
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp


def processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def describe() -> dict[str, Any]:
    """Describes the machine as it is now.

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
    """Returns what `describe` found in one line, as it stands below a table."""
    versions = machine["versions"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, Python {versions['python']}, "
        f"jax {versions['jax']}, {machine['date']}."
    )


def matmul_rates(
    sizes: tuple[int, ...] = (1024, 1536, 2048, 3072), repeats: int = 5
) -> dict[int, float]:
    """Measures how fast JAX multiplies two square float32 matrices.

    Returns:
        FLOPs a second by size, the best of `repeats`.
    """
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))
    rates = {}
    for size in sizes:
        a, b = jax.random.normal(jax.random.key(0), (2, size, size))
        product(a, b).block_until_ready()  # compiles
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            product(a, b).block_until_ready()
            seconds.append(time.perf_counter() - start)
        rates[size] = 2 * size**3 / min(seconds)
    return rates
