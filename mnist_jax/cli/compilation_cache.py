"""A cache of compiled programs on disk, which makes the next start faster."""

import hashlib
import os
import platform
import warnings
from pathlib import Path

import jax

from mnist_jax.datasets.cache import cache_root


def use_compilation_cache() -> None:
    """Makes JAX keep compiled programs in $XDG_CACHE_HOME/mnist_jax/compiled, or below ~/.cache.

    The programs run as they are read, so the directory is the user's alone; it has no size limit,
    and may be deleted at any time. Where it cannot be made, or the user has named another one
    ($JAX_COMPILATION_CACHE_DIR), this does nothing. It changes JAX's settings for the whole
    process: a command may do so, a library may not.

    References:
        https://docs.jax.dev/en/latest/persistent_compilation_cache.html
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    try:
        # A home directory may be shared by machines; a program is for one kind of processor.
        private = cache_root() / "compiled"
        directory = private / _processor_key()
        directory.mkdir(parents=True, exist_ok=True)
        if private.stat().st_uid != os.getuid():
            return
        private.chmod(0o700)
    except (OSError, RuntimeError):  # RuntimeError: the user has no home directory
        return
    # What cannot be read or kept is compiled: that costs time, and is nothing to tell.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # Everything: many small programs make a slow start, too.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _processor_key() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    # "flags" are x86's instruction sets, "Features" Arm's.
    features = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    processor = f"{platform.machine()} {platform.processor()} {features}"
    return hashlib.sha256(processor.encode()).hexdigest()[:16]
