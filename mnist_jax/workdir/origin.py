"""The origin of a run: its config, data and environment."""

import importlib.metadata
import os
import platform
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax

from mnist_jax.config import completed, config_differences
from mnist_jax.datasets.info import DataInfo, data_info
from mnist_jax.models import choices_of
from mnist_jax.native.library import load

PACKAGES = ("mnist-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
PACKAGES += ("tensorflow-datasets", "numpy")
# Not recorded by older versions.
UNTOLD: dict[str, Any] = {"process_count": 1, "settings": [], "native_compiler": ""}
# JAX's settings that change bits, with their defaults.
JAX_SETTINGS = {
    "jax_enable_x64": False,
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_default_matmul_precision": None,
    "jax_disable_most_optimizations": False,
}
CHOICES = "choose another --workdir, or retrain with --overwrite"
VARIABLES = ("LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")
# XLA flags that change no bits, or are recorded separately.
HARMLESS = ("--xla_force_host_platform_device_count", "--xla_dump")


class Origin(NamedTuple):
    """The origin of a run. Only a run of the same origin resumes a checkpoint."""

    config: dict[str, Any]  # nested, with a population's members
    data_sha256: str  # of all splits' images and labels
    data: DataInfo
    examples: dict[str, int]  # numbers by split
    environment: dict[str, Any]  # from the function `environment`
    init_sha256: str | None = None  # of the network that the run began from, if any
    # SHA-256 by name, from `parts.own_sha256`.
    own: dict[str, str] = {}  # noqa: RUF012 (never changed)
    step_sha256: str | None = None  # of the compiled steps, from `compiled.text_sha256`

    def to_json(self) -> dict[str, Any]:
        values = self._asdict() | {"data": self.data._asdict()}
        absent = [name for name in ("init_sha256", "own", "step_sha256") if not values[name]]
        return {name: value for name, value in values.items() if name not in absent}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Origin":
        known: dict[str, Any] = values | {"data": data_info(values["data"])}
        return cls(**known)

    def hashes(self) -> dict[str, str]:
        """Returns the hashes for result.json, by name."""
        names = ("data_sha256", "init_sha256", "step_sha256")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def length_dependence(config: dict[str, Any]) -> str | None:
    """Names the config field that makes every step depend on the number of epochs, or None.

    Without one, a shorter run has the bits of a longer one's beginning: keys, orders and averages
    depend on the step alone, plateaus and early stopping on earlier epochs.
    """
    fields = completed(config)
    for name, free in (("optimizer.schedule", "constant"), ("optimizer.warmup", 0)):
        if fields[name] != free:
            return f"{name} is {fields[name]!r}"
    return None


def check_same_run(saved: Origin, expected: Origin, checkpoints: Path) -> None:
    """Raises ValueError if a run in `checkpoints` has a different config, data or own parts.

    Warns of a different environment, where own parts are not compared. Without a
    `length_dependence`, the saved run may have fewer epochs.
    """
    check_own(saved.own, expected.own, checkpoints, compare=is_here(saved))
    before, now = (
        completed(origin.config) | {"data_sha256": origin.data_sha256}
        for origin in (saved, expected)
    )
    if before["epochs"] < now["epochs"] and not length_dependence(saved.config):
        del before["epochs"], now["epochs"]  # the run has been extended
    if differences := config_differences(before, now):
        raise ValueError(
            f"{checkpoints} holds a run with a different config or data "
            f"({'; '.join(differences)}): {CHOICES}"
        )
    if saved.data.label_names != expected.data.label_names:
        raise ValueError(f"{checkpoints} holds a run with different class names: {CHOICES}")
    if differences := config_differences(UNTOLD | saved.environment, expected.environment):
        warnings.warn(
            f"the run in {checkpoints} resumes in a different environment "
            f"({'; '.join(differences)}): its bits may differ from an uninterrupted run's",
            stacklevel=2,
        )


def check_same_step(saved: Origin, expected: Origin, checkpoints: Path) -> None:
    """Raises ValueError if a checkpoint's training steps differ from a run's.

    Steps of different environments, whose programs differ, are not compared. Older versions
    recorded none.
    """
    hashes = {saved.step_sha256, expected.step_sha256}
    if is_here(saved) and None not in hashes and len(hashes) == 2:
        raise ValueError(
            f"{checkpoints} holds a run with a different training step: its code has changed; "
            f"{CHOICES}"
        )


def is_here(origin: Origin) -> bool:
    """Tells whether a run was made in this environment, where equal code has equal hashes."""
    return UNTOLD | origin.environment == environment(origin.config)


def check_own(saved: dict[str, str], given: dict[str, str], where: Path, *, compare: bool) -> None:
    """Raises ValueError if the own parts of the run in `where` are not the given ones.

    Both are SHA-256 by name; with `compare` false, only names count.
    """
    missing = [name for name in saved if name not in given]
    surplus = [name for name in given if name not in saved]
    different = [name for name in saved if compare and saved[name] != given.get(name, saved[name])]
    if "model" in different:
        different = ["model"]  # the others are hashed with its parameters
    if missing:
        names = {"metrics" if name.startswith("metric ") else name: None for name in missing}
        raise ValueError(
            f"{where} holds a run with its own {', '.join(missing)}: pass it again "
            f"({', '.join(f'{name}=' for name in names)} in Python, or --config with its recipe)"
        )
    problem = f"its own {', '.join(surplus)}, which it was not trained with" if surplus else ""
    if different:
        problem = f"another {', '.join(different)} than it was trained with"
    if problem:
        raise ValueError(
            f"{where} holds a run that cannot be used with {problem}: pass the same, {CHOICES}"
        )


def cpu_count() -> int | None:
    """Returns the number of cores that this process may use, on which XLA's rounding depends."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return len(affinity(0)) if affinity else os.cpu_count()


def settings() -> list[str]:
    """Returns unusual settings of JAX and XLA that change bits, as NAME=VALUE."""
    changed = []
    for name, usual in JAX_SETTINGS.items():
        value = getattr(jax.config, name) if hasattr(jax.config, name) else jax.config.read(name)
        if value != usual:
            changed.append(f"{name}={value}")
    changed += [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    flags = os.environ.get("XLA_FLAGS", "").split()
    return changed + [f"XLA_FLAGS={flag}" for flag in flags if not flag.startswith(HARMLESS)]


def may_use_kernel(config: dict[str, Any]) -> bool:
    """Tells whether the native kernel may compute a layer of a recipe's network here."""
    fields = completed(config)
    return (
        jax.default_backend() == "cpu"
        and fields["model.lowering"] in ("auto", "native")
        and "lowering" in choices_of(fields["model.name"])
    )


def environment(config: dict[str, Any]) -> dict[str, Any]:
    """Describes this machine and its software, on which the bits of a run depend.

    `native_compiler` is "" if the recipe `config` (nested dicts) does not use the kernel.
    """
    return {
        "platform": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
        "cpu_count": cpu_count(),
        "settings": settings(),
        "native_compiler": load().compiler if may_use_kernel(config) else "",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }
