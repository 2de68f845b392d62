"""Directories of the user's caches."""

import hashlib
import os
import platform
from pathlib import Path


def cache_root() -> Path:
    """Returns the directory of the user's caches; RuntimeError without a home directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnist_jax"


def private_directory(name: str) -> Path:
    """Makes a directory for compiled programs, private to the user, for this kind of processor.

    Others may not write there, because programs are run without a check. Machines with different
    processors may share a home directory.

    Raises:
        OSError: the directory cannot be made, or belongs to another user.
        RuntimeError: the user has no home directory.
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
    """Returns a name of this kind of processor, from its instruction sets."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    # "flags" are x86's instruction sets, "Features" Arm's.
    features = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    processor = f"{platform.machine()} {platform.processor()} {features}"
    return hashlib.sha256(processor.encode()).hexdigest()[:16]
