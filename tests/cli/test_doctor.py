"""`mnist-jax doctor`: what works, what does not, and the exit code that tells."""

import collections
import importlib.metadata
import json
import platform
from pathlib import Path

import jax
import pytest

from mnist_jax.cli import doctor as doctor_module
from mnist_jax.cli.doctor import Finding, doctor, find_accelerator, wrong_on
from mnist_jax.cli.main import main
from mnist_jax.datasets.mnist_idx import mnist_idx_dataset_builder as builder_module
from mnist_jax.machine import extras
from mnist_jax.workdir.origin import PACKAGES

CPU = jax.devices("cpu")


@pytest.fixture(autouse=True)
def no_setting(monkeypatch):
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "TPU_WORKER_ID"):
        monkeypatch.delenv(name, raising=False)


def install(directory, monkeypatch, name, version, metadata=""):
    info = directory / f"{name}-{version}.dist-info"
    info.mkdir()
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}"
    (info / "METADATA").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(directory))


def by_name(findings):
    return {finding.what: finding for finding in findings}


def test_doctor_tells_of_everything_a_line_each(command, tmp_path):
    done = command("doctor", JAX_PLATFORMS="cpu", TFDS_DATA_DIR=str(tmp_path / "tfds"))
    assert (done.returncode, done.stderr) == (0, "")
    first, *lines, verdict, last = done.stdout.splitlines()
    assert first.startswith("  accelerator ")
    assert verdict == "Everything needed works."
    assert last.endswith(" train")
    assert not any(line.startswith("!") for line in lines)
    told = [line[2:21].strip() for line in lines if not line.lstrip().startswith("->")]
    packages = ["python", "mnist_jax", *PACKAGES, "requirements"]
    machine = ["devices", "cores", "computation", "native kernel"]
    disk = ["bundled MNIST", "prepared MNIST", "compiled programs", "decoded datasets"]
    optional = [f"extra {name}" for name in doctor_module.EXTRAS]
    assert told == [*packages, *machine, *disk, *optional, "cluster"]
    assert f"jax                 {jax.__version__}" in done.stdout
    assert not (tmp_path / "tfds").exists()  # it changes nothing


@pytest.mark.slow
def test_every_device_is_tried(command, tmp_path):
    slurm = {"JOB_ID": "7", "STEP_NODELIST": "a", "PROCID": "2", "NTASKS": "8", "LOCALID": "0"}
    environ = {f"SLURM_{name}": value for name, value in slurm.items()}
    environ |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path)}
    environ |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = command("doctor", "--json", **environ)
    report = json.loads(done.stdout)
    assert (done.returncode, done.stderr, report["works"]) == (0, "", True)
    values = {finding["what"]: finding["value"] for finding in report["findings"]}
    assert values["devices"].startswith("8 x cpu")
    assert values["computation"].endswith("are right on all 8 devices")
    assert values["cluster"].startswith("process 2 of 8 of Slurm")
    assert f"in {tmp_path}" in values["compiled programs"]


def test_doctor_reports_a_jax_error_that_has_no_message(monkeypatch):
    def fail():
        raise AssertionError  # as it does with JAX_PLATFORMS=cuda where there is no GPU

    monkeypatch.setattr(jax, "local_devices", fail)
    findings = by_name(doctor())
    reason = "there is no device of the kind that JAX_PLATFORMS names"
    assert findings["accelerator"].value == f"JAX does not start: {reason}"
    assert findings["accelerator"].problem
    assert {"devices", "computation"}.isdisjoint(findings)
    assert {"jax", "bundled MNIST", "cluster"} < {*findings}


def test_a_fault_is_marked_and_what_a_terminal_obeys_is_spelled_out(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TFDS_DATA_DIR", f"{tmp_path}/file/\x1b[31m\nred")
    assert main(["doctor"]) == 4
    out, err = capsys.readouterr()
    assert err == ""
    [line] = [line for line in out.splitlines() if line.startswith("!")]
    assert "prepared MNIST" in line
    assert "\\x1b[31m\\nred" in line
    assert out.endswith("1 to fix, marked with !\n")


def test_without_a_home_directory_a_variable_is_advised(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr("pathlib.Path.home", no_home)
    monkeypatch.setattr("pathlib.Path.expanduser", lambda _: no_home())
    findings = by_name(doctor())
    assert findings["prepared MNIST"].problem
    assert findings["caches"].advice == "set XDG_CACHE_HOME"


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"\0"), Path.unlink])
def test_a_damaged_bundled_file_is_a_fault(tmp_path, monkeypatch, damage):
    bundled = Path(builder_module.__file__).parent
    for name in builder_module.SHA256:
        (tmp_path / name).write_bytes((bundled / name).read_bytes())
    monkeypatch.setattr(builder_module, "__file__", str(tmp_path / "builder.py"))
    assert not by_name(doctor_module.find_data())["bundled MNIST"].problem
    damage(tmp_path / "t10k-labels-idx1-ubyte.gz")
    finding = by_name(doctor_module.find_data())["bundled MNIST"]
    assert finding.problem
    assert "t10k-labels-idx1-ubyte.gz" in finding.value


def test_an_error_in_one_part_does_not_hide_the_others(monkeypatch):
    def broken(*_):
        raise TypeError("Descriptors cannot\nbe created directly")

    monkeypatch.setattr(builder_module, "read_idx", broken)
    findings = by_name(doctor())
    assert findings["data"].problem
    assert findings["data"].value == "TypeError: Descriptors cannot be created directly"
    assert "cluster" in findings


def test_directories_that_cannot_be_written_are_named_and_only_that_of_data_is_a_fault(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", f"/{'x' * 5000}")
    monkeypatch.setenv("XDG_CACHE_HOME", f"/{'x' * 5000}")
    findings = by_name(doctor())
    assert findings["prepared MNIST"].problem
    assert "File name too long" in findings["prepared MNIST"].value
    assert findings["decoded datasets"].value.startswith("not kept: /xxx")
    assert "XDG_CACHE_HOME" in findings["decoded datasets"].advice
    assert not findings["decoded datasets"].problem


def no_memory(*_):
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of\nmemory")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda a, b, c: (a + 1, b, c), "a matrix product is wrong"),
        (lambda a, b, c: (a, b, c + 1), "a gradient is wrong"),
        (no_memory, "RESOURCE_EXHAUSTED: Out of memory"),
    ],
)
def test_a_device_that_computes_wrongly_is_a_fault(monkeypatch, change, problem):
    put = jax.device_put
    assert wrong_on(CPU[0]) == ""
    monkeypatch.setattr(jax, "device_put", lambda arrays, device: put(change(*arrays), device))
    problems = [each.value for each in doctor_module.find_devices(CPU[:1]) if each.problem]
    assert problems == [f"on {CPU[0]}: {problem}"]


def test_a_package_of_another_version_is_a_fault(tmp_path, monkeypatch):
    [finding] = doctor_module.find_requirements("")
    assert not finding.problem
    install(tmp_path, monkeypatch, "optax", "0.1")
    install(tmp_path, monkeypatch, "numpy", "1.0")
    [finding] = doctor_module.find_requirements("")
    assert finding.problem
    assert finding.value == "lacks numpy 1.0, optax 0.1"
    assert finding.advice == "pip install 'numpy>=2' 'optax>=0.2.8'"


@pytest.mark.parametrize(("version", "problem"), [("3.10.9", 1), ("3.13.7", 0), ("3.14.0rc1", 1)])
def test_doctor_rejects_unsupported_python_versions(monkeypatch, version, problem):
    monkeypatch.setattr(platform, "python_version", lambda: version)
    finding = next(doctor_module.find_versions())
    assert finding.problem == problem
    assert finding.advice == ("use Python 3.11, 3.12, 3.13" if problem else "")


METADATA = """Requires-Dist: jax>=0.7.2
Requires-Dist: winfast; sys_platform == 'win32'
Requires-Dist: no-such-package>=3; extra == 'report'
Requires-Dist: jinja2>=99; extra == 'report'
Provides-Extra: report
"""


def test_the_metadata_of_an_installed_package_tell_its_requirements(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "mnist_jax", "0.1.0", METADATA)
    required = extras.requirements("mnist_jax")
    names = {extra: [each.name for each in lines] for extra, lines in required.items()}
    assert names == {"": ["jax"], "report": ["no-such-package", "jinja2"]}
    needed, report, serve = doctor_module.find_requirements("", "report", "serve")
    assert needed == Finding("requirements", "installed")
    version = importlib.metadata.version("jinja2")
    assert report.value == f"lacks no-such-package, jinja2 {version}"
    assert report.advice == "if wanted: pip install 'no-such-package>=3' 'jinja2>=99'"
    assert not report.problem  # it is optional
    assert serve.value.startswith("unknown")


def test_every_extra_of_the_project_is_looked_for():
    assert {*doctor_module.EXTRAS} < {*extras.requirements("mnist_jax")}


def test_without_metadata_nothing_is_required(monkeypatch):
    def no_metadata(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(extras.importlib.metadata, "metadata", no_metadata)
    assert extras.requirements("mnist_jax") == {"": []}
    [finding] = doctor_module.find_requirements("")
    assert finding.value == "unknown: not installed"
    assert not next(doctor_module.find_versions()).problem


Device = collections.namedtuple("Device", ["platform", "device_kind"])


@pytest.mark.parametrize(
    ("devices", "present", "expected"),
    [
        ([Device("gpu", "NVIDIA H200")] * 2, "gpu", "2 x NVIDIA H200: JAX uses it"),
        (CPU, "cpu", "none that JAX can use in this machine: it uses the CPU, as it should"),
        (CPU, "amd", "an AMD GPU; JAX uses the CPU -> if ROCm supports it, install JAX for ROCm"),
        (CPU, "gpu", '! a GPU, but JAX uses the CPU -> pip install "jax[cuda13]=={jax}"'),
        (CPU, "tpu", '! a TPU, but JAX uses the CPU -> pip install "jax[tpu]=={jax}"'),
    ],
)
def test_doctor_tells_whether_jax_uses_the_accelerator(devices, present, expected):
    finding = find_accelerator(devices, "", present)
    line = f"{'! ' if finding.problem else ''}{finding.value} -> {finding.advice}"
    assert line.startswith(expected.format(jax=jax.__version__))
    assert bool(finding.advice) == ("->" in expected)


def test_a_user_may_want_the_cpu(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    finding = find_accelerator(CPU, "", "gpu")
    expected = "a GPU, not used, as you asked: JAX_PLATFORMS=cpu"
    assert (finding.value, finding.problem) == (expected, False)


@pytest.mark.parametrize(("present", "install"), [("tpu", "jax[tpu]"), ("gpu", "jax[cuda13]")])
def test_doctor_names_what_jax_needs_to_start(present, install):
    error = f"Unable to initialize backend '{present}': ABORTED: in use by process with pid 7"
    finding = find_accelerator([], error, present)
    assert finding.value == f"JAX does not start: {error}"
    assert finding.advice.startswith(f'pip install "{install}==')
    assert finding.advice.endswith("; to use the CPU, set JAX_PLATFORMS=cpu")
    assert finding.problem
