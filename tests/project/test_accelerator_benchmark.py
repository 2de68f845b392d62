"""`make benchmark-accelerator`: it runs, at a small size, where there is no accelerator."""

import json

import jax
import pytest
from helpers import ROOT, python

BENCHMARK = ROOT / "benchmarks/accelerator.py"


@pytest.mark.slow
def test_the_benchmark_says_what_to_run_where_there_is_no_accelerator():
    done = python(BENCHMARK, JAX_PLATFORMS="cpu")
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("nothing is measured: JAX")
    assert "--quick" in line


@pytest.mark.slow
def test_the_benchmark_has_a_table_for_every_section_and_tells_what_it_ran_on(tmp_path):
    # What other tests have compiled, or this one before.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": jax.config.values["jax_compilation_cache_dir"] or "",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # this process has taken its part
    }
    path = tmp_path / "report.json"
    sections = ["rates", "same bits", "recipes", "steps", "population"]
    args = ("--quick", "--sections", *sections, "--members", 2, "--json", path)
    done = python(BENCHMARK, *args, **(cache if cache["JAX_COMPILATION_CACHE_DIR"] else {}))
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text(encoding="utf-8"))
    device = jax.devices()[0].device_kind
    assert report["device"]["kind"] == device
    assert f"{jax.device_count()} x {device}" in done.stdout
    assert f"jax {jax.__version__}" in done.stdout
    assert report["machine"]["date"] in done.stdout
    for section in sections:
        assert f"## {section}\n\n| " in done.stdout
        assert not any("failed" in row for row in report[section])
    [recipe], [step], [many] = (report[name] for name in ("recipes", "steps", "population"))
    assert recipe["images/s"] > 0
    assert 0 <= recipe["test accuracy, %"] <= 100
    assert step["kernels"] > 10
    assert step["a step, ms"] == pytest.approx(
        step["times the floor"] * max(step["arithmetic, ms"], step["memory, ms"])
    )
    assert many["members"] == 2
    assert many["networks/s"] > 0
    assert [row["same bits twice"] for row in report["same bits"]] == ["yes"]
