"""Exported networks of every architecture, in both formats, against the model itself."""

import dataclasses
import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mnist_jax.export import export_model, write_export
from mnist_jax.exported import BATCH, Classify
from mnist_jax.model_card import create_card, format_card
from mnist_jax.models import create_model, model_names
from mnist_jax.onnx_file import from_onnx
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.stablehlo import from_stablehlo
from mnist_jax.steps import predict_step
from mnist_jax.workdir import load_trained

LOAD = {"stablehlo": from_stablehlo, "onnx": from_onnx}
every_format = pytest.mark.parametrize("file_format", LOAD)
SMALL = {"features": 4, "hidden_size": 8}
# Together they make every choice that an architecture has, of one and three channels.
NETWORKS = {
    "cnn": ((28, 28, 1), {"num_classes": 10}),
    "cnn, mean of windows": (
        (13, 9, 3),
        {"depth": 2, "padding": "SAME", "batch_norm": True, "pool": "mean", "num_classes": 2},
    ),
    "cnn, strides": ((15, 17, 3), {"pool": "stride", "pool_size": 3, "stride": 2}),
    "deep_cnn": ((21, 19, 1), {"depth": 2, "batch_norm": True}),
    "deep_cnn, padded": ((12, 12, 3), {"depth": 2, "padding": "SAME", "num_classes": 10_000}),
    "mlp": ((7, 5, 3), {"depth": 2}),
    "resnet": ((15, 17, 3), {"depth": 3}),
    "resnet, normalised": ((28, 28, 1), {"depth": 2, "stride": 2, "batch_norm": True}),
    "transformer": ((9, 10, 3), {"depth": 1, "kernel_size": 4}),
    "transformer, two heads": ((8, 8, 1), {"depth": 2, "features": 32}),
}


@functools.cache
def network(name: str) -> tuple[nn.Module, dict[str, Any], np.ndarray]:
    """A model, its variables, and some images."""
    shape, options = NETWORKS[name]
    architecture = name.partition(",")[0]
    fields = {field.name for field in dataclasses.fields(create_model(architecture, num_classes=5))}
    small = {key: value for key, value in SMALL.items() if key in fields}
    model = create_model(architecture, **({"num_classes": 5} | small | options))
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2 * BATCH + 1, *shape), dtype=np.uint8)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *shape)))
    # Biases and statistics as after some training: at first they are all 0 or 1.
    variables = jax.tree.map(
        lambda leaf: (
            leaf + random.uniform(0, 0.3, leaf.shape).astype(np.float32) if leaf.ndim == 1 else leaf
        ),
        variables,
    )
    return model, jax.device_put(variables, replicated(create_mesh())), images


@functools.cache
def probabilities(name: str) -> np.ndarray:
    """What the model computes of the images."""
    model, variables, images = network(name)
    apply_fn: Any = model.apply
    found, _ = predict_step(variables, apply_fn, jnp.asarray(images))
    assert found.min() < found.max() < 0.99
    return np.asarray(found)


def export_network(name: str, file_format: Any, labels: Sequence[str] = ("a", "b")) -> bytes:
    model, variables, images = network(name)
    shape = images.shape[1:]
    return export_model(
        model, variables, shape, file_format, label_names=labels, description="a test"
    )


exported = functools.cache(export_network)


def load(name: str, file_format: str) -> Classify:
    return LOAD[file_format](exported(name, file_format))


def test_every_architecture_is_here():
    assert {name.partition(",")[0] for name in NETWORKS} == set(model_names())


