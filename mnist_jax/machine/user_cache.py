"""Directories of the user's caches."""

import hashlib
import os
import platform
from pathlib import Path


def cache_root() -> Path:
    """Returns the directory of the user's caches; RuntimeError without a home directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnist_jax"


def private_directory(name: str) -> Path:
    """Makes a directory, writable by the user only, for programs compiled for this processor.

    Raises OSError if it cannot be made or belongs to another user, RuntimeError without a home
    directory.
    """
    private = cache_root() / name
    directory = private / processor_key()
    directory.mkdir(parents=True, exist_ok=True)
    for each in (private, directory):
        if each.stat().st_uid != os.getuid():
            raise PermissionError(f"{each} belongs to another user")
        each.chmod(0o700)
    return directory


def processor_key() -> str:
    """Returns a hash of the processor's kind and instruction sets."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    features = [line for line in lines if line.startswith(("flags", "Features"))][:1]  # x86, Arm
    processor = f"{platform.machine()} {platform.processor()} {features}"
    return hashlib.sha256(processor.encode()).hexdigest()[:16]
