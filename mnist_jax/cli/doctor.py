"""Tells whether all that the package needs works here, and what to do where it does not."""

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
from packaging.specifiers import SpecifierSet

import mnist_jax
from mnist_jax.datasets import cache, prepare
from mnist_jax.machine import accelerator
from mnist_jax.machine.devices import kinds, memory, wrong_on
from mnist_jax.machine.extras import installed_version, requirements, unmet
from mnist_jax.processes.clusters import places
from mnist_jax.workdir.origin import PACKAGES, cpu_count

PYTHON = SpecifierSet(">=3.11,<3.14")  # what the tests run with
EXTRAS = ("report", "serve", "export", "tensorboard", "sweep")


class Finding(NamedTuple):
    """A line of what the doctor tells.

    Attributes:
        what: was looked at.
        value: what was found.
        advice: what to do about it, "" for nothing.
        problem: whether something is wrong, so that it must be done.
    """

    what: str
    value: str
    advice: str = ""
    problem: bool = False


def doctor() -> Iterator[Finding]:
    """Looks at the machine, and at what is installed.

    It changes nothing, but JAX may keep the small programs that it compiles here.

    Returns:
        The findings, each as soon as it is found: where it hangs or crashes, the next one is why.
        The first one tells whether JAX uses the accelerator of this machine.
    """
    devices, error = local_devices()
    yield find_accelerator(devices, error, accelerator.present_accelerator())
    sections = {
        "versions": find_versions(),
        "devices": find_devices(devices),
        "data": find_data(),
        "caches": find_caches(),
        "extras": find_extras(),
        "cluster": find_clusters(os.environ),
    }
    for name, section in sections.items():
        try:
            yield from section
        except Exception as error:  # a broken package, say: the rest is worth a look
            yield Finding(name, f"{type(error).__name__}: {_one_line(error)}", problem=True)


def local_devices() -> tuple[Sequence[Any], str]:
    """Returns the devices of this process and "", or none and why JAX does not start."""
    try:
        return jax.local_devices(), ""
    except Exception as error:  # mostly RuntimeError; of JAX_PLATFORMS=cuda without a GPU an empty
        # AssertionError
        return [], _one_line(error) or "there is no device of the kind that is wanted"


def find_accelerator(
    devices: Sequence[Any],
    error: str,
    present: str,
    driver: str | Path = accelerator.NVIDIA_DRIVER,
) -> Finding:
    """Tells whether JAX uses the accelerator that this machine has.

    Args:
        devices: those of JAX.
        error: why it has none.
        present: what the machine has, see `accelerator.present_accelerator`.
        driver: see `accelerator.remedy`.
    """
    what = "accelerator"
    if error:
        error = error.partition(" (set JAX_PLATFORMS")[0]  # JAX's own advice, given below
        wanted = os.environ.get("JAX_PLATFORMS")
        way = f"unset JAX_PLATFORMS, which is {wanted}" if wanted else "set JAX_PLATFORMS=cpu"
        missing = "" if present == "cpu" else accelerator.remedy(present, driver)
        advice = f"{missing or 'mend that'}; or {way}"
        return Finding(what, f"JAX does not start: {error}", advice, problem=True)
    if devices[0].platform != "cpu":
        return Finding(what, f"{kinds(devices)}: JAX uses it")
    if present == "cpu":
        apple = (platform.system(), platform.machine()) == ("Darwin", "arm64")
        none = "none that JAX can use: on Apple's chips" if apple else "none in this machine:"
        return Finding(what, f"{none} JAX uses the CPU, as it should")
    name = {"amd": "GPU of AMD"}.get(present, present.upper())
    hidden = accelerator.hidden_by(present)
    if hidden:
        advice = f"unset that to use the {name}"
        return Finding(what, f"a {name}, left aside as you wish: {hidden}", advice)
    advice = accelerator.remedy(present, driver) or accelerator.look_closer(present)
    if present == "amd":  # graphics inside a processor, too, that ROCm may not support
        return Finding(what, f"a {name}; JAX uses the CPU", f"if ROCm supports it: {advice}")
    return Finding(what, f"a {name}, but JAX uses the CPU", advice, problem=True)


def find_versions() -> Iterator[Finding]:
    """Compares the versions of Python and of all packages with what is required."""
    python = platform.python_version()
    fits = PYTHON.contains(python, prereleases=True)
    advice = "" if fits else f"use Python {PYTHON}"
    yield Finding("python", f"{python} in {sys.prefix}", advice, problem=not fits)
    yield Finding("mnist_jax", f"{mnist_jax.__version__} in {Path(mnist_jax.__file__).parent}")
    required = requirements().get("", [])
    wrong = {requirement.name: requirement for requirement in unmet(required)}
    for name in PACKAGES:
        advice = f"pip install {_quoted([wrong[name]])}" if name in wrong else ""
        yield Finding(name, installed_version(name) or "not installed", advice, bool(advice))
    others = [requirement for requirement in required if requirement.name not in PACKAGES]
    rest = [requirement for requirement in others if requirement.name in wrong]
    if rest:
        value = ", ".join(
            f"{each.name} {installed_version(each.name) or 'missing'}" for each in rest
        )
        yield Finding("other packages", value, f"pip install {_quoted(rest)}", problem=True)
    elif required:
        yield Finding("other packages", f"{len(others)}, all as required")
    else:
        yield Finding("other packages", "not known: neither a checkout nor installed with pip")


def find_devices(devices: Sequence[Any]) -> Iterator[Finding]:
    """Tells what JAX computes with, and whether each device does so rightly."""
    if not devices:
        return
    value = f"{kinds(devices)} ({devices[0].platform})"
    others = jax.device_count() - len(devices)
    limit = memory(devices[0])
    value += f", {limit / 2**30:.1f} GiB for JAX on each" if limit else ""
    yield Finding("devices", value + (f", {others} in other processes" if others else ""))
    yield Finding("cores", f"{cpu_count()} of {os.cpu_count()} for this process")
    wrong = {str(device): problem for device in devices if (problem := wrong_on(device))}
    for name, problem in wrong.items():
        advice = "another process may use it; if not, update its driver"
        yield Finding("computation", f"on {name}: {problem}", advice, problem=True)
    if not wrong:
        where = f"on all {len(devices)} devices" if len(devices) > 1 else "on it"
        yield Finding("computation", f"a product and a gradient are right {where}")


def find_data() -> Iterator[Finding]:
    """Tells whether the MNIST that comes with the package is whole, and whether it is prepared."""
    from mnist_jax.datasets.mnist_idx import mnist_idx_dataset_builder as bundled  # slow: tfds

    damaged = []
    for name in bundled.SHA256:
        try:
            bundled.read_idx(name, 0)
        except (ValueError, OSError):
            damaged.append(name)
    if damaged:
        value = f"damaged, or not to be read: {', '.join(damaged)}"
        yield Finding("bundled MNIST", value, "install the package again", problem=True)
    else:
        yield Finding("bundled MNIST", f"{len(bundled.SHA256)} files, as they were published")
    try:
        root = prepare.data_root(None)
        found = prepare.find(root, prepare.ALIASES["mnist"])
    except (ValueError, OSError) as error:
        yield Finding("prepared MNIST", str(error), "set TFDS_DATA_DIR", problem=True)
        return
    if found:
        yield Finding("prepared MNIST", str(found))
    elif can_write(root):
        yield Finding("prepared MNIST", f"not yet: the first training does it, in {root}")
    else:
        advice = "set TFDS_DATA_DIR to a directory that can be written"
        yield Finding("prepared MNIST", f"no, and {root} cannot be written", advice, problem=True)


def find_caches() -> Iterator[Finding]:
    """Tells where the caches lie and how large they are. Without them all works, but slower."""
    try:
        root = cache.cache_root()
    except RuntimeError:
        yield Finding("caches", "none: there is no home directory", "set XDG_CACHE_HOME")
        return
    compiled = jax.config.values["jax_compilation_cache_dir"]
    own = "JAX_COMPILATION_CACHE_DIR" if "JAX_COMPILATION_CACHE_DIR" in os.environ else ""
    for what, directory, variable in (
        ("compiled programs", compiled or root / "compiled", own or "XDG_CACHE_HOME"),
        ("decoded datasets", root / "arrays", "XDG_CACHE_HOME"),
    ):
        if "://" in str(directory):  # a bucket
            yield Finding(what, f"in {directory}")
        elif not can_write(Path(directory)):
            advice = f"to start faster, set {variable} to a directory that can be written"
            yield Finding(what, f"not kept: {directory} cannot be written", advice)
        else:
            yield Finding(what, f"{_size(Path(directory)) / 1e6:,.1f} MB in {directory}")


def find_extras() -> Iterator[Finding]:
    """Tells which of the optional packages are there."""
    extras = requirements()
    for name in EXTRAS:
        missing = unmet(extras.get(name, []))
        if name not in extras:
            yield Finding(f"extra {name}", "not known")
        elif missing:
            advice = f"if wanted: pip install {_quoted(missing)}"
            lacks = ", ".join(requirement.name for requirement in missing)
            yield Finding(f"extra {name}", f"lacks {lacks}", advice)
        else:
            yield Finding(f"extra {name}", "installed")


def find_clusters(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Tells which process of a cluster's job this is."""
    found = places(environ)
    for place in found:
        lacks = f"JAX does not recognize it without {' and '.join(place.lacks)}"
        value = f"process {place.number} of {place.processes} of {place.cluster} (the first is 0)"
        yield Finding("cluster", value, lacks if place.lacks else "")
    if not found:
        yield Finding("cluster", "none: a process of its own")


def can_write(directory: Path) -> bool:
    """Whether a directory can be written, or made: tried in it, or above it, and nothing left."""
    try:
        there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        with tempfile.TemporaryDirectory(dir=there):
            return True
    except OSError:
        return False


def _size(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):  # another process has deleted it
            total += path.stat().st_size
    return total


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _quoted(requirements: Sequence[Any]) -> str:
    return shlex.join(map(str, requirements))
