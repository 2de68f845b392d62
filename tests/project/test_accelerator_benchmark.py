"""`make benchmark-accelerator`, at a small size and without an accelerator."""

import json
from typing import Any

import jax
import pytest
from helpers import ROOT, python

BENCHMARK = ROOT / "benchmarks/accelerator.py"


pytestmark = pytest.mark.slow


def test_the_benchmark_says_what_to_run_where_there_is_no_accelerator():
    done = python(BENCHMARK, JAX_PLATFORMS="cpu")
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("nothing is measured: JAX")
    assert "--quick" in line


def test_the_benchmark_has_a_table_for_every_section_and_reports_its_device(tmp_path):
    env: Any = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # this process has taken its part
    if cache := jax.config.values["jax_compilation_cache_dir"]:
        env["JAX_COMPILATION_CACHE_DIR"] = cache
        env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    path = tmp_path / "report.json"
    sections = ["rates", "same bits", "recipes", "steps", "population"]
    args = ("--quick", "--sections", *sections, "--members", 2, "--json", path)
    done = python(BENCHMARK, *args, **env)
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text(encoding="utf-8"))
    device = jax.devices()[0].device_kind
    assert report["device"]["kind"] == device
    facts = f"{jax.device_count()} x {device}", f"jax {jax.__version__}", report["machine"]["date"]
    tables = [f"## {section}\n\n| " for section in sections]
    assert [text for text in (*facts, *tables) if text not in done.stdout] == []
    assert not any("failed" in row for section in sections for row in report[section])
    [recipe], [step], [many] = (report[name] for name in ("recipes", "steps", "population"))
    assert recipe["images/s"] > 0
    assert 0 <= recipe["test accuracy, %"] <= 100
    assert step["kernels"] > 10
    floor = max(step["arithmetic, ms"], step["memory, ms"])
    assert step["a step, ms"] == pytest.approx(step["times the floor"] * floor)
    assert (many["members"], many["networks/s"] > 0) == (2, True)
    assert [row["same bits twice"] for row in report["same bits"]] == ["yes"]
