"""The same start for every test, and the fixtures they share: MNIST, a small run."""

import contextlib
import ctypes
import functools
import gc
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

# A cluster that the tests run on is not theirs to join; their output has its own width and colours.
CLUSTERS = ("SLURM_", "OMPI_", "PMIX_", "TPU_", "COLAB_")
FOREIGN = (*CLUSTERS, "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
for _name in [name for name in os.environ if name.startswith(FOREIGN)]:
    del os.environ[_name]

import jax  # noqa: E402

# What tests import, before they do: its asserts explain themselves, and stay with `python -O`.
_files = (path.stem for path in Path(__file__).parent.rglob("*.py"))
pytest.register_assert_rewrite(*(name for name in _files if not name.startswith("test_")))

from browser import browser as browser  # noqa: E402
from helpers import SMALL, python  # noqa: E402

from mnist_jax import train  # noqa: E402
from mnist_jax.cli.compilation_cache import use_compilation_cache  # noqa: E402
from mnist_jax.datasets import Split, load_dataset  # noqa: E402
from mnist_jax.training import Run  # noqa: E402

# `nohup make test &` and many a daemon start programs with SIGINT ignored, or with signals blocked,
# and every process that a test starts inherits that. SIGHUP stays as it is: nohup is about it.
signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

# What JAX would broadcast without a word is an error here. (Strict dtypes too would be, but Optax
# raises a float to an int32 power.)
jax.config.update("jax_numpy_rank_promotion", "raise")
use_compilation_cache()  # most tests that train compile the same programs

# The examples of `make test` are the same every time; `make test-all` draws its own.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("drawn", deadline=None, database=None, print_blob=True)
hypothesis.settings.load_profile("fixed")

LIBC = ctypes.CDLL(None)


@pytest.fixture(scope="module", autouse=True)
def free_memory() -> Iterator[None]:
    """Compiled programs live as long as JAX's caches; what is freed, the C library keeps."""
    yield
    jax.clear_caches()
    gc.collect()
    if hasattr(LIBC, "malloc_trim"):  # of glibc
        LIBC.malloc_trim(0)


@pytest.fixture(scope="session")
def mnist() -> dict[str, Split]:
    return {split: load_dataset("mnist", split) for split in ("train", "test")}


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A finished run on 1,024 images. Tests read it and leave it as it is."""
    workdir = tmp_path_factory.mktemp("small") / "run"
    return workdir, train(SMALL, workdir)


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m mnist_jax ARGS` in a process of its own."""
    return functools.partial(python, "-m", "mnist_jax")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 9 MB in memory, which the test may give another size."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    with contextlib.ExitStack() as stack:
        stack.callback(subprocess.run, ["umount", str(disk)], check=True)
        yield disk
