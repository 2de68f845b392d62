"""`mnist-jax doctor`: what works, what does not, and the exit code that tells."""

import json
import platform
from typing import NamedTuple

import jax
import pytest
from fake_packages import install

from mnist_jax.cli import doctor as doctor_module
from mnist_jax.cli.doctor import Finding, doctor, find_accelerator
from mnist_jax.cli.main import main
from mnist_jax.datasets.mnist_idx import mnist_idx_dataset_builder as builder_module
from mnist_jax.machine import extras
from mnist_jax.machine.devices import wrong_on
from mnist_jax.workdir.origin import PACKAGES

CPU = jax.devices("cpu")
CLUSTER_VARIABLES = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "TPU_WORKER_ID")


@pytest.fixture(autouse=True)
def no_setting(monkeypatch):
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", *CLUSTER_VARIABLES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def driver(tmp_path):
    """A file of NVIDIA's driver."""
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06\n", encoding="utf-8"
    )
    return tmp_path / "version"


def by_name(findings):
    return {finding.what: finding for finding in findings}


def answer(done):
    """The findings of a process that ran `doctor --json`, by name."""
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["works"] == (done.returncode == 0)
    return by_name(Finding(**finding) for finding in found["findings"])


def test_doctor_tells_of_everything_a_line_each(command, tmp_path):
    done = command("doctor", JAX_PLATFORMS="cpu", TFDS_DATA_DIR=str(tmp_path / "tfds"))
    assert (done.returncode, done.stderr) == (0, "")
    first, *lines, last = done.stdout.splitlines()
    assert first.startswith("  accelerator ")
    assert last == "All that is needed works."
    assert not any(line.startswith("!") for line in lines)
    told = [line[2:21].strip() for line in lines if not line.lstrip().startswith("->")]
    packages = ["python", "mnist_jax", *PACKAGES, "other packages"]
    machine = ["devices", "cores", "computation"]
    disk = ["bundled MNIST", "prepared MNIST", "compiled programs", "decoded datasets"]
    optional = [f"extra {name}" for name in doctor_module.EXTRAS]
    assert told == [*packages, *machine, *disk, *optional, "cluster"]
    assert f"jax                 {jax.__version__}" in done.stdout
    assert not (tmp_path / "tfds").exists()  # it changes nothing


@pytest.mark.slow
def test_every_device_is_tried(command, tmp_path):
    done = command(
        *("doctor", "--json"),
        JAX_PLATFORMS="cpu",
        XLA_FLAGS="--xla_force_host_platform_device_count=8",
        SLURM_PROCID="2",
        SLURM_NTASKS="8",
        XDG_CACHE_HOME=str(tmp_path),
    )
    found = answer(done)
    assert done.returncode == 0
    assert found["devices"].value.startswith("8 x cpu")
    assert found["computation"].value.endswith("are right on all 8 devices")
    assert found["cluster"].value.startswith("process 2 of 8 of Slurm")
    assert f"in {tmp_path}" in found["compiled programs"].value


@pytest.mark.slow
def test_where_jax_does_not_start_all_the_rest_is_told(command):
    if any(device.platform == "tpu" for device in jax.devices()):
        pytest.skip("JAX may start with it here")
    done = command("doctor", "--json", JAX_PLATFORMS="tpu")
    found = answer(done)
    assert done.returncode == 4
    assert found["accelerator"].problem
    assert found["accelerator"].value.startswith("JAX does not start: Unable to initialize")
    assert "unset JAX_PLATFORMS, which is tpu" in found["accelerator"].advice
    assert {"devices", "computation"}.isdisjoint(found)
    assert {"jax", "bundled MNIST", "cluster"} < {*found}


def test_doctor_reports_a_jax_error_that_has_no_message(monkeypatch):
    def fail():
        raise AssertionError  # as it does with JAX_PLATFORMS=cuda where there is no GPU

    monkeypatch.setattr(jax, "local_devices", fail)
    found = by_name(doctor())
    assert found["accelerator"].value == (
        "JAX does not start: there is no device of the kind that is wanted"
    )
    assert "cluster" in found


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_told_and_no_fault(command, tmp_path):
    (tmp_path / "file").touch()
    done = command("doctor", "--json", JAX_PLATFORMS="cpu", XDG_CACHE_HOME=str(tmp_path / "file/x"))
    found = answer(done)
    assert done.returncode == 0
    for name in ("compiled programs", "decoded datasets"):
        assert found[name].value.startswith(f"not kept: {tmp_path}")
        assert "XDG_CACHE_HOME" in found[name].advice


