"""StableHLO files, read by JAX alone, and refusals."""

import hashlib
import json

import jax
import numpy as np
import pytest
from exports import export_network, exported, network, probabilities
from jax import export

from mnist_jax.exporting.stablehlo import from_stablehlo

DATA = b"the program and its parameters"


def sealed(data: bytes, version: str = jax.__version__) -> bytes:
    line = json.dumps({"jax": version, "sha256": hashlib.sha256(data).hexdigest()})
    return data + b"\n" + line.encode()


def test_jax_alone_reads_a_stablehlo_file_for_any_number_of_images():
    images = network("cnn")[2]
    program = export.deserialize(bytearray(exported("cnn", "stablehlo")))
    assert program.platforms == ("cpu", "cuda", "tpu")
    for count in (1, 3, 257):
        computed = program.call(images[:count])
        np.testing.assert_allclose(computed, probabilities("cnn")[:count], atol=1e-5)


def test_the_device_decides_how_convolutions_are_computed():
    program = export.deserialize(bytearray(exported("deep_cnn", "stablehlo")))
    assert "stablehlo.convolution" in program.mlir_module()
    images = jax.ShapeDtypeStruct((2, 21, 19, 1), np.uint8)
    on_cpu = jax.jit(program.call).lower(images).compile()
    assert " convolution(" not in str(on_cpu.as_text())


def test_a_stablehlo_file_is_the_same_wherever_it_is_written(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert export_network("cnn", "stablehlo") == exported("cnn", "stablehlo")


def test_the_setting_that_hides_paths_is_put_back():
    before = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]
    export_network("mlp", "stablehlo")
    assert before == jax.config.jax_traceback_in_locations_limit > 0  # type: ignore[attr-defined]


def test_a_file_that_is_not_stablehlo_is_refused_in_one_line():
    nested = b"x\n" + b"[" * 100_000
    for data in (b"", b"\n", b"\nnull", b"\n[]", b"\n{}", nested, b"\n\xff", DATA):
        with pytest.raises(ValueError, match=r"^the file is damaged, or not StableHLO [^\n]*$"):
            from_stablehlo(data)


def test_a_file_of_a_newer_jax_names_both_versions():
    """The file is not parsed: JAX would print some problems, and miss others."""
    data = exported("mlp", "stablehlo").rpartition(b"\n")[0]
    from_stablehlo(sealed(data))
    message = rf"^the file was written by jax 99.1.0, but jax {jax.__version__} cannot [^\n]*$"
    with pytest.raises(ValueError, match=message):
        from_stablehlo(sealed(data, "99.1.0"))


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (lambda a, b: a + b, [((2, 2), np.uint8)] * 2, "not a batch of images"),
        (abs, [((128, 3, 3, 1), np.uint8)], "not a batch of probabilities"),
        (None, [], ""),
    ],
)
def test_a_program_that_is_not_a_network_is_refused_in_one_line(function, arguments, message):
    shapes = [jax.ShapeDtypeStruct(*argument) for argument in arguments]
    data = bytes(export.export(jax.jit(function))(*shapes).serialize()) if function else DATA
    message = rf"^the file was written by jax [^\n]*{message}[^\n]*$"
    with pytest.raises(ValueError, match=message):
        from_stablehlo(sealed(data))
