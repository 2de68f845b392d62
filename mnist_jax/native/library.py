"""The kernel's library: compiled on this machine at first use, kept, and loaded into JAX."""

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import jax

from mnist_jax.machine.user_cache import private_directory
from mnist_jax.messages import one_line

HEADER, *SOURCES = "conv_pool.h", "conv_pool.cc", "ffi.cc"
# The machine's widest instructions; a product and the addition behind it are one instruction.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fPIC")
COMPILERS = ("c++", "g++", "clang++")
TARGETS = (
    "ConvPoolInfer",
    "ConvPoolForward",
    "ConvPoolWeightsGradient",
    "ConvPoolImagesGradient",
)
TIMEOUT = 120  # seconds: a compiler that takes as long hangs
_lock = threading.Lock()


class Library(NamedTuple):
    """The outcome of loading the library.

    Attributes:
        compiler: the version of the compiler that made the library; "" if none could be loaded.
        problem: an explanation of why none could be loaded, with the remedy; "" if one was.
    """

    compiler: str
    problem: str = ""


def start_loading() -> None:
    """Begins to compile or load the library, beside what the caller does next."""
    threading.Thread(target=load, daemon=True).start()


def load() -> Library:
    """Compiles the library if it is not kept, and lets JAX call it; waits until that is done."""
    with _lock:  # the second of two callers takes what the first has made
        return _load()


@functools.cache
def _load() -> Library:
    try:
        compiler = find_compiler()
    except ValueError as error:
        return Library("", f"$CXX is not a command: {one_line(error)}")
    if not compiler:
        return Library("", f"no C++ compiler is found: install g++ or clang++ ({_where()})")
    try:
        version = _run([*compiler, "--version"]).split("\n")[0]
        register(kept(private_directory("native"), compiler, version))
    except subprocess.CalledProcessError as error:
        said = one_line(f"{error.stdout}\n{error.stderr}") or f"exit status {error.returncode}"
        return Library("", f"{shlex.join(compiler)} fails: {said:.300} ({_where()})")
    except subprocess.TimeoutExpired:
        return Library("", f"{shlex.join(compiler)} takes more than {TIMEOUT} s ({_where()})")
    except (OSError, RuntimeError, AttributeError) as error:
        return Library("", f"the library cannot be kept or loaded: {one_line(error)}")
    return Library(version)


def _where() -> str:
    return f"$CXX or one of {', '.join(COMPILERS)} is used"


def find_compiler() -> list[str]:
    """Returns the command of the C++ compiler: $CXX, or the first of COMPILERS; [] for none.

    Raises:
        ValueError: $CXX has a quotation without an end.
    """
    own = shlex.split(os.environ.get("CXX", ""))
    commands = [own] if own else [[name] for name in COMPILERS]
    return next((command for command in commands if shutil.which(command[0])), [])


def kept(directory: Path, compiler: list[str], version: str) -> Path:
    """Returns the library's file in a directory, and compiles it where no intact one is found.

    The name has a hash of all that the library is made of and by, and one of its bytes: so a
    damaged or outdated file is never loaded.

    Raises:
        subprocess.CalledProcessError: the compiler fails.
        OSError: the directory cannot be written.
    """
    source = [(Path(__file__).parent / name).read_bytes() for name in (HEADER, *SOURCES)]
    made_of = repr((source, FLAGS, compiler, version, importlib.metadata.version("jaxlib")))
    key = hashlib.sha256(made_of.encode()).hexdigest()[:32]
    for path in directory.glob(f"{key}-*.so"):
        if is_sound(path):
            return path
    for leftover in directory.glob("*.tmp"):  # of a process that was killed
        with contextlib.suppress(OSError):  # another process has removed it
            if time.time() - leftover.stat().st_mtime > 3600:
                shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(suffix=".tmp", dir=directory) as folder:
        made = compile_library(compiler, Path(folder))
        made.chmod(0o600)
        path = directory / f"{key}-{_sha256(made)}.so"
        return made.replace(path)


def is_sound(path: Path) -> bool:
    """Tells whether a file is the user's, nobody else may write it, and its bytes fit its name."""
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


def compile_library(compiler: list[str], folder: Path, flags: tuple[str, ...] = ()) -> Path:
    """Compiles the sources, both at a time, into a library in the folder.

    Args:
        compiler: the compiler's command.
        folder: an existing directory.
        flags: further flags, which may take back some of FLAGS.

    Raises:
        subprocess.CalledProcessError: the compiler fails.
    """
    options = [*FLAGS, *flags, "-isystem", jax.ffi.include_dir()]
    here, objects = Path(__file__).parent, [str(folder / f"{name}.o") for name in SOURCES]
    pairs = zip(SOURCES, objects, strict=True)
    _run(*([*compiler, *options, "-c", str(here / name), "-o", made] for name, made in pairs))
    library = folder / "library.so"
    _run([*compiler, *FLAGS, *flags, "-shared", *objects, "-o", str(library)])
    return library


def register(path: Path) -> None:
    """Loads a library, and makes its functions known to JAX; OSError if it cannot be loaded."""
    library = ctypes.CDLL(str(path))
    for target in TARGETS:
        jax.ffi.register_ffi_target(
            f"mnist_jax_{target}", jax.ffi.pycapsule(getattr(library, target)), platform="cpu"
        )


def _run(*commands: list[str]) -> str:
    """Runs commands at the same time; returns what the last one prints."""
    processes = [
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=os.environ | {"LC_ALL": "C"},  # a message is quoted in an English one
        )
        for command in commands
    ]
    said = ""
    try:
        for process in processes:
            said, errors = process.communicate(timeout=TIMEOUT)
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args, said, errors)
    finally:
        for process in processes:
            process.kill()  # does nothing where it has ended
            process.communicate()
    return said


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
