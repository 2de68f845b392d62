"""`make benchmark-accelerator`: it runs, at a small size, where there is no accelerator."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

ROOT = Path(__file__).parent.parent
BENCHMARK = [sys.executable, ROOT / "benchmarks/accelerator.py"]


def run(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, BENCHMARK), *map(str, args)],
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_an_accelerator_it_says_in_a_line_what_runs_instead():
    done = run(JAX_PLATFORMS="cpu")
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("nothing is measured: JAX")
    assert "--quick" in line


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    path = tmp_path_factory.mktemp("benchmark") / "report.json"
    # What other tests have compiled, or this one before.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": jax.config.values["jax_compilation_cache_dir"] or "",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # this process has taken its part
    }
    sections = ["rates", "same bits", "recipes", "steps", "population"]
    args = ("--quick", "--sections", *sections, "--members", 2, "--json", path)
    done = run(*args, **(cache if cache["JAX_COMPILATION_CACHE_DIR"] else {}))
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def test_it_tells_what_it_ran_on(report):
    printed, found = report
    device = jax.devices()[0].device_kind
    assert found["device"]["kind"] == device
    assert f"{jax.device_count()} x {device}" in printed
    assert f"jax {jax.__version__}" in printed
    assert found["machine"]["date"] in printed


def test_every_section_is_a_table_of_what_was_measured(report):
    printed, found = report
    assert not any(
        "failed" in row for rows in found.values() if isinstance(rows, list) for row in rows
    )
    for section in ("rates", "same bits", "recipes", "steps", "population"):
        assert f"## {section}\n\n| " in printed
    [recipe], [step], [many] = (found[name] for name in ("recipes", "steps", "population"))
    assert recipe["images/s"] > 0
    assert 0 <= recipe["test accuracy, %"] <= 100
    assert step["kernels"] > 10
    assert step["a step, ms"] == pytest.approx(
        step["times the floor"] * max(step["arithmetic, ms"], step["memory, ms"])
    )
    assert many["members"] == 2
    assert many["networks/s"] > 0
    assert [row["same bits twice"] for row in found["same bits"]] == ["yes"]
