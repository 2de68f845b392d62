"""The library is compiled once, private to the user, and never loaded if damaged."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from compilers import Compiler, create_compiler
from helpers import python, wait_until

from mnist_jax.native import library
from mnist_jax.native.library import Library, is_sound, start_compiling

pytestmark = pytest.mark.usefixtures("native")

LOAD = """
import json
from mnist_jax.native.library import load
print(json.dumps(load()))
"""
LOAD_AND_CALL = """
import json
import jax.numpy as jnp
from mnist_jax.native.library import load
from mnist_jax.ops import conv_pool
images, kernel = jnp.ones((1, 9, 9, 16)), jnp.ones((3, 3, 1, 2))
assert conv_pool(images, kernel, pool_size=2, lowering="native").sum() == 2592
print(json.dumps(load()))
"""
VERSION = "a version"


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns this process's library, which need not be compiled again."""
    copy = tmp_path_factory.mktemp("native") / "library.so"
    _, finish = library._start.__wrapped__(tuple(library.find_compiler()))
    shutil.copy(finish(), copy)
    return copy


@pytest.fixture
def compiler(compiled: Path, tmp_path: Path) -> Compiler:
    return create_compiler(tmp_path / "bin", compiled)


def path_with(compiler: Compiler) -> str:
    return f"{compiler.directory}:/usr/bin:/bin"


def load(compiler: Compiler, cache: Path, script: str = LOAD, cxx: str = "") -> Library:
    env: dict[str, Any] = {"PATH": path_with(compiler), "XDG_CACHE_HOME": str(cache), "CXX": cxx}
    done = python("-c", script, **env)
    assert (done.returncode, done.stderr) == (0, "")
    return Library(*json.loads(done.stdout))


def files(cache: Path) -> list[str]:
    (directory,) = (cache / "mnist_jax" / "native").iterdir()
    return sorted(path.name for path in directory.iterdir())


