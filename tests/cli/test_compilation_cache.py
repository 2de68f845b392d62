"""Compiled programs are kept on disk."""

from pathlib import Path

import pytest
from helpers import strict_json
from subprocesses import OPTIONS

# Compiled quickly, rather than well.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def programs(cache: Path) -> dict[Path, float]:
    paths = (cache / "mnist_jax" / "compiled").glob("*/*-cache")
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.mark.slow
def test_programs_are_kept_for_the_user_alone_and_give_the_same_bits(tmp_path, command):
    cache = tmp_path / "cache"
    runs = [tmp_path / name for name in ("first", "second", "damaged", "without")]

    def train(workdir: Path, *options: str, cache: Path = cache) -> None:
        options = (*OPTIONS, "--epochs=1", *options, f"--workdir={workdir}")
        done = command("train", *options, XDG_CACHE_HOME=str(cache), XLA_FLAGS=QUICK)
        assert (done.returncode, done.stderr) == (0, "")

    train(runs[0])
    kept = programs(cache)
    assert any("train_steps" in path.name for path in kept)
    assert (cache / "mnist_jax" / "compiled").stat().st_mode & 0o777 == 0o700

    train(runs[1])
    assert programs(cache) == kept

    for path in kept:
        path.write_bytes(path.read_bytes()[:100])
    train(runs[2])

    train(runs[3], "--no-compilation-cache", cache=tmp_path / "nothing")
    assert not programs(tmp_path / "nothing")
    assert len({strict_json(run / "result.json")["params_sha256"] for run in runs}) == 1


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_costs_time_and_no_more(tmp_path, command, small_run):
    (tmp_path / "file").touch()
    options = {"XDG_CACHE_HOME": str(tmp_path / "file"), "XLA_FLAGS": QUICK}
    done = command("evaluate", f"--workdir={small_run[0]}", **options)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_directory_that_the_user_has_named_is_kept(tmp_path, command, small_run):
    cache, own = tmp_path / "cache", tmp_path / "own"
    options = {"XDG_CACHE_HOME": str(cache), "JAX_COMPILATION_CACHE_DIR": str(own)}
    options |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "XLA_FLAGS": QUICK}
    done = command("evaluate", f"--workdir={small_run[0]}", **options)
    assert done.returncode == 0, done.stderr
    assert own.is_dir()
    assert not programs(cache)
