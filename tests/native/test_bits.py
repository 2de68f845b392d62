"""The bits depend neither on cores nor on threads, the values not on a processor's instructions."""

import os
import platform
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers import TESTS, python, some_slow

from mnist_jax.native import library

HERE = Path(__file__).parent
PATHS: dict[str, Any] = {"PYTHONPATH": os.pathsep.join([str(HERE), str(TESTS), str(TESTS.parent)])}
pytestmark = pytest.mark.usefixtures("native")
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def run(script: str, *args: object) -> str:
    done = python(HERE / script, *args, **PATHS)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(len(CORES) < 2, reason="there is one core here, or no choice of cores")
@pytest.mark.parametrize("what", some_slow(["layers"], ["layers", "a training"]))
def test_one_core_gives_the_bits_of_many(what, tmp_path):
    found = []
    for cores in (CORES[:1], CORES):
        workdir = [tmp_path / str(len(cores))] if what == "a training" else []
        found.append(run("same_bits.py", ",".join(map(str, cores)), *workdir))
    assert found[0] == found[1]
    assert len(found[0].splitlines()) == (2 if what == "a training" else 1)


def test_two_devices_agree_with_one():
    assert run("two_devices.py").strip() in ("equal", "close")


is_x86 = platform.machine() in ("x86_64", "AMD64")
# The last flags make vectors of 16 numbers, if need be of smaller ones.
INSTRUCTIONS = ["-mno-avx512f", "-mno-avx", "-D__AVX512F__=1"]


@pytest.mark.slow
@pytest.mark.skipif(not is_x86, reason="these flags are for x86")
@pytest.mark.parametrize("flag", INSTRUCTIONS)
def test_other_instructions_give_the_same_values(flag, tmp_path):
    assert run("other_flags.py", tmp_path, flag).strip() == "equal"


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
@pytest.mark.parametrize("flag", ["", *INSTRUCTIONS])
def test_sanitizers_find_nothing(sanitizer, flag, tmp_path):
    if flag and not is_x86:
        pytest.skip("the flag is for x86")
    flags = f"-std=c++17 -O1 -march=native -pthread -fno-sanitize-recover=all {flag}".split()
    flags += [f"-fsanitize={sanitizer}", "-o", str(tmp_path / "program")]
    empty = tmp_path / "empty.cc"
    empty.write_text("int main() {}", encoding="utf-8")
    if problem := compile_and_run(flags, [empty]):
        pytest.skip(f"the sanitizer does not work here: {problem}")
    source = Path(library.__file__).parent
    sources = [HERE / "sanitize.cc", source / "conv_pool.cc", f"-I{source}"]
    assert compile_and_run(flags, sources) == ""


def compile_and_run(flags: list[str], sources: list) -> str:
    """Returns the sanitizers' reports."""
    commands = [[*library.find_compiler(), *flags, *map(str, sources)], [flags[-1]]]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{shlex.join(command)}: {done.stdout}{done.stderr}"
    return ""
