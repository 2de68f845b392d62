"""Which accelerator a machine has, and whether it is used."""

import pytest

from mnist_jax import accelerator

GOOGLE, TPU_V5E = "0x1ae0", "0x0063"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Directories such as /dev and PCI's without an accelerator, and no variable that tells."""
    for name in ("JAX_PLATFORMS", *accelerator.TPU_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "dev/vfio").mkdir(parents=True)
    for name in ("null", "nvram", "vfio/vfio", "vfio/17", "accelerometer"):
        (tmp_path / "dev" / name).touch()
    add_card(tmp_path, "0x8086", TPU_V5E)  # another vendor may use the same number
    add_card(tmp_path, GOOGLE, "0x0042")  # a network card, gVNIC
    return tmp_path


def add_card(machine, vendor, model):
    card = machine / "pci" / f"{vendor}-{model}"
    card.mkdir(parents=True)
    (card / "vendor").write_text(f"{vendor}\n")
    (card / "device").write_text(f"{model}\n")


def expected_accelerator(machine):
    return accelerator.expected_accelerator(machine / "dev", machine / "pci")


def missing_accelerator(machine):
    return accelerator.missing_accelerator(machine / "dev", machine / "pci")


@pytest.mark.parametrize(
    ("name", "expected"), {"nvidia0": "gpu", "nvidiactl": "gpu", "nvme0": "cpu"}.items()
)
def test_a_device_tells(machine, name, expected):
    assert expected_accelerator(machine) == "cpu"
    (machine / "dev" / name).touch()
    assert expected_accelerator(machine) == expected


@pytest.mark.parametrize("model", accelerator.TPU_MODELS)
def test_a_tpu_on_the_bus_tells(machine, model):
    assert expected_accelerator(machine) == "cpu"
    add_card(machine, GOOGLE, model)
    assert expected_accelerator(machine) == "tpu"


def test_a_machine_without_a_pci_bus_has_no_accelerator(machine, tmp_path):
    assert accelerator.expected_accelerator(machine / "dev", tmp_path / "none") == "cpu"


@pytest.mark.parametrize(
    ("name", "value"), {"COLAB_TPU_1VM": "1", "TPU_ACCELERATOR_TYPE": "v5e-1"}.items()
)
def test_a_variable_of_a_tpu_machine_tells(machine, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert expected_accelerator(machine) == "tpu"


@pytest.mark.parametrize("value", ["", "0"])
def test_a_variable_can_say_that_there_is_no_tpu(machine, monkeypatch, value):
    monkeypatch.setenv("COLAB_TPU_1VM", value)
    assert expected_accelerator(machine) == "cpu"


def test_nothing_is_missing_where_the_cpu_was_asked_for(machine, monkeypatch):
    (machine / "dev/nvidia0").touch()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert expected_accelerator(machine) == "cpu"
    assert missing_accelerator(machine) == ""


def test_an_accelerator_that_jax_does_not_use_is_told_in_one_line(machine, monkeypatch):
    monkeypatch.setattr(accelerator.jax, "default_backend", lambda: "cpu")
    assert missing_accelerator(machine) == ""
    add_card(machine, GOOGLE, TPU_V5E)
    line = missing_accelerator(machine)
    assert "has a TPU" in line
    assert "jax[tpu]" in line
    assert "\n" not in line


def test_nothing_is_missing_where_jax_uses_the_accelerator(machine, monkeypatch):
    add_card(machine, GOOGLE, TPU_V5E)
    monkeypatch.setattr(accelerator.jax, "default_backend", lambda: "tpu")
    assert missing_accelerator(machine) == ""
