"""Which accelerator a machine has, and whether it is used."""

import pytest

from mnist_jax import environment
from mnist_jax.environment import expected_accelerator, missing_accelerator


@pytest.fixture
def devices(tmp_path, monkeypatch):
    """A directory such as /dev without an accelerator, and no variable that tells of one."""
    for name in ("JAX_PLATFORMS", *environment.TPU_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "vfio").mkdir()
    for name in ("null", "nvram", "vfio/vfio", "accelerometer"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "accel0": "tpu",
        "vfio/0": "tpu",
        "nvidia0": "gpu",
        "nvidiactl": "gpu",
        "nvme0": "cpu",
    }.items(),
)
def test_a_device_tells(devices, name, expected):
    assert expected_accelerator(devices) == "cpu"
    (devices / name).touch()
    assert expected_accelerator(devices) == expected


@pytest.mark.parametrize(
    ("name", "value"), {"COLAB_TPU_1VM": "1", "TPU_ACCELERATOR_TYPE": "v5e-1"}.items()
)
def test_a_variable_of_a_tpu_machine_tells(devices, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert expected_accelerator(devices) == "tpu"


def test_colab_sets_the_variable_to_nothing_where_there_is_no_tpu(devices, monkeypatch):
    monkeypatch.setenv("COLAB_TPU_1VM", "")
    assert expected_accelerator(devices) == "cpu"


def test_nothing_is_missing_where_the_cpu_was_asked_for(devices, monkeypatch):
    (devices / "nvidia0").touch()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert expected_accelerator(devices) == "cpu"
    assert missing_accelerator(devices) == ""


def test_an_accelerator_that_jax_does_not_use_is_told_in_one_line(devices, monkeypatch):
    monkeypatch.setattr(environment.jax, "default_backend", lambda: "cpu")
    assert missing_accelerator(devices) == ""
    (devices / "accel0").touch()
    line = missing_accelerator(devices)
    assert "has a TPU" in line
    assert "jax[tpu]" in line
    assert "\n" not in line


def test_nothing_is_missing_where_jax_uses_the_accelerator(devices, monkeypatch):
    (devices / "accel0").touch()
    monkeypatch.setattr(environment.jax, "default_backend", lambda: "tpu")
    assert missing_accelerator(devices) == ""
