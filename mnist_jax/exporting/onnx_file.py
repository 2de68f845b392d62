"""ONNX files, for runtimes without JAX such as onnxruntime."""

from collections.abc import Callable, Mapping

import jax
import numpy as np

from mnist_jax.exporting.contract import INPUT, OUTPUT, Classify, in_batches
from mnist_jax.machine.extras import require
from mnist_jax.messages import one_line

# The newest opset that onnxruntime 1.32 runs, and the file format that came with it.
OPSET, IR_VERSION = 28, 14


def to_onnx(
    classify: Callable[[jax.Array], jax.Array],
    image_shape: tuple[int, ...],
    metadata: Mapping[str, str],
) -> bytes:
    """Converts a network to ONNX: the same bytes for the same arguments and versions.

    Args:
        classify: network with its parameters, a traceable `contract.Classify`.
        image_shape: (H, W, C).
        metadata: texts by name.

    Raises ValueError if onnx is not installed, or a part of the network has no translation.
    """
    require("an ONNX file", "onnx", extra="export")
    from onnx import TensorProto, checker, helper

    from mnist_jax.exporting.onnx_graph import trace  # imports onnx

    try:
        graph, shape = trace(classify, image_shape)
        array, constants = helper.make_tensor_value_info, [*graph.constants.values()]
        images = array(INPUT, TensorProto.UINT8, ["N", *image_shape])
        outputs = array(OUTPUT, TensorProto.FLOAT, ["N", *shape[1:]])
        network = helper.make_graph(graph.nodes, "network", [images], [outputs], constants)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(network, opset_imports=opsets, ir_version=IR_VERSION)
        model.producer_name = "mnist_jax"
        helper.set_model_props(model, dict(metadata))
        checker.check_model(model, full_check=True)
    except ValueError:
        raise
    except Exception as error:  # of many kinds, such as an unknown type
        raise ValueError(
            f"the network has no translation to ONNX ({one_line(error):.200}); export to StableHLO"
        ) from error
    return model.SerializeToString(deterministic=True)


def from_onnx(data: bytes) -> Classify:
    """Reads a file written by `to_onnx`; onnxruntime runs it on the CPU.

    Raises ValueError if onnxruntime is not installed, or the file is damaged or of another kind.
    """
    require("an ONNX file", "onnxruntime", extra="export")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, not printed
    try:
        session = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        shape = tuple(session.get_inputs()[0].shape[1:])
        return in_batches(lambda x: np.asarray(session.run([OUTPUT], {INPUT: x})[0]), shape)
    except Exception as error:  # of many kinds
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"onnxruntime {onnxruntime.__version__} cannot read the file ({reason}): it is "
            "damaged, or not an ONNX network exported by mnist_jax"
        ) from error
