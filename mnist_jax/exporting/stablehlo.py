"""StableHLO files, for JAX on a CPU, a GPU or a TPU.

The format is that of `jax.export`, https://docs.jax.dev/en/latest/export/export.html, followed by a
line of JSON that JAX ignores: JAX's version, and the SHA-256 of everything before, because some
damaged files would crash JAX's reader or keep it busy for minutes.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import export, lax
from packaging.version import Version

from mnist_jax.exporting.contract import Classify, in_batches
from mnist_jax.machine.extras import require

PLATFORMS = ("cpu", "cuda", "tpu")
Apply = Callable[[Any, jax.Array], jax.Array]


def to_stablehlo(
    on_cpu: Apply, elsewhere: Apply, variables: Any, image_shape: tuple[int, ...]
) -> bytes:
    """Converts a network to StableHLO: the same bytes for the same arguments and versions.

    Args:
        on_cpu: (variables, images uint8 [N, H, W, C]) -> probabilities float32 [N, num_classes].
        elsewhere: the same for GPUs and TPUs.
        variables: parameters of both, held once.
        image_shape: (H, W, C).

    Raises ValueError if flatbuffers, which `jax.export` needs, is not installed.
    """
    require("an exported network", "flatbuffers", extra="export")

    @jax.jit
    def probabilities(images: jax.Array) -> jax.Array:
        return lax.platform_dependent(variables, images, cpu=on_cpu, default=elsewhere)

    images = jax.ShapeDtypeStruct((*export.symbolic_shape("N"), *image_shape), np.uint8)
    # By default, each instruction holds the path of its source.
    limit = getattr(jax.config, "jax_traceback_in_locations_limit")  # noqa: B009 (for pyright)
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        data = bytes(export.export(probabilities, platforms=PLATFORMS)(images).serialize())
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)
    line = {"jax": jax.__version__, "sha256": hashlib.sha256(data).hexdigest()}
    return data + b"\n" + json.dumps(line).encode()


def from_stablehlo(data: bytes) -> Classify:
    """Reads a file written by `to_stablehlo`.

    Raises ValueError if flatbuffers is not installed, the file is damaged or of another kind, or
    this version of JAX cannot read it.
    """
    require("an exported network", "flatbuffers", extra="export")
    data, _, line = data.rpartition(b"\n")
    try:
        written = json.loads(line)
        version = str(written["jax"])
        is_whole = written["sha256"] == hashlib.sha256(data).hexdigest()
    except (ValueError, TypeError, KeyError, RecursionError):
        version, is_whole = "", False
    if not is_whole:
        raise ValueError("the file is damaged, or not StableHLO exported by mnist_jax")
    try:
        if Version(version).release > Version(jax.__version__).release:
            raise ValueError("it is newer")
        network = export.deserialize(bytearray(data))
        program = jax.jit(network.call)
        shape = network.in_avals[0].shape[1:]
        return in_batches(lambda batch: np.asarray(program(batch)), shape)
    except Exception as error:  # of many kinds
        reason = str(error).partition("\n")[0][:200]
        raise ValueError(
            f"the file was written by jax {version}, but jax {jax.__version__} cannot read it "
            f"({reason}); it reads files of versions up to half a year older"
        ) from error
