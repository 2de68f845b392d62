"""A cache of compiled programs on disk, which makes the next start faster."""

import warnings

import jax

from mnist_jax.machine.user_cache import private_directory


def use_compilation_cache() -> None:
    """Makes JAX keep compiled programs in $XDG_CACHE_HOME/mnist_jax/compiled, or below ~/.cache.

    Programs run unchecked, so the directory is private. It has no size limit, and may be deleted at
    any time. Without a writable one, or with $JAX_COMPILATION_CACHE_DIR, nothing changes.

    References:
        https://docs.jax.dev/en/latest/persistent_compilation_cache.html
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    try:
        directory = private_directory("compiled")
    except (OSError, RuntimeError):  # RuntimeError: no home directory
        return
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # Small programs, too: they are many.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
