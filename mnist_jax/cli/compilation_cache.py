"""A cache of compiled programs on disk, which makes the next start faster."""

import warnings

import jax

from mnist_jax.machine.user_cache import private_directory


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
        directory = private_directory("compiled")
    except (OSError, RuntimeError):  # RuntimeError: the user has no home directory
        return
    # What cannot be read or kept is compiled: that costs time, and is nothing to tell.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # Everything: many small programs make a slow start, too.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
