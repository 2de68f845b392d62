"""Export of a trained network as one file, with its model card."""

import functools
import json
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from mnist_jax.exporting.model_card import create_card, format_card
from mnist_jax.exporting.onnx_file import to_onnx
from mnist_jax.exporting.stablehlo import Apply, to_stablehlo
from mnist_jax.forward import Forward
from mnist_jax.parts import OwnModel
from mnist_jax.sharding import Target, traced_for
from mnist_jax.steps import eval_logits, to_float
from mnist_jax.workdir.files import atomic_file, write_json, write_text
from mnist_jax.workdir.run import read_result
from mnist_jax.workdir.trained import Trained, load_trained


def export(
    workdir: str | Path,
    output: str | Path,
    *,
    format: Literal["stablehlo", "onnx"],  # noqa: A002 (as on the command line)
    step: int | str = "latest",
    model: OwnModel = None,
) -> dict[str, Any]:
    """Writes a trained network as one file, with its card as OUTPUT.json and OUTPUT.md.

    Args:
        workdir: directory written by `train`.
        output: file to write; an older one is replaced.
        format: format of the file.
        step: saved step, "latest" or "best", as in `load_trained`.
        model: the network's own module, as in `train`.

    Returns:
        The card, see `model_card.create_card`.

    Raises:
        FileNotFoundError: `workdir` holds no trained network, or the output has no directory.
        ValueError: the step is missing or unreadable, or a package is not installed.
        OSError: the output cannot be written.
    """
    output = Path(output)
    if not output.name or output.is_dir() or not output.parent.is_dir():
        raise FileNotFoundError(f"--output must be a file in an existing directory, got {output}")
    trained = load_trained(workdir, step, model=model)
    data = export_model(trained, format)
    card = create_card(data, output.name, format, trained, read_result(Path(workdir)) or {})
    write_export(output, data, card)
    return card


def export_model(trained: Trained, file_format: Literal["stablehlo", "onnx"]) -> bytes:
    """Converts a network to a file's content, a `contract.Classify`.

    In StableHLO for a CPU, convolutions become matrix products, which are faster there. An ONNX
    file also holds the names of the classes.

    Raises ValueError if a package is not installed or a part of the model has no translation.
    """
    convolutions, shape = _forward(trained.model, "xla"), trained.info.image_shape
    if file_format == "stablehlo":
        on_cpu = _forward(trained.model, "matmul")
        return to_stablehlo(on_cpu, convolutions, trained.variables, shape)
    metadata = {
        "description": f"{trained.architecture} trained on {trained.dataset}",
        "labels": json.dumps(trained.info.label_names),
    }
    return to_onnx(functools.partial(convolutions, trained.variables), shape, metadata)


def _forward(model: Any, lowering: str) -> Apply:
    """Creates (variables, images uint8 [N, H, W, C]) -> probabilities [N, num_classes]."""
    forward = Forward(model.clone(lowering=lowering) if hasattr(model, "lowering") else model)

    def classify(variables: Any, images: jax.Array) -> jax.Array:
        pixels = to_float(images)
        with traced_for(Target("cpu", 1)):  # the file is the same on every machine
            try:
                logits = eval_logits(variables, forward, pixels)
            except Exception:  # of many kinds, if a module needs N as a number
                one = functools.partial(eval_logits, variables, forward)
                logits = jax.vmap(lambda image: one(image[None])[0])(pixels)
        return jax.nn.softmax(logits.astype(jnp.float32))  # a module may compute in bfloat16

    return classify


def write_export(output: Path, data: bytes, card: dict[str, Any]) -> None:
    """Writes OUTPUT.json, OUTPUT.md and at last OUTPUT, so that it never lacks its card.

    Raises OSError if a file cannot be written.
    """
    write_json(output.with_name(f"{output.name}.json"), card)
    write_text(output.with_name(f"{output.name}.md"), format_card(card))
    with atomic_file(output) as file:
        file.write(data)
