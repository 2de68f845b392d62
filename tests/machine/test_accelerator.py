"""The machine's accelerator: detected by its files, and reported if JAX does not use it."""

import jax
import pytest
from helpers import make_files

from mnist_jax.machine import accelerator
from mnist_jax.machine.accelerator import missing_accelerator, present_accelerator

TPU, WSL = "dev/accel0", "usr/lib/wsl/lib/libcuda.so.1"
GOOGLE = "sys/bus/pci/devices/1/vendor"
NAMES = "null nvme0 nvram accelerometer accel/accel0 dxg vfio/vfio"
# Not an accelerator: a host's device lent to a virtual machine, Intel's card.
OTHERS: dict[str, str | bytes] = {f"dev/{name}": "" for name in NAMES.split()}
OTHERS["sys/bus/pci/devices/0/vendor"] = "0x8086\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Provides the root directory of a machine without an accelerator."""
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", *accelerator.TPU_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    assert present_accelerator(tmp_path) == "cpu"  # where there are no device files
    make_files(tmp_path, OTHERS)
    assert present_accelerator(tmp_path) == "cpu"
    return tmp_path


@pytest.fixture
def jax_uses(monkeypatch):
    return lambda platform: monkeypatch.setattr(jax, "default_backend", lambda: platform)


@pytest.mark.parametrize(
    ("files", "variables", "expected"),
    [
        (["dev/nvidia0"], {}, "gpu"),
        (["dev/nvidiactl"], {}, "gpu"),
        ([WSL], {}, "gpu"),
        ([TPU], {}, "tpu"),
        (["dev/kfd"], {}, "amd"),
        (["dev/kfd", "dev/nvidia0"], {}, "gpu"),
        (["dev/vfio/17"], {}, "cpu"),
        ([GOOGLE], {}, "cpu"),  # a network card, say
        ([GOOGLE, "dev/vfio/0"], {}, "tpu"),
        ([], {"COLAB_TPU_1VM": "1"}, "tpu"),
        ([], {"COLAB_TPU_1VM": "0"}, "cpu"),
        ([], {"COLAB_TPU_1VM": ""}, "cpu"),
        ([], {"TPU_ACCELERATOR_TYPE": "v5e-1"}, "tpu"),
    ],
)
def test_files_and_variables_show_the_accelerator(machine, monkeypatch, files, variables, expected):
    make_files(machine, dict.fromkeys(files, "0x1ae0\n"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert present_accelerator(machine) == expected


@pytest.mark.parametrize(
    ("file", "name", "install"),
    [
        ("dev/nvidia0", "GPU", '"jax[cuda13]=={}" (jax[cuda12] if nvidia-smi shows a driver'),
        (TPU, "TPU", '"jax[tpu]=={}"'),
    ],
)
def test_an_accelerator_that_jax_does_not_use_is_reported(machine, jax_uses, file, name, install):
    jax_uses("cpu")
    assert missing_accelerator(machine) == ""
    make_files(machine, {file: ""})
    line = missing_accelerator(machine)
    told = ["has a " + name, f"pip install {install.format(jax.__version__)}"]
    assert all(part in line for part in [*told, "mnist-jax doctor` shows what fails"])
    assert "\n" not in line
    jax_uses(name.lower())
    assert missing_accelerator(machine) == ""


def test_an_amd_gpu_is_not_reported_missing(machine, jax_uses):
    """A laptop's graphics are one, too."""
    make_files(machine, {"dev/kfd": ""})
    jax_uses("cpu")
    assert missing_accelerator(machine) == ""
    assert "ROCm" in accelerator.remedy("amd")


@pytest.mark.parametrize(
    ("variable", "value", "missing"),
    [
        ("JAX_PLATFORMS", "cpu", [False, False]),
        ("CUDA_VISIBLE_DEVICES", "", [False, True]),
        ("CUDA_VISIBLE_DEVICES", "-1", [False, True]),
        ("CUDA_VISIBLE_DEVICES", "0", [True, True]),
    ],
)
def test_nothing_is_missing_where_it_is_hidden(
    machine, monkeypatch, jax_uses, variable, value, missing
):
    jax_uses("cpu")
    monkeypatch.setenv(variable, value)
    for file, expected in zip(("dev/nvidia0", TPU), missing, strict=True):
        make_files(machine, {file: ""})
        assert bool(missing_accelerator(machine)) == expected
