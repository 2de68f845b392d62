"""Exported networks of every architecture, in both formats, against the model itself."""

import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from exports import NETWORKS, export_network, exported, network, probabilities
from helpers import python, trained_network
from hypothesis import given, settings
from hypothesis import strategies as st
from own_modules import MODULES

from mnist_jax.datasets.info import DataInfo
from mnist_jax.exporting.contract import BATCH
from mnist_jax.exporting.export import export_model
from mnist_jax.exporting.onnx_file import from_onnx
from mnist_jax.exporting.reading import READERS
from mnist_jax.exporting.stablehlo import from_stablehlo
from mnist_jax.forward import Forward
from mnist_jax.models import model_names
from mnist_jax.steps import predict_step, to_float

FAST = ("cnn", "transformer, two heads")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS if name not in FAST]


@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_exported_files_compute_the_same_as_the_model(name, subtests):
    assert {name.partition(",")[0] for name in NETWORKS} == set(model_names())
    expected, images = probabilities(name), network(name)[2]
    for file_format, read in READERS.items():
        with subtests.test(msg=file_format):
            classify = read(exported(name, file_format))
            for count in (1, 3, BATCH, len(images)):
                computed = classify(images[:count])
                assert (computed.dtype, computed.shape) == (np.float32, expected[:count].shape)
                np.testing.assert_allclose(computed, expected[:count], atol=1e-5)
                np.testing.assert_allclose(computed, expected[:count], rtol=1e-3)


def test_exported_files_refuse_other_images_with_the_shape_expected(subtests):
    message = r"images must be uint8 \[N, 7, 5, 3\], N at least 1, got"
    shapes = [(2, 7, 5, 1), (0, 7, 5, 3), (7, 5, 3)]
    bad = [*(np.zeros(shape, np.uint8) for shape in shapes), np.zeros((2, 7, 5, 3), np.float32)]
    for file_format, read in READERS.items():
        classify = read(exported("mlp", file_format))
        for images in bad:
            msg = f"{file_format}, {images.dtype} {images.shape}"
            with subtests.test(msg=msg), pytest.raises(ValueError, match=message):
                classify(images)


EXPORT_IN_ANOTHER_PROCESS = """
from exports import exported
from hashlib import sha256
for name in ("stablehlo", "onnx"):
    print(sha256(exported("cnn, mean of windows", name)).hexdigest())
"""


@pytest.mark.slow
def test_the_same_network_gives_the_same_bytes_in_another_process_with_more_devices():
    folders = [*map(str, Path(__file__).parents[:2]), os.environ.get("PYTHONPATH", "")]
    variables: Any = {
        "PYTHONPATH": os.pathsep.join(folders),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONHASHSEED": "7",
    }
    ran = python("-c", EXPORT_IN_ANOTHER_PROCESS, **variables)
    files = [exported("cnn, mean of windows", name) for name in READERS]
    assert ran.stdout.split() == [hashlib.sha256(data).hexdigest() for data in files]


def test_exported_files_hold_the_parameters_once_and_nothing_of_the_machine(subtests):
    paths = (str(Path(__file__).parents[2]), sys.prefix, ".py", "/usr", "/home")
    for file_format in READERS:
        for name in ("cnn", "transformer, two heads", "resnet"):
            with subtests.test(msg=f"{file_format}: {name}"):
                data = exported(name, file_format)
                size = sum(leaf.nbytes for leaf in jax.tree.leaves(network(name)[1]))
                assert size < len(data) < size + 50_000
                assert not [path for path in paths if path.encode() in data]


def test_a_missing_package_is_named_with_the_remedy(subtests, monkeypatch):
    cases = [
        ("stablehlo", "flatbuffers", export_network, "mlp", "stablehlo"),
        ("stablehlo", "flatbuffers", from_stablehlo, exported("mlp", "stablehlo")),
        ("onnx", "onnx", export_network, "mlp", "onnx"),
        ("onnx", "onnxruntime", from_onnx, exported("mlp", "onnx")),
    ]
    for file_format, package, function, *arguments in cases:
        with subtests.test(msg=f"{file_format}: {function}"), monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(ValueError, match=f"needs {package}: `pip install {package}`"):
                function(*arguments)


@pytest.mark.parametrize("file_format", READERS)
@given(data=st.data())
@settings(max_examples=50)
def test_a_damaged_file_is_refused_in_one_line(file_format, data):
    """JAX itself would crash. A damaged ONNX file, which has no sum, may still be a network."""
    whole = exported("mlp", file_format)
    position = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[position] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(changed), whole[:position], whole[position + 1 :]):
        try:
            READERS[file_format](damaged)
        except ValueError as error:
            expected = r"[^\n]*(damaged, or not|was written by jax)[^\n]*"
            assert re.fullmatch(expected, str(error))  # noqa: PT017
        else:
            assert file_format == "onnx"


@pytest.mark.parametrize("name", MODULES)
def test_any_module_is_exported_in_both_formats(name):
    model = MODULES[name](3)
    forward = Forward(model)
    images: Any = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 1), dtype=np.uint8)
    variables: Any = jax.jit(forward.init)(jax.random.key(0), to_float(images[:1]))
    trained = trained_network(model, variables, DataInfo((12, 12, 1), ("a", "b", "c")))
    expected, _ = predict_step(variables, forward, images)
    for file_format, read in READERS.items():
        computed = read(export_model(trained, file_format))(images)  # type: ignore[arg-type]
        np.testing.assert_allclose(computed, expected, atol=1e-6)