@every_format
@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_computes_what_the_model_does(name, file_format):
    expected = probabilities(name)
    found = load(name, file_format)(network(name)[2])
    assert (found.dtype, found.shape) == (np.float32, expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@every_format
def test_a_trained_network_gives_every_test_image_the_same_class(file_format, small_run, mnist):
    workdir, run = small_run
    trained = load_trained(workdir, "latest", replicated(create_mesh()))
    model = create_model("cnn", num_classes=10)
    apply_fn: Any = model.apply
    images: Any = mnist["test"].images
    expected, classes = predict_step(trained.variables, apply_fn, images)
    data = export_model(
        model,
        trained.variables,
        (28, 28, 1),
        file_format,
        label_names=[*map(str, range(10))],
        description="a test",
    )
    found = LOAD[file_format](data)(images)
    np.testing.assert_array_equal(found.argmax(axis=1), np.asarray(classes).ravel())
    np.testing.assert_allclose(found, np.asarray(expected).reshape(-1, 10), atol=1e-5)
    assert run.result["steps"] == trained.step


@every_format
@pytest.mark.parametrize("count", [1, 3, BATCH, BATCH + 1])
def test_any_number_of_images(count, file_format):
    found = load("mlp", file_format)(network("mlp")[2][:count])
    np.testing.assert_allclose(found, probabilities("mlp")[:count], atol=1e-5)


@every_format
@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 7, 5, 1), np.uint8),
        np.zeros((0, 7, 5, 3), np.uint8),
        np.zeros((7, 5, 3), np.uint8),
        np.zeros((2, 7, 5, 3), np.float32),
    ],
)
def test_other_images_are_refused_with_the_shape_expected(images, file_format):
    with pytest.raises(ValueError, match=r"images must be uint8 \[N, 7, 5, 3\], N at least 1, got"):
        load("mlp", file_format)(images)


EXPORT_IN_ANOTHER_PROCESS = """
from test_export import exported, sha256
print(*[sha256(exported("cnn, mean of windows", name)) for name in ("stablehlo", "onnx")])
"""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_same_network_gives_the_same_bytes_in_another_process_with_more_devices():
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    flags = "--xla_force_host_platform_device_count=2"
    ran = subprocess.run(
        [sys.executable, "-c", EXPORT_IN_ANOTHER_PROCESS],
        env=os.environ | {"PYTHONPATH": path, "XLA_FLAGS": flags, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [sha256(exported("cnn, mean of windows", name)) for name in LOAD]
    assert ran.stdout.split() == expected


@every_format
def test_nothing_of_the_machine_is_in_the_file(file_format):
    data = exported("resnet", file_format)
    for path in (str(Path(__file__).parent.parent), sys.prefix, ".py", "/usr", "/home"):
        assert path.encode() not in data


@every_format
@pytest.mark.parametrize("name", ["cnn", "transformer, two heads"])
def test_the_file_holds_the_parameters_once(name, file_format):
    _, variables, _ = network(name)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    assert size < len(exported(name, file_format)) < size + 50_000


@pytest.mark.parametrize(
    ("file_format", "package"), [("stablehlo", "flatbuffers"), ("onnx", "onnx")]
)
def test_what_is_missing_to_write_is_named_with_the_remedy(file_format, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"needs {package}: `pip install {package}`"):
        export_network("mlp", file_format)


@pytest.mark.parametrize(
    ("file_format", "package"), [("stablehlo", "flatbuffers"), ("onnx", "onnxruntime")]
)
def test_what_is_missing_to_read_is_named_with_the_remedy(file_format, package, monkeypatch):
    data = exported("mlp", file_format)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"needs {package}: `pip install {package}`"):
        LOAD[file_format](data)


CARD = create_card(
    b"model",
    file_name="net.onnx",
    file_format="onnx",
    image_shape=(7, 5, 3),
    label_names=["a", "b"],
    drawing_box=0,
    config={"data": {"dataset": "mnist"}},
    step=1,
    params_sha256="0",
    data_sha256=None,
    counts={},
    figures={},
    versions={"jax": jax.__version__},
    platform="cpu",
)


def test_the_card_is_written_beside_the_network(tmp_path):
    write_export(tmp_path / "net.onnx", b"model", CARD)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "net.onnx",
        "net.onnx.json",
        "net.onnx.md",
    ]
    assert (tmp_path / "net.onnx").read_bytes() == b"model"
    assert json.loads((tmp_path / "net.onnx.json").read_text()) == CARD
    assert (tmp_path / "net.onnx.md").read_text() == format_card(CARD)


@pytest.mark.parametrize("blocked", ["net.onnx.json", "net.onnx.md"])
def test_where_the_card_cannot_be_written_the_network_is_not(blocked, tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"old")
    (tmp_path / blocked).mkdir()
    with pytest.raises(OSError, match=blocked):
        write_export(tmp_path / "net.onnx", b"model", CARD)
    assert (tmp_path / "net.onnx").read_bytes() == b"old"
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]
