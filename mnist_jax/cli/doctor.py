"""The checks of `mnist-jax doctor`."""

import contextlib
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import mnist_jax
from mnist_jax.datasets import prepare
from mnist_jax.machine import accelerator
from mnist_jax.machine.extras import installed_version, metadata, requirements, unmet
from mnist_jax.machine.user_cache import cache_root
from mnist_jax.messages import one_line
from mnist_jax.native import library
from mnist_jax.processes.clusters import cluster_job
from mnist_jax.workdir.origin import PACKAGES, cpu_count

PYTHON = "Programming Language :: Python :: "  # a classifier of pyproject.toml
EXTRAS = ("report", "serve", "export", "tensorboard", "sweep")


class Finding(NamedTuple):
    """A line of the doctor's report."""

    what: str  # subject of the check
    value: str  # its result
    advice: str = ""  # the user's next step
    problem: bool = False  # the advice must be followed


def doctor() -> Iterator[Finding]:
    """Yields findings about the machine and the installation, each as soon as it is made.

    Changes nothing but the caches of compiled programs.
    """
    devices, error = local_devices()
    yield find_accelerator(devices, error, accelerator.present_accelerator())
    sections = {
        "versions": find_versions(),
        "requirements": find_requirements(""),
        "devices": find_devices(devices) if devices else (),
        "native kernel": find_native(devices),
        "data": find_data(),
        "caches": find_caches(),
        "extras": find_requirements(*EXTRAS),
        "cluster": find_cluster(os.environ),
    }
    for name, section in sections.items():
        try:
            yield from section
        except Exception as error:  # such as a broken package's
            yield Finding(name, f"{type(error).__name__}: {one_line(error)}", problem=True)


def local_devices() -> tuple[Sequence[Any], str]:
    """Returns this process's devices, and the error if JAX does not start."""
    try:
        return jax.local_devices(), ""
    except Exception as error:  # without a GPU an AssertionError with no message
        return [], one_line(error) or "there is no device of the kind that JAX_PLATFORMS names"


def wrong_on(device: Any) -> str:
    """Computes a matrix product and a gradient on a device; returns the problem, "" for none.

    The results must be exactly NumPy's: bfloat16, to which a TPU rounds, holds them.
    """
    inputs, weights, targets = np.random.default_rng(0).integers(-1, 2, (3, 16, 16)).astype("f4")

    def loss_fn(weights: jax.Array, inputs: jax.Array, targets: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum((inputs @ weights - targets) ** 2)

    try:
        x, w, y = jax.device_put((inputs, weights, targets), device)
        product, gradient = jax.device_get((x @ w, jax.jit(jax.grad(loss_fn))(w, x, y)))
    except RuntimeError as error:
        return one_line(error)
    if not np.array_equal(product, inputs @ weights):
        return "a matrix product is wrong"
    if not np.array_equal(gradient, inputs.T @ (inputs @ weights - targets)):
        return "a gradient is wrong"
    return ""


def find_accelerator(devices: Sequence[Any], error: str, present: str) -> Finding:
    """Checks whether JAX uses the present accelerator."""
    what = "accelerator"
    if error:
        advice = "" if present == "cpu" else f"{accelerator.remedy(present)}; "
        advice += "to use the CPU, set JAX_PLATFORMS=cpu"
        return Finding(what, f"JAX does not start: {error}", advice, problem=True)
    if devices[0].platform != "cpu":
        return Finding(what, f"{len(devices)} x {devices[0].device_kind}: JAX uses it")
    if present == "cpu":
        return Finding(what, "none that JAX can use in this machine: it uses the CPU, as it should")
    name = "an AMD GPU" if present == "amd" else f"a {present.upper()}"
    if hidden := accelerator.hidden_by(present):
        return Finding(what, f"{name}, not used, as you asked: {hidden}", "unset that to use it")
    advice = accelerator.remedy(present)
    if present == "amd":  # also the graphics in a processor
        return Finding(what, f"{name}; JAX uses the CPU", f"if ROCm supports it, {advice}")
    return Finding(what, f"{name}, but JAX uses the CPU", advice, problem=True)


def find_versions() -> Iterator[Finding]:
    """Reports the versions that bits depend on; Python's must be tested."""
    python = platform.python_version()
    classifiers = metadata("mnist_jax", "Classifier")
    tested = [line.removeprefix(PYTHON) for line in classifiers if line.startswith(PYTHON)]
    unfit = bool(tested) and python.rpartition(".")[0] not in tested
    advice = f"use Python {', '.join(tested)}" if unfit else ""
    yield Finding("python", f"{python} in {sys.prefix}", advice, unfit)
    yield Finding("mnist_jax", f"{mnist_jax.__version__} in {Path(mnist_jax.__file__).parent}")
    for name in PACKAGES:
        yield Finding(name, installed_version(name) or "not installed")


def find_requirements(*extras: str) -> Iterator[Finding]:
    """Checks the requirements of extras; "" names the package's."""
    required = requirements("mnist_jax")
    for extra in extras:
        what = f"extra {extra}" if extra else "requirements"
        if missing := unmet(required.get(extra, [])):
            names = (f"{each.name} {installed_version(each.name)}".strip() for each in missing)
            advice = f"{'if wanted: ' * bool(extra)}pip install {shlex.join(map(str, missing))}"
            yield Finding(what, f"lacks {', '.join(names)}", advice, problem=not extra)
        else:
            yield Finding(what, "installed" if required.get(extra) else "unknown: not installed")


def find_devices(devices: Sequence[Any]) -> Iterator[Finding]:
    """Checks that each device computes correctly."""
    yield Finding("devices", f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})")
    yield Finding("cores", f"{cpu_count()} of {os.cpu_count()} for this process")
    wrong = [(device, problem) for device in devices if (problem := wrong_on(device))]
    for device, problem in wrong:
        advice = "another process may use it; if not, update its driver"
        yield Finding("computation", f"on {device}: {problem}", advice, problem=True)
    if not wrong:
        where = f"on all {len(devices)} devices" if len(devices) > 1 else "on it"
        yield Finding("computation", f"a product and a gradient are right {where}")


