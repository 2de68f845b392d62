"""Settings of JAX and XLA that change bits: the command sets them, the library records them."""

import contextlib
import re
from collections.abc import Iterator

import jax
import pytest
from helpers import results, write_recipe
from subprocesses import CONFIG

from mnist_jax import population, train
from mnist_jax.config import replace_fields
from mnist_jax.workdir.origin import settings

AUGMENTED = replace_fields(CONFIG, {"epochs": 1, "augment.shift": 2.0, "augment.mixup_alpha": 0.2})
SET = {
    "JAX_ENABLE_X64": "1",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_RANDOM_SEED_OFFSET": "3",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_DISABLE_JIT": "1",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
}


@contextlib.contextmanager
def jax_setting(name: str, value: object) -> Iterator[None]:
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


def test_the_command_has_the_same_bits_whatever_jax_variables_are_set(tmp_path, command):
    recipe = write_recipe(tmp_path / "recipe.json", AUGMENTED)
    options = [f"--config={recipe}", f"--workdir={tmp_path / 'run'}"]
    done = command("train", *options, "--no-compilation-cache", **SET)
    assert (done.returncode, done.stderr) == (0, "")
    found, expected = (results(train(AUGMENTED, tmp_path / name)) for name in ("run", "expected"))
    assert found == expected


@pytest.mark.parametrize(("run", "options"), [(train, {}), (population, {"seeds": 1})])
def test_a_training_in_64_bits_is_refused(tmp_path, run, options):
    message = r"64-bit mode is on, .* float32: unset JAX_ENABLE_X64, or"
    with jax_setting("jax_enable_x64", True), pytest.raises(ValueError, match=message):
        run(AUGMENTED, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value", "recorded"),
    [
        ("XLA_FLAGS", "", []),
        ("XLA_FLAGS", "--xla_cpu_enable_fast_math=true", ["--xla_cpu_enable_fast_math=true"]),
        ("XLA_FLAGS", "--xla_dump_to=/tmp --xla_dump_hlo_as_text", []),
        ("XLA_FLAGS", " --xla_force_host_platform_device_count=2  --xla_a=1", ["--xla_a=1"]),
        ("LIBTPU_INIT_ARGS", "--xla_tpu_b=true", ["--xla_tpu_b=true"]),
        ("NVIDIA_TF32_OVERRIDE", "0", ["0"]),
        ("jax_threefry_partitionable", False, [False]),
        ("jax_random_seed_offset", 3, [3]),
        ("jax_default_matmul_precision", "bfloat16", ["bfloat16"]),
    ],
)
def test_only_settings_that_change_bits_are_recorded(monkeypatch, name, value, recorded):
    for variable in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE"):
        monkeypatch.delenv(variable, raising=False)
    if name.isupper():
        monkeypatch.setenv(name, value)
    with contextlib.nullcontext() if name.isupper() else jax_setting(name, value):
        assert settings() == [f"{name}={part}" for part in recorded]


def test_verify_and_a_resumed_run_warn_of_other_settings(tmp_path, monkeypatch, command):
    workdir = tmp_path / "run"
    train(AUGMENTED, workdir)
    flags = "--xla_cpu_enable_fast_math=true"
    said = re.escape(f"settings is [], not ['XLA_FLAGS={flags}']")
    done = command("verify", f"--workdir={workdir}", XLA_FLAGS=flags)
    assert done.returncode == 4
    assert re.search(f"warning: .*{said}.*bits may differ", done.stderr)
    (workdir / "result.json").unlink()
    monkeypatch.setenv("XLA_FLAGS", flags)
    message = f"resumes in a different environment .{said}.: its bits may"
    with pytest.warns(UserWarning, match=message):
        train(AUGMENTED, workdir)
