"""Which accelerator a machine has, and whether it is used."""

import importlib.metadata
import shutil

import jax
import pytest
from fake_packages import install

from mnist_jax.machine import accelerator

GOOGLE, TPU_V5E = "0x1ae0", "0x0063"
JAXLIB = importlib.metadata.version("jaxlib")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Directories such as /dev and PCI's without an accelerator, and no variable that tells."""
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", *accelerator.TPU_VARIABLES):
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
    (card / "vendor").write_text(f"{vendor}\n", encoding="utf-8")
    (card / "device").write_text(f"{model}\n", encoding="utf-8")
    return card


def expected_accelerator(machine):
    return accelerator.expected_accelerator(machine / "dev", machine / "pci")


def missing_accelerator(machine):
    return accelerator.missing_accelerator(machine / "dev", machine / "pci")


def test_a_device_of_nvidia_tells_of_a_gpu(machine):
    assert expected_accelerator(machine) == "cpu"
    for name, expected in {"nvidia0": "gpu", "nvidiactl": "gpu", "nvme0": "cpu"}.items():
        device = machine / "dev" / name
        device.touch()
        assert expected_accelerator(machine) == expected, name
        device.unlink()


def test_a_card_of_google_tells_of_a_tpu(machine):
    assert expected_accelerator(machine) == "cpu"
    for model in accelerator.TPU_MODELS:
        card = add_card(machine, GOOGLE, model)
        assert expected_accelerator(machine) == "tpu", model
        shutil.rmtree(card)


def test_a_machine_without_a_pci_bus_has_no_accelerator(machine, tmp_path):
    assert accelerator.expected_accelerator(machine / "dev", tmp_path / "none") == "cpu"


VARIABLES = {
    ("COLAB_TPU_1VM", "1"): "tpu",
    ("COLAB_TPU_1VM", "0"): "cpu",
    ("COLAB_TPU_1VM", ""): "cpu",
    ("TPU_ACCELERATOR_TYPE", "v5e-1"): "tpu",
}


def test_a_tpu_is_detected_from_environment_variables(machine, monkeypatch):
    for variable, expected in VARIABLES.items():
        with monkeypatch.context() as patch:
            patch.setenv(*variable)
            assert expected_accelerator(machine) == expected, variable


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


def test_an_amd_gpu_is_reported_but_not_required(machine):
    (machine / "dev/kfd").touch()
    assert accelerator.present_accelerator(machine / "dev", machine / "pci") == "amd"
    assert expected_accelerator(machine) == "cpu"  # a laptop's graphics are one, too
    (machine / "dev/nvidia0").touch()
    assert expected_accelerator(machine) == "gpu"


def test_under_windows_the_driver_of_nvidia_tells(machine):
    def present():
        return accelerator.present_accelerator(machine / "dev", machine / "pci", machine / "wsl")

    (machine / "dev/dxg").touch()
    assert present() == "cpu"  # of another make
    (machine / "wsl").mkdir()
    (machine / "wsl/libcuda.so.1").touch()
    assert present() == "gpu"
    (machine / "dev/dxg").unlink()
    assert present() == "cpu"


def test_a_gpu_can_be_hidden_by_the_user(machine, monkeypatch):
    (machine / "dev/nvidia0").touch()
    for value, expected in {"0": "gpu", "": "cpu", "-1": "cpu"}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert expected_accelerator(machine) == expected, value
    add_card(machine, GOOGLE, TPU_V5E)  # which the variable is not about
    assert expected_accelerator(machine) == "tpu"


CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}.65.06  Release Build\n"
GCC = "GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n"


RELEASES = {
    580: "jax[cuda13]",
    595: "jax[cuda13]",
    579: "jax[cuda12]",
    525: "jax[cuda12]",
    524: "version 524: install 525 or newer",
}


@pytest.mark.parametrize("text", [CLOSED, OPEN], ids=["closed", "open"])
def test_the_package_to_install_depends_on_the_driver(tmp_path, text):
    driver = tmp_path / "version"
    for release, expected in RELEASES.items():
        driver.write_text(text.format(release) + GCC, encoding="utf-8")
        line = accelerator.remedy("gpu", driver)
        assert expected in line, release
        assert "nvidia-smi" not in line
        assert "\n" not in line


def test_the_version_of_a_driver_that_does_not_tell_it_is_asked_for(tmp_path):
    for content in (None, b"", b"\xff\xfe", b"Kernel Module unknown"):
        if content is not None:
            (tmp_path / "version").write_bytes(content)
        line = accelerator.remedy("gpu", tmp_path / "version")
        assert f"jax[cuda13]=={jax.__version__}" in line, content
        assert "580 or newer: nvidia-smi tells" in line


def test_only_what_the_installed_jax_offers_is_named():
    offered = importlib.metadata.metadata("jax").get_all("Provides-Extra") or []
    rocm = [name for name in offered if name.startswith("rocm")]
    assert f"jax[{rocm[0]}]==" in accelerator.remedy("amd")
    assert "jax[tpu]==" in accelerator.remedy("tpu")


@pytest.fixture
def old_jax(tmp_path, monkeypatch):
    """Has the metadata of a JAX that offers CUDA 12 alone, and nothing for AMD."""
    install(tmp_path, monkeypatch, "jax", jax.__version__, "Provides-Extra: cuda12\n")


@pytest.mark.usefixtures("old_jax")
def test_an_extra_that_the_installed_jax_lacks_is_not_named(tmp_path):
    assert "jax[cuda12]" in accelerator.remedy("gpu", tmp_path / "none")
    (tmp_path / "version").write_text(CLOSED.format(595), encoding="utf-8")
    assert "jax[cuda12]" in accelerator.remedy("gpu", tmp_path / "version")
    assert accelerator.remedy("amd") == f"JAX {jax.__version__} has no package for it"


def test_a_plugin_of_another_version_is_named(machine, monkeypatch):
    (machine / "dev/nvidia0").touch()
    monkeypatch.setattr(accelerator.jax, "default_backend", lambda: "cpu")
    install(machine, monkeypatch, "jax-cuda13-plugin", "0.5.0")
    line = missing_accelerator(machine)
    assert f"jax-cuda13-plugin 0.5.0 does not fit jaxlib {JAXLIB}" in line
    assert "pip install" in line


def test_a_plugin_that_the_driver_is_too_old_for_is_named(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "jax-cuda13-plugin", JAXLIB)
    (tmp_path / "version").write_text(CLOSED.format(535), encoding="utf-8")
    line = accelerator.remedy("gpu", tmp_path / "version")
    assert line.startswith("uninstall jax-cuda13-plugin: it needs driver 580, this one is 535; pip")
    assert "jax[cuda12]" in line


def test_where_all_is_installed_nothing_is_to_install(machine, monkeypatch):
    (machine / "dev/nvidia0").touch()
    monkeypatch.setattr(accelerator.jax, "default_backend", lambda: "cpu")
    install(machine, monkeypatch, "jax-cuda13-plugin", f"{JAXLIB}.post1")
    line = missing_accelerator(machine)
    assert "pip install" not in line
    assert "`JAX_PLATFORMS=cuda mnist-jax doctor` tells what fails" in line