def find_native(devices: Sequence[Any]) -> Iterator[Finding]:
    """Compiles or loads the package's kernel for CPUs."""
    if devices and devices[0].platform == "cpu":
        found = library.load()
        compiled = f"compiled by {found.compiler}"
        value = "none: convolutions are matrix products" if found.problem else compiled
        yield Finding("native kernel", value, found.problem)


def find_data() -> Iterator[Finding]:
    """Checks the bundled and the prepared MNIST."""
    from mnist_jax.datasets.mnist_idx import mnist_idx_dataset_builder as bundled  # slow: tfds

    what = "bundled MNIST"
    try:
        for name in bundled.SHA256:
            bundled.read_idx(name, 0)
        yield Finding(what, f"{len(bundled.SHA256)} files, as they were published")
    except (ValueError, OSError) as error:
        yield Finding(what, str(error), "install the package again", problem=True)
    what, advice = "prepared MNIST", "set TFDS_DATA_DIR to a writable directory"
    try:
        root = prepare.data_root(None)
        prepared = prepare.find(root, prepare.ALIASES["mnist"])
    except (ValueError, OSError) as error:
        yield Finding(what, str(error), advice, problem=True)
        return
    if prepared:
        yield Finding(what, str(prepared))
    elif can_write(root):
        yield Finding(what, f"not yet: the first training does it, in {root}")
    else:
        yield Finding(what, f"no, and {root} is not writable", advice, problem=True)


def find_caches() -> Iterator[Finding]:
    """Reports the caches' places and sizes; without them, starts are slower."""
    try:
        root = cache_root()
    except RuntimeError:
        yield Finding("caches", "none: there is no home directory", "set XDG_CACHE_HOME")
        return
    compiled = jax.config.values["jax_compilation_cache_dir"] or root / "compiled"
    for what, directory, variable in (
        ("compiled programs", compiled, "XDG_CACHE_HOME or JAX_COMPILATION_CACHE_DIR"),
        ("decoded datasets", root / "arrays", "XDG_CACHE_HOME"),
    ):
        if "://" in str(directory):  # a bucket
            yield Finding(what, f"in {directory}")
        elif can_write(Path(directory)):
            yield Finding(what, f"{_size(Path(directory)) / 1e6:,.1f} MB in {directory}")
        else:
            advice = f"to start faster, set {variable} to a writable directory"
            yield Finding(what, f"not kept: {directory} is not writable", advice)


def find_cluster(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Reports this process's rank in a cluster's job."""
    job = cluster_job(environ)
    rank = job and f"process {job.rank} of {job.processes} of {job.cluster} (the first is 0)"
    yield Finding("cluster", rank or "none: a process of its own")


def can_write(directory: Path) -> bool:
    """Tells whether a directory can be made and written."""
    try:
        there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        with tempfile.TemporaryDirectory(dir=there):
            return True
    except OSError:
        return False


def _size(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):  # deleted by another process
            total += path.stat().st_size
    return total