def test_a_second_process_loads_what_the_first_has_compiled(compiler, tmp_path):
    cache = tmp_path / "cache"
    first = load(compiler, cache, LOAD_AND_CALL)
    assert first.compiler
    assert not first.problem
    assert compiler.calls() == 1
    (name,) = files(cache)
    assert load(compiler, cache, LOAD_AND_CALL) == first
    assert compiler.calls() == 1
    assert files(cache) == [name]

    (path,) = (cache / "mnist_jax" / "native").glob("*/*.so")
    damage(path)
    assert load(compiler, cache, LOAD_AND_CALL) == first
    assert compiler.calls() == 2
    for path in (cache / "mnist_jax" / "native", *(cache / "mnist_jax" / "native").glob("**/*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_compiler_may_have_arguments(compiler, tmp_path):
    """$CXX may be `ccache g++`."""
    cxx = f"'{compiler.program}' -O1"
    assert not load(compiler, tmp_path / "cache", LOAD_AND_CALL, cxx).problem
    log = (compiler.directory / "calls").read_text(encoding="utf-8")
    assert log.startswith(f"-O1 {library.FLAGS[0]} ")


def test_another_source_flag_compiler_or_jaxlib_makes_another_library(
    compiler, tmp_path, monkeypatch
):
    def compiles(command: list[str] = compiler.command, version: str = VERSION) -> int:
        before = compiler.calls()
        path = start_compiling(tmp_path, command, version)()
        assert is_sound(path)
        assert path == start_compiling(tmp_path, command, version)()
        return compiler.calls() - before

    def compiles_with(owner: Any, name: str, value: object) -> int:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            return compiles()

    assert [compiles(), compiles()] == [1, 0]
    assert compiles(version="another version") == 1
    assert compiles([*compiler.command, "-g"]) == 1
    assert compiles_with(library, "FLAGS", (*library.FLAGS, "-g")) == 1
    assert compiles_with(library.jaxlib.version, "__version__", "another") == 1
    for name in (library.HEADER, *library.SOURCES):
        folder = shutil.copytree(Path(library.__file__).parent, tmp_path / f"with another {name}")
        with (folder / name).open("a", encoding="utf-8") as source:
            source.write("// another\n")
        assert compiles_with(library, "__file__", str(folder / "library.py")) == 1
    assert compiles() == 0
    assert len(list(tmp_path.glob("*.so"))) == 8


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_link(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit": damage,
    "foreign": lambda path: path.write_bytes(Path("/bin/sh").read_bytes()),
    "link": replace_by_link,
    "link to nothing": lambda path: (path.unlink(), path.symlink_to("nothing")),
    "directory": replace_by_directory,
    "all may write": lambda path: path.chmod(0o602),
    "unreadable": lambda path: path.chmod(0o000),
    "of another user": lambda path: os.chown(path, 1234, -1),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_file_that_is_not_sound_is_never_loaded(name, compiler, tmp_path):
    if os.getuid() == 0 and name == "unreadable":
        pytest.skip("root reads everything")
    path = start_compiling(tmp_path, compiler.command, VERSION)()
    try:
        DAMAGES[name](path)
    except PermissionError:
        pytest.skip("only root gives files away")
    assert not is_sound(path)
    if name == "directory":  # it cannot be ours: an error, and it stays
        with pytest.raises(OSError, match="irectory"):
            start_compiling(tmp_path, compiler.command, VERSION)()
        return
    again = start_compiling(tmp_path, compiler.command, VERSION)()
    assert compiler.calls() == 2
    assert is_sound(again)


def test_a_sound_library_is_found_beside_one_that_is_not(compiler, tmp_path):
    """Two compilations of the same may differ, by a path or a time, so each has its own file."""
    path = start_compiling(tmp_path, compiler.command, VERSION)()
    for digit in "0f":  # one before it, one behind it
        shutil.copy(path, path.with_name(f"{path.name[:32]}-{64 * digit}.so"))
    assert start_compiling(tmp_path, compiler.command, VERSION)() == path
    assert compiler.calls() == 1


def problem(monkeypatch: pytest.MonkeyPatch, **env: str) -> str:
    """Returns the problem of loading the library in this process, without registering it."""
    with monkeypatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        library._start.cache_clear()  # another test may have started it without waiting
        found = library._load.__wrapped__()
    assert found.compiler == ""
    assert found.problem.isprintable()
    return found.problem


@pytest.mark.parametrize(
    ("env", "start"),
    [
        ({"FAULT": "fails"}, "c++ fails: first line second \\x1b[31m line ($CXX or one of "),
        ({"FAULT": "version"}, "c++ fails: exit status 1 ($CXX or one of "),
        ({"FAULT": "garbage"}, "the library cannot be saved or loaded: "),
        ({"CXX": "true"}, "the library cannot be saved or loaded: "),
        ({"CXX": "false"}, "false fails: "),
        ({"CXX": "no-such-compiler -v"}, "no C++ compiler is found: install g++ or clang++ ("),
        ({"CXX": "c++ 'unbalanced"}, "$CXX is not a command: No closing quotation"),
        ({"PATH": "/nowhere"}, "no C++ compiler is found: install g++ or clang++ ("),
        ({"XDG_CACHE_HOME": "/proc/nowhere"}, "the library cannot be saved or loaded: "),
        ({"XDG_CACHE_HOME": "/dev/null"}, "the library cannot be saved or loaded: "),
    ],
    ids=str,
)
def test_without_a_library_a_line_says_why(env, start, compiler, tmp_path, monkeypatch):
    env = {"PATH": path_with(compiler), "XDG_CACHE_HOME": str(tmp_path / "cache")} | env
    assert problem(monkeypatch, **env).startswith(start)


def test_a_directory_of_another_user_is_not_used(compiler, tmp_path, monkeypatch):
    directory = tmp_path / "mnist_jax" / "native"
    directory.mkdir(parents=True)
    try:
        os.chown(directory, 1234, -1)
    except PermissionError:
        pytest.skip("only root gives directories away")
    env = {"CXX": str(compiler.program), "XDG_CACHE_HOME": str(tmp_path)}
    expected = f"the library cannot be saved or loaded: {directory} belongs to another user"
    assert problem(monkeypatch, **env) == expected
    assert compiler.calls() == 0


def test_a_compilation_that_is_killed_leaves_nothing_that_is_loaded(compiler, tmp_path):
    cache = tmp_path / "cache"
    env = os.environ | {"PATH": path_with(compiler), "FAULT": "hangs", "XDG_CACHE_HOME": str(cache)}
    process = subprocess.Popen([sys.executable, "-c", LOAD], env=env, start_new_session=True)
    wait_until((compiler.directory / "hanging").exists, [process])
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (leftover,) = files(cache)
    assert leftover.endswith(".tmp")
    assert not load(compiler, cache, LOAD_AND_CALL).problem
    assert compiler.calls() == 2
    assert leftover in files(cache)  # another process may be compiling there

    (path,) = (cache / "mnist_jax" / "native").glob("*/*.so")
    path.unlink()
    directory = path.parent / leftover
    os.utime(directory, times=(0, time.time() - 4000))
    assert not load(compiler, cache).problem
    assert files(cache) == [path.name]


def nobody(uid: int) -> None:
    raise KeyError(uid)


def test_a_user_without_a_home_has_no_library(compiler, monkeypatch):
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    found = problem(monkeypatch, CXX=str(compiler.program))
    assert found.startswith("the library cannot be saved or loaded: ")
    assert compiler.calls() == 0


def test_processes_that_begin_at_once_all_have_a_library(compiler, tmp_path):
    cache = tmp_path / "cache"
    with ThreadPoolExecutor(3) as pool:
        found = [*pool.map(lambda _: load(compiler, cache, LOAD_AND_CALL), range(3))]
    assert not any(each.problem for each in found)
    assert 1 <= compiler.calls() <= 3
    assert len(files(cache)) == 1


# Each prints the library that it has loaded.
SCRIPTS = {
    "threads that begin at once": """
from concurrent.futures import ThreadPoolExecutor
from mnist_jax.native.library import load, start_loading
for _ in range(3):
    start_loading()
with ThreadPoolExecutor(8) as pool:
    found = set(pool.map(lambda _: load(), range(8)))
assert len(found) == 1
""",
    "an import of TensorFlow Datasets meanwhile": """
import time
from etils import epy
from mnist_jax.native.library import load, start_loading
start_loading()
with epy.lazy_imports():
    time.sleep(1)
""",
    "an interrupt": """
import os, signal
from mnist_jax.native.library import load, start_loading
os.environ["FAULT"] = "hangs"
start_loading()
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.alarm(1)
try:
    load()
except KeyboardInterrupt:
    del os.environ["FAULT"]
""",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_one_library_is_loaded_after(name, compiler, tmp_path):
    script = f"{SCRIPTS[name]}\nimport json\nprint(json.dumps(load()))"
    assert not load(compiler, tmp_path / "cache", script).problem
    assert len(files(tmp_path / "cache")) == 1
    assert compiler.calls() == (2 if name == "an interrupt" else 1)
