import json
from pathlib import Path

SMOKE = ("train", "--config", "configs/smoke.py", "--epochs", "1")


def programs(cache: Path) -> dict[Path, float]:
    """The files of compiled programs, and when they were written."""
    compiled = cache / "mnist_jax" / "compiled"
    return {path: path.stat().st_mtime_ns for path in compiled.glob("*/*-cache")}


def bits(workdir: Path) -> str:
    return json.loads((workdir / "result.json").read_text())["params_sha256"]


def test_programs_are_kept_for_the_user_alone_and_give_the_same_bits(tmp_path, command):
    cache = tmp_path / "cache"
    runs = [tmp_path / name for name in ("first", "second", "damaged", "without")]
    first = command(*SMOKE, "--workdir", runs[0], XDG_CACHE_HOME=str(cache))
    assert first.returncode == 0, first.stderr
    kept = programs(cache)
    assert any("run_steps" in path.name for path in kept)
    assert (cache / "mnist_jax" / "compiled").stat().st_mode & 0o777 == 0o700

    second = command(*SMOKE, "--workdir", runs[1], XDG_CACHE_HOME=str(cache))
    assert second.returncode == 0, second.stderr
    assert programs(cache) == kept

    for path in kept:
        path.write_bytes(path.read_bytes()[:100])
    damaged = command(*SMOKE, "--workdir", runs[2], XDG_CACHE_HOME=str(cache))
    assert (damaged.returncode, damaged.stderr) == (0, "")

    nothing = tmp_path / "nothing"
    without = command(
        *SMOKE, "--no-compilation-cache", "--workdir", runs[3], XDG_CACHE_HOME=str(nothing)
    )
    assert without.returncode == 0, without.stderr
    assert not programs(nothing)
    assert len({bits(workdir) for workdir in runs}) == 1


def test_a_cache_that_cannot_be_written_costs_time_and_no_more(tmp_path, command):
    (tmp_path / "file").touch()
    done = command(*SMOKE, "--workdir", tmp_path / "run", XDG_CACHE_HOME=str(tmp_path / "file"))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_directory_that_the_user_has_named_is_kept(tmp_path, command):
    own = tmp_path / "own"
    done = command(
        *SMOKE,
        "--workdir",
        tmp_path / "run",
        XDG_CACHE_HOME=str(tmp_path / "cache"),
        JAX_COMPILATION_CACHE_DIR=str(own),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    )
    assert done.returncode == 0, done.stderr
    assert own.is_dir()
    assert not programs(tmp_path / "cache")