def test_data_that_can_never_be_prepared_is_a_fault(tmp_path, monkeypatch, capsys):
    """It is marked; and what a terminal would obey is spelled out."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TFDS_DATA_DIR", f"{tmp_path}/file/\x1b[31m\nred")
    assert main(["doctor"]) == 4
    out, err = capsys.readouterr()
    assert err == ""
    [line] = [line for line in out.splitlines() if line.startswith("!")]
    assert "prepared MNIST" in line
    assert "\\x1b[31m\\nred" in line
    assert out.endswith("1 to mend, marked with !\n")


def test_without_a_home_directory_a_variable_is_advised(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr("pathlib.Path.home", no_home)
    monkeypatch.setattr("pathlib.Path.expanduser", lambda _: no_home())
    found = by_name(doctor())
    assert found["prepared MNIST"].problem
    assert found["caches"].advice == "set XDG_CACHE_HOME"


def test_a_damaged_bundled_file_is_a_fault(tmp_path, monkeypatch):
    bundled = doctor_module.Path(builder_module.__file__).parent
    for name in builder_module.SHA256:
        (tmp_path / name).write_bytes((bundled / name).read_bytes())
    monkeypatch.setattr(builder_module, "__file__", str(tmp_path / "builder.py"))
    assert not by_name(doctor_module.find_data())["bundled MNIST"].problem
    with (tmp_path / "t10k-labels-idx1-ubyte.gz").open("r+b") as file:
        file.seek(1000)
        file.write(b"\0\0")
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    found = by_name(doctor_module.find_data())["bundled MNIST"]
    assert found.problem
    assert found.value.endswith("train-labels-idx1-ubyte.gz, t10k-labels-idx1-ubyte.gz")


def test_an_error_in_one_part_does_not_hide_the_others(monkeypatch):
    def broken(*_):
        raise TypeError("Descriptors cannot\nbe created directly")

    monkeypatch.setattr(builder_module, "read_idx", broken)
    found = by_name(doctor())
    assert found["data"].problem
    assert found["data"].value == "TypeError: Descriptors cannot be created directly"
    assert "cluster" in found


def test_a_name_that_is_too_long_is_told(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", f"/{'x' * 5000}")
    monkeypatch.setenv("XDG_CACHE_HOME", f"/{'x' * 5000}")
    found = by_name(doctor())
    assert found["prepared MNIST"].problem
    assert "File name too long" in found["prepared MNIST"].value
    assert found["decoded datasets"].value.startswith("not kept")


def test_a_device_that_computes_wrongly_is_a_fault(monkeypatch):
    put = jax.device_put
    assert wrong_on(CPU[0]) == ""

    def wrong_inputs(arrays, device):
        return put((arrays[0] + 1, *arrays[1:]), device)

    def wrong_targets(arrays, device):
        return put((*arrays[:2], arrays[2] + 1), device)

    def no_memory(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of\nmemory")

    for fault, told in {
        wrong_inputs: "a matrix product is wrong",
        wrong_targets: "a gradient is wrong",
        no_memory: "RESOURCE_EXHAUSTED: Out of memory",
    }.items():
        monkeypatch.setattr(jax, "device_put", fault)
        found = [each for each in doctor_module.find_devices(CPU[:1]) if each.problem]
        assert [each.value for each in found] == [f"on {CPU[0]}: {told}"]


def test_a_package_of_another_version_is_a_fault(tmp_path, monkeypatch):
    assert not any(finding.problem for finding in doctor_module.find_versions())
    install(tmp_path, monkeypatch, "optax", "0.1")
    install(tmp_path, monkeypatch, "tyro", "2.0")
    found = by_name(doctor_module.find_versions())
    assert {name for name in found if found[name].problem} == {"optax", "other packages"}
    assert found["optax"].value == "0.1"
    assert found["optax"].advice == "pip install 'optax>=0.2.8'"
    assert found["other packages"].value == "tyro 2.0"


def test_doctor_rejects_unsupported_python_versions(monkeypatch):
    for version, fits in {"3.10.9": False, "3.13.7": True, "3.14.0": False}.items():
        monkeypatch.setattr(platform, "python_version", lambda version=version: version)
        assert next(doctor_module.find_versions()).problem != fits, version


def test_the_versions_of_python_are_those_of_the_project():
    project = (extras.CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    for minor in range(10, 16):
        told = f"Programming Language :: Python :: 3.{minor}" in project
        assert doctor_module.PYTHON.contains(f"3.{minor}.1") == told


METADATA = """Requires-Dist: jax>=0.7.2
Requires-Dist: winfast; sys_platform == 'win32'
Requires-Dist: no-such-package>=3; extra == 'report'
Provides-Extra: report
"""


def test_the_metadata_of_an_installed_package_tell_its_requirements(tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "CHECKOUT", tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'another'\n", encoding="utf-8")
    install(tmp_path, monkeypatch, "mnist_jax", "0.1.0", METADATA)
    found = {name: [each.name for each in lines] for name, lines in extras.requirements().items()}
    assert found == {"": ["jax"], "report": ["no-such-package"]}
    told = by_name(doctor_module.find_extras())
    assert told["extra report"].value == "lacks no-such-package"
    assert "pip install" in told["extra report"].advice
    assert not any(finding.problem for finding in told.values())  # it is optional
    assert told["extra serve"].value == "not known"


def test_a_checkout_tells_its_requirements_itself():
    found = extras.requirements()
    assert {"jax", "numpy", "packaging"} <= {each.name for each in found[""]}
    assert {*doctor_module.EXTRAS} < {*found}


def test_without_metadata_nothing_is_required(tmp_path, monkeypatch):
    def no_metadata(name):
        raise extras.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(extras, "CHECKOUT", tmp_path)
    monkeypatch.setattr(extras.importlib.metadata, "metadata", no_metadata)
    assert extras.requirements() == {}
    found = by_name(doctor_module.find_versions())
    assert found["other packages"].value.startswith("not known")
    assert not any(finding.problem for finding in found.values())


class Device(NamedTuple):
    """What is read of a device."""

    platform: str
    device_kind: str


def test_an_accelerator_in_use_is_told(driver):
    found = find_accelerator([Device("gpu", "NVIDIA H200")] * 2, "", "gpu", driver)
    assert found == Finding("accelerator", "2 x NVIDIA H200: JAX uses it")


def test_an_accelerator_that_jax_does_not_use_is_a_fault(driver):
    found = find_accelerator(CPU, "", "gpu", driver)
    assert found.problem
    assert found.value == "a GPU, but JAX uses the CPU"
    assert found.advice == f'pip install "jax[cuda13]=={jax.__version__}", and start anew'


def test_a_gpu_of_amd_is_advice(driver):
    found = find_accelerator(CPU, "", "amd", driver)
    assert not found.problem
    assert "rocm" in found.advice


def test_a_user_may_want_the_cpu(driver, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    found = find_accelerator(CPU, "", "gpu", driver)
    assert not found.problem
    assert "JAX_PLATFORMS=cpu" in found.value


def test_apple_silicon_is_as_it_should_be(driver, monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    found = find_accelerator(CPU, "", "cpu", driver)
    assert not found.problem
    assert "Apple" in found.value


def test_a_tpu_of_another_process_is_told_in_a_line(driver, monkeypatch):
    install(driver.parent, monkeypatch, "libtpu", "0.0.42")
    error = "Unable to initialize backend 'tpu': ABORTED: in use by process with pid 7 (set JAX_"
    found = find_accelerator([], error + "PLATFORMS='' to choose)", "tpu", driver)
    assert found.value.endswith("in use by process with pid 7")
    assert found.advice == "mend that; or set JAX_PLATFORMS=cpu"
    assert found.problem


def test_doctor_names_what_jax_needs_to_start(driver, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    found = find_accelerator([], "Unable to initialize backend 'cuda'", "gpu", driver)
    assert "jax[cuda13]" in found.advice
    assert found.advice.endswith("; or unset JAX_PLATFORMS, which is cuda")
