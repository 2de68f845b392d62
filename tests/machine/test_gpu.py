"""Promises about an NVIDIA GPU. Tests that need one are skipped elsewhere."""

import dataclasses
import functools
import os
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT, SMALL, TESTS, python, strict_json, write_recipe

from mnist_jax import Config, predict, rng
from mnist_jax.config import load_config, replace_fields
from mnist_jax.datasets.info import DataInfo
from mnist_jax.parts import NONE
from mnist_jax.sharding import Target, traced_for
from mnist_jax.start import create_build
from mnist_jax.state import create_train_state
from mnist_jax.steps import train_step
from mnist_jax.workdir.run import MEMBERS

# By its help in XLA it "guarantees run-to-run determinism on GPU": no operation adds up in an order
# of its own, and no kernel is chosen by measuring, which would choose another one at times.
# https://openxla.org/xla/determinism, https://github.com/openxla/xla/pull/12520
SAME_BITS = "--xla_gpu_deterministic_ops=true"
# Others that one meets, in place of it or with it.
OTHERS = ("--xla_gpu_exclude_nondeterministic_ops=true", "--xla_gpu_autotune_level=0")

needs_gpu = pytest.mark.skipif(jax.default_backend() != "gpu", reason="JAX finds no GPU here")


def with_flags(*flags: str) -> dict[str, Any]:
    """Returns the environment of a command beside this process, which keeps its GPU memory."""
    others = os.environ.get("XLA_FLAGS", "")
    return {"XLA_FLAGS": " ".join([others, *flags]), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def small(recipe: str, **fields: Any) -> Config:
    config = load_config(str(ROOT / f"configs/{recipe}.py"))
    few = {"data.train_split": "train[:1280]", "data.test_split": "test[:500]"}
    few |= {"epochs": 2, "chunk_steps": 3}
    return replace_fields(config, few | fields)


def sha(workdir: Path) -> str:
    return strict_json(workdir / "result.json")["params_sha256"]


SLOW = ("fast", "accurate")
RECIPES = ["default", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
RUNS = [("default", 0), *(pytest.param(name, 0, marks=pytest.mark.slow) for name in SLOW)]


@pytest.mark.parametrize(
    ("flags", "known"),
    [
        ([SAME_BITS, *OTHERS], True),
        pytest.param(["--xla_gpu_no_such_flag=true"], False, marks=pytest.mark.slow),
    ],
    ids=["the flags", "another"],
)
def test_xla_takes_the_flags_and_no_other(flags, known):
    """XLA ends a process with an unknown flag; CPU builds know these flags, too."""
    done = python("-c", "import jax; print(jax.numpy.ones(3).sum())", **with_flags(*flags))
    assert (done.returncode == 0, done.stdout) == (known, "3.0\n" * known), done.stderr
    assert known or "xla_gpu_no_such_flag" in done.stderr


def test_documentation_and_benchmark_have_the_same_flag():
    pages = "".join(page.read_text("utf-8") for page in (ROOT / "docs").glob("*.md"))
    assert f"XLA_FLAGS={SAME_BITS}" in pages
    benchmark = (ROOT / "benchmarks/accelerator.py").read_text("utf-8")
    assert f'SAME_BITS = "{SAME_BITS}"' in benchmark


def step_for_cuda(config: Config) -> str:
    """Lowers a training step for an NVIDIA GPU, which needs none."""
    info = DataInfo((28, 28, 1), tuple("0123456789"))
    model, tx, options = create_build(config, NONE, info, 100)({})
    init = functools.partial(
        create_train_state, model, tx, image_shape=(28, 28, 1), averaged=config.ema_decay > 0
    )
    batch = {
        "image": jax.ShapeDtypeStruct((config.batch_size, 28, 28, 1), jnp.uint8),
        "label": jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((config.batch_size,), jnp.bool_),
    }
    rngs = {role: rng.stream(0, role) for role in ("dropout", "augment")}
    step = jax.jit(functools.partial(train_step, **options))
    with traced_for(Target("gpu", 1)):
        traced = step.trace(jax.eval_shape(init, rng.stream(0, "init")), batch, rngs)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("lowering", ["matmul", "rows", "xla"])
def test_no_step_has_the_operations_that_the_flag_refuses_or_slows(recipe, lowering):
    """The gradients of XLA's own max-pooling, and of a gather."""
    text = step_for_cuda(replace_fields(small(recipe), {"model.lowering": lowering}))
    assert "scatter" not in text


@needs_gpu
@pytest.mark.parametrize(("recipe", "seeds"), [*RUNS, ("fast", 3)])
def test_two_processes_train_the_same_bits(tmp_path, command, recipe, seeds):
    """Each compiles again, so a kernel chosen by measuring would show."""
    config = write_recipe(tmp_path / "config.json", small(recipe))
    start, found = ["population", f"--seeds={seeds}"] if seeds else ["train"], []
    for workdir in (tmp_path / "first", tmp_path / "second"):
        args = (f"--config={config}", f"--workdir={workdir}", "--no-compilation-cache")
        done = command(*start, *args, **with_flags(SAME_BITS))
        assert done.returncode == 0, done.stderr
        members = [workdir / MEMBERS / f"seed-{seed}" for seed in range(seeds)]
        found.append([*map(sha, members or [workdir])])
    assert found[0] == found[1]
    assert len({*found[0]}) == max(1, seeds)


@needs_gpu
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, command):
    fields = {"epochs": 8, "checkpoint.every_steps": 3}
    config = write_recipe(tmp_path / "config.json", small("default", **fields))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = with_flags(SAME_BITS)
    assert command("train", f"--config={config}", f"--workdir={whole}", **flags).returncode == 0

    args = ["train", f"--config={config}", f"--workdir={killed}"]
    kill = "import subprocesses; subprocesses.at_chunk(8, subprocesses.kill); subprocesses.run()"
    done = python("-c", kill, *args, cwd=TESTS, **flags)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (killed / "result.json").exists()
    done = command(*args, **flags)
    assert done.returncode == 0, done.stderr
    assert "resuming after step" in done.stdout
    assert sha(killed) == sha(whole)


@needs_gpu
def test_gpu_and_cpu_predict_the_same(tmp_path, command, mnist):
    """They agree to a tolerance, because they sum in another order."""
    config = write_recipe(tmp_path / "config.json", dataclasses.replace(SMALL, epochs=5))
    workdir = tmp_path / "run"
    done = command("train", f"--config={config}", f"--workdir={workdir}", **with_flags())
    assert done.returncode == 0, done.stderr
    images = mnist["test"].images[:500]
    np.save(tmp_path / "images.npy", images)
    code = (
        "import numpy, mnist_jax; images = numpy.load('images.npy'); "
        "numpy.save('expected.npy', mnist_jax.predict('run', images)[0])"
    )
    done = python("-c", code, cwd=tmp_path, JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    expected = np.load(tmp_path / "expected.npy")
    np.testing.assert_allclose(predict(workdir, images).probabilities, expected, atol=1e-3)
