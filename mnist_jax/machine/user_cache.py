"""Directories of the user's caches."""

import hashlib
import os
import platform
from pathlib import Path


def cache_root() -> Path:
    """Returns the directory of the user's caches; RuntimeError without a home directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnist_jax"


def private_directory(name: str) -> Path:
    """Makes a private directory for programs compiled for this processor's instruction sets.

    Raises OSError if it cannot be made or belongs to another user, RuntimeError without a home
    directory.
    """
    private = cache_root() / name
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    sets = [line for line in lines if line.startswith(("flags", "Features"))][:1]  # x86, Arm
    processor = f"{platform.machine()} {platform.processor()} {sets}"
    directory = private / hashlib.sha256(processor.encode()).hexdigest()[:16]
    directory.mkdir(parents=True, exist_ok=True)
    for each in (private, directory):
        if each.stat().st_uid != os.getuid():
            raise PermissionError(f"{each} belongs to another user")
        each.chmod(0o700)  # its programs are run unchecked
    return directory
