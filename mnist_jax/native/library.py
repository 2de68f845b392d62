"""The kernel's library: compiled on this machine at first use, cached, and loaded into JAX."""

import contextlib
import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jaxlib.version

from mnist_jax.machine.user_cache import private_directory
from mnist_jax.messages import one_line

HEADER, *SOURCES = "conv_pool.h", "conv_pool.cc", "ffi.cc"
# The widest instructions, with fused multiplication and addition.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fPIC")
COMPILERS = ("c++", "g++", "clang++")
SEARCHED = f"$CXX or one of {', '.join(COMPILERS)} is used"
TARGETS = (
    "ConvPoolInfer",
    "ConvPoolForward",
    "ConvPoolWeightsGradient",
    "ConvPoolImagesGradient",
)
TIMEOUT = 120  # seconds, after which a compiler hangs
_lock = threading.Lock()


class Library(NamedTuple):
    """The outcome of loading the library."""

    compiler: str  # its compiler's version; "" if it is not loaded
    problem: str = ""  # reason that it is not loaded, with the remedy


def start_loading() -> None:
    """Starts to compile the library if it is not cached, in processes without a waiting thread.

    TensorFlow Datasets' import replaces `__import__` (etils' `lazy_imports`), which would break
    another thread's imports.
    """
    with _lock, contextlib.suppress(Exception):  # `load` explains it
        _start(tuple(find_compiler()))


def load() -> Library:
    """Compiles the library if it is not cached, and registers it with JAX."""
    with _lock:  # the second caller takes the library of the first
        return _load()


@functools.cache
def _load() -> Library:
    try:
        compiler = find_compiler()
    except ValueError as error:
        return Library("", f"$CXX is not a command: {one_line(error)}")
    if not compiler:
        return Library("", f"no C++ compiler is found: install g++ or clang++ ({SEARCHED})")
    try:
        version, finish = _start(tuple(compiler))
        register(finish())
    except subprocess.CalledProcessError as error:
        said = one_line(f"{error.stdout}\n{error.stderr}") or f"exit status {error.returncode}"
        return Library("", f"{shlex.join(compiler)} fails: {said:.300} ({SEARCHED})")
    except subprocess.TimeoutExpired:
        return Library("", f"{shlex.join(compiler)} takes more than {TIMEOUT} s ({SEARCHED})")
    except (OSError, RuntimeError, AttributeError) as error:
        return Library("", f"the library cannot be saved or loaded: {one_line(error)}")
    finally:
        _start.cache_clear()  # an interrupted compilation starts again
    return Library(version)


@functools.cache
def _start(compiler: tuple[str, ...]) -> tuple[str, Callable[[], Path]]:
    """Starts the compilation; returns the compiler's version and a function to finish it."""
    version = _wait(_spawn([*compiler, "--version"])).split("\n")[0]
    return version, start_compiling(private_directory("native"), compiler, version)


def find_compiler() -> list[str]:
    """Finds the C++ compiler's command: $CXX, or the first of COMPILERS, or [].

    Raises ValueError if $CXX has an unclosed quotation.
    """
    own = shlex.split(os.environ.get("CXX", ""))
    commands = [own] if own else [[name] for name in COMPILERS]
    return next((command for command in commands if shutil.which(command[0])), [])


def start_compiling(
    directory: Path, compiler: Sequence[str], version: str, flags: tuple[str, ...] = ()
) -> Callable[[], Path]:
    """Starts to compile the library, with further flags, unless a directory has an intact one.

    The file's name has hashes of the sources with the compiler, and of its bytes, so a damaged or
    outdated one is never loaded. Raises OSError if the directory cannot be written.

    Returns a function to call once, which waits for the library's file and returns it, or raises
    CalledProcessError or TimeoutExpired.
    """
    here, options = Path(__file__).parent, (*FLAGS, *flags)
    sources = [(here / name).read_bytes() for name in (HEADER, *SOURCES)]
    made_of = repr((sources, options, list(compiler), version, jaxlib.version.__version__))
    key = hashlib.sha256(made_of.encode()).hexdigest()[:32]
    for path in directory.glob(f"{key}-*.so"):
        if is_sound(path):
            return lambda: path
    for leftover in directory.glob("*.tmp"):  # from killed processes
        with contextlib.suppress(OSError):  # removed by another process
            if time.time() - leftover.stat().st_mtime > 3600:
                shutil.rmtree(leftover)
    folder = Path(tempfile.mkdtemp(suffix=".tmp", dir=directory))
    objects = [str(folder / f"{name}.o") for name in SOURCES]
    compilers = _spawn(
        *(
            [*compiler, *options, "-isystem", jax.ffi.include_dir(), "-c", here / name, "-o", made]
            for name, made in zip(SOURCES, objects, strict=True)
        )
    )

    def finish() -> Path:
        made = folder / "library.so"
        try:
            _wait(compilers)
            _wait(_spawn([*compiler, *options, "-shared", *objects, "-o", str(made)]))
            made.chmod(0o600)
            return made.replace(directory / f"{key}-{_sha256(made)}.so")
        finally:
            shutil.rmtree(folder)

    return finish


def is_sound(path: Path) -> bool:
    """Tells whether only the user may write a file whose bytes match its name."""
    try:
        facts = path.lstat()
        return (
            stat.S_ISREG(facts.st_mode)
            and facts.st_uid == os.getuid()
            and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            and path.stem.endswith(f"-{_sha256(path)}")
        )
    except OSError:
        return False


def register(path: Path) -> None:
    """Registers a library's functions with JAX; OSError if it cannot be loaded."""
    library = ctypes.CDLL(str(path))
    for target in TARGETS:
        jax.ffi.register_ffi_target(
            f"mnist_jax_{target}", jax.ffi.pycapsule(getattr(library, target)), platform="cpu"
        )


def _spawn(*commands: Sequence[str | Path]) -> list[subprocess.Popen[str]]:
    """Starts commands in parallel."""
    return [
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=os.environ | {"LC_ALL": "C"},  # English messages, quoted in ours
        )
        for command in commands
    ]


def _wait(processes: list[subprocess.Popen[str]]) -> str:
    """Waits for processes; returns the output of the last one."""
    said = ""
    try:
        for process in processes:
            said, errors = process.communicate(timeout=TIMEOUT)
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args, said, errors)
    finally:
        for process in processes:
            process.kill()  # if it still runs
            process.communicate()
    return said


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
