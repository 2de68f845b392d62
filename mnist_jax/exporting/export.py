"""Turns a network into a file that needs nothing of this package, with a card beside it."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
from flax import linen as nn

from mnist_jax.exporting.model_card import create_card, format_card
from mnist_jax.exporting.onnx_file import to_onnx
from mnist_jax.exporting.stablehlo import to_stablehlo
from mnist_jax.state import Variables
from mnist_jax.steps import eval_logits, scale
from mnist_jax.workdir.hashing import network_sha256
from mnist_jax.workdir.history import atomic_file, write_json
from mnist_jax.workdir.origin import environment
from mnist_jax.workdir.run import load_trained, read_result


def export(
    workdir: str | Path,
    output: str | Path,
    *,
    format: Literal["stablehlo", "onnx"],  # noqa: A002 (as on the command line)
    step: int | str = "latest",
) -> dict[str, Any]:
    """Writes a trained network as one file, with its card as OUTPUT.json and OUTPUT.md.

    Args:
        workdir: a directory that `train` has written.
        output: the file; an older one is replaced.
        format: see `export_model`.
        step: a saved step, "latest", or "best" by validation accuracy.

    Returns:
        The card, see `model_card.create_card`.

    Raises:
        FileNotFoundError: there is no trained network in `workdir`, or no directory for the output.
        ValueError: it has no such step or cannot be read; or what is written with is not installed.
        OSError: the output cannot be written.
    """
    output = Path(output)
    if not output.name or output.is_dir() or not output.parent.is_dir():
        raise FileNotFoundError(f"--output must be a file in a directory that exists, got {output}")
    trained = load_trained(workdir, step)
    config, info, origin = trained.config, trained.info, trained.origin
    data = export_model(
        trained.model,
        trained.variables,
        info.image_shape,
        format,
        label_names=info.label_names,
        description=f"{config.model.name} trained on {config.data.dataset}",
    )
    params_sha256, result = network_sha256(trained.variables), read_result(Path(workdir)) or {}
    measured = result if result.get("params_sha256") == params_sha256 else {}  # this very network
    figures = ("test_accuracy", "test_loss", "val_accuracy")
    card = create_card(
        data,
        file_name=output.name,
        file_format=format,
        **info._asdict(),
        config=dataclasses.asdict(config),
        step=trained.step,
        params_sha256=params_sha256,
        data_sha256=origin.data_sha256,
        counts=origin.examples,
        figures={name: measured[name] for name in figures if name in measured},
        versions=environment()["versions"],
        platform=jax.default_backend(),
    )
    write_export(output, data, card)
    return card


def export_model(
    model: nn.Module,
    variables: Variables,
    image_shape: tuple[int, ...],
    file_format: Literal["stablehlo", "onnx"],
    *,
    label_names: Sequence[str],
    description: str,
) -> bytes:
    """Returns a network as a file: images uint8 [N, H, W, C] -> probabilities [N, num_classes].

    Args:
        model: images -> logits.
        variables: its parameters and batch statistics.
        image_shape: (H, W, C).
        file_format: StableHLO holds convolutions as matrix products for a CPU, where they are
            faster, and as such for other devices; ONNX as such.
        label_names: of the classes, in order. An ONNX file holds them, and the description.
        description: one line about the network.

    Raises:
        ValueError: what is written with is not installed, or ONNX has nothing for some part of
            the model.
    """
    with_convolutions = functools.partial(_probabilities, _lowered(model, "xla"))
    if file_format == "stablehlo":
        with_products = functools.partial(_probabilities, _lowered(model, "matmul"))
        return to_stablehlo(with_products, with_convolutions, variables, image_shape)
    metadata = {"description": description, "labels": json.dumps([*label_names])}
    return to_onnx(functools.partial(with_convolutions, variables), image_shape, metadata)


def _lowered(model: nn.Module, lowering: str) -> nn.Module:
    return model.clone(lowering=lowering) if hasattr(model, "lowering") else model


def _probabilities(model: nn.Module, variables: Variables, images: jax.Array) -> jax.Array:
    apply_fn: Any = model.apply
    return jax.nn.softmax(eval_logits(variables, apply_fn, scale(images)))


def write_export(output: Path, data: bytes, card: dict[str, Any]) -> None:
    """Writes a network and its card: OUTPUT, OUTPUT.json and OUTPUT.md.

    The network comes last: where it is, its card is, too, however the writing ends.

    Raises:
        OSError: a file cannot be written; a network that was there is still whole.
    """
    write_json(output.with_name(f"{output.name}.json"), card)
    with atomic_file(output.with_name(f"{output.name}.md")) as file:
        file.write(format_card(card).encode())
    with atomic_file(output) as file:
        file.write(data)
