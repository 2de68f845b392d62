"""Budgets of the programs for TPUs and GPUs, counted by their compilers.

`make check-accelerators` explains what is compiled; here it is a part, in the environment that
`make .venv-ahead/.installed` makes. No accelerator is needed, and nothing is timed.
"""

import json
import os
import subprocess
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from helpers import ROOT, create_reference

PYTHON = ROOT / ".venv-ahead/bin/python"
# The flag of test_gpu.py. With it XLA takes Triton's products as a device finds them to work, which
# needs the device: here they are cuBLAS's.
SAME_BITS = "--xla_gpu_deterministic_ops=true --xla_gpu_enable_triton_gemm=false"
# As `ahead.Case` has them: target, recipe, program, precision, batch size.
ON_TPU = [
    ("v5e", "default", "train"),
    ("v5e", "default", "train", "tensorfloat32"),
    ("v5e", "default", "train", "bfloat16"),
    ("v5e", "fast", "train", "bfloat16"),
    ("v5e", "resnet", "train", "bfloat16"),
    ("v5e", "default", "evaluate"),
    ("v5e", "default", "predict"),
    ("v5e", "default", "population", "bfloat16"),
    ("v5e-8", "default", "train"),
    ("v5e-256", "default", "train"),
    ("v5e", "default", "train", "float32", 1),
]
ON_GPU = [
    ("h100", "default", "train"),
    ("h100", "default", "train", "tensorfloat32"),
    ("h100", "default", "train", "bfloat16"),
    ("h100", "fast", "train"),
    ("h100", "default", "evaluate"),
    ("h100", "default", "population"),
    ("h100-8", "default", "train"),
    ("b200", "default", "train"),
    ("t4", "default", "train"),
    ("t4", "default", "train", "bfloat16"),
]
IMAGES = jnp.zeros((1, 28, 28, 1))
PARAMS = jax.eval_shape(create_reference().init, jax.random.key(0), IMAGES)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="make .venv-ahead/.installed makes it"),
]


def compile_all(cases: list[tuple[Any, ...]], path: Any, **environ: str) -> dict[Any, Any]:
    command = [PYTHON, ROOT / "benchmarks/ahead.py", "--cases", json.dumps(cases), "--json", path]
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    done = subprocess.run(command, env=env | environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(path.read_text(encoding="utf-8"))["rows"]
    found = dict(zip(cases, report, strict=True))
    failed = {case: row["failed"] for case, row in found.items() if "failed" in row}
    assert failed == {}
    return found


@pytest.fixture(scope="module")
def tpu(tmp_path_factory):
    return compile_all(ON_TPU, tmp_path_factory.mktemp("tpu") / "rows.json")


@pytest.fixture(scope="module")
def gpu(tmp_path_factory):
    return compile_all(ON_GPU, tmp_path_factory.mktemp("gpu") / "rows.json")


def test_no_step_scatters(subtests, tpu, gpu):
    """Scatters are slow on every accelerator, and on a GPU they sum in any order."""
    for case, row in {**tpu, **gpu}.items():
        with subtests.test(msg=" ".join(map(str, case))):
            assert not {"scatter", "select-and-scatter"} & {*row["opcodes"]}


def test_devices_exchange_the_sums_of_gradients_and_metrics_and_nothing_else(subtests, tpu, gpu):
    params = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(PARAMS))
    for case, row in {**tpu, **gpu}.items():
        with subtests.test(msg=" ".join(map(str, case))):
            exchanged = row["collectives"]
            if "-" not in case[0]:
                assert exchanged == {}
                continue
            assert exchanged.keys() == {"all-reduce"}
            # The kernel's gradient is summed at each place of a pooling window, before these meet.
            assert params <= exchanged["all-reduce"] < 1.03 * params


def test_a_pod_needs_no_more_memory_than_each_chip_for_its_own_images(tpu):
    pod, alone = tpu["v5e-256", "default", "train"], tpu["v5e", "default", "train", "float32", 1]
    assert pod["temporary"] <= 2 * alone["temporary"]


def test_a_step_moves_few_bytes_on_a_tpu(tpu):
    assert tpu["v5e", "default", "train"]["bytes"] < 120e6
    assert tpu["v5e", "default", "train", "bfloat16"]["bytes"] < 80e6
    assert tpu["v5e", "fast", "train", "bfloat16"]["bytes"] < 75e6


def test_a_step_has_few_operations(subtests, tpu, gpu):
    """On a TPU, most would otherwise be scalar: the rounds of threefry for each key."""
    for case, most in (
        (("v5e", "default", "train"), 40),
        (("v5e", "fast", "train", "bfloat16"), 40),
        (("v5e-256", "default", "train"), 50),  # with what tells each chip its place
    ):
        with subtests.test(msg=" ".join(case)):
            assert tpu[case]["scalars"] <= most
    for recipe, most in (("default", 45), ("fast", 57)):
        with subtests.test(msg=f"h100 {recipe}"):
            assert gpu["h100", recipe, "train"]["operations"] <= most


def test_the_flag_for_the_same_bits_compiles_for_a_gpu(tmp_path):
    cases: list[Any] = [("h100", recipe, "train") for recipe in ("default", "fast")]
    found = compile_all(cases, tmp_path / "rows.json", XLA_FLAGS=SAME_BITS)
    refused = {"scatter", "select-and-scatter", "sort"}
    assert not any(refused & {*row["opcodes"]} for row in found.values())
