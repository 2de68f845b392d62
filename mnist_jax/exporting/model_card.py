"""The model card of an exported network: its origin, its measured quality and its limits.

References:
    M. Mitchell et al., "Model Cards for Model Reporting", 2019, https://arxiv.org/abs/1810.03993
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from mnist_jax.exporting.contract import INPUT, OUTPUT
from mnist_jax.metrics import spelled_loss, wilson_interval
from mnist_jax.workdir.hashing import network_sha256
from mnist_jax.workdir.origin import environment
from mnist_jax.workdir.trained import Trained

MNIST_LICENCE = (
    "MNIST, by Yann LeCun, Corinna Cortes and Christopher J. C. Burges: Creative Commons "
    "Attribution-ShareAlike 3.0, https://creativecommons.org/licenses/by-sa/3.0/"
)
LIMITS = (
    "Its accuracy holds only for images made and prepared like its training images.",
    "It always answers with one of its classes, even for an image of something else.",
    "Its probabilities are not calibrated: answers with probability 0.9 may be right more or less "
    "often than nine times in ten.",
    "It was not tested against adversarial images.",
)


def create_card(
    data: bytes, file: str, file_format: str, trained: Trained, result: Mapping[str, Any]
) -> dict[str, Any]:
    """Describes an exported network. The same network always has the same card.

    Args:
        data: content of the exported file.
        file: name of the file, without a directory.
        file_format: "stablehlo" or "onnx".
        trained: the network.
        result: result of its training, or {}; figures of another step are left out.
    """
    config, info, origin = trained.config, trained.info, trained.origin
    recipe = dataclasses.asdict(config)
    if config.init_from:  # without a machine's directories
        recipe["init_from"] = Path(config.init_from).name
    params_sha256, written_in = network_sha256(trained.variables), environment(recipe)
    measured = result if result.get("params_sha256") == params_sha256 else {}
    names = ("test_accuracy", "test_loss", "val_accuracy")
    figures, interval = {n: measured[n] for n in names if measured.get(n) is not None}, None
    if "test_accuracy" in figures:
        count = origin.examples["test"]
        interval = [*wilson_interval(round(figures["test_accuracy"] * count), count)]
    for section, part in (("model", "model"), ("optimizer", "tx"), ("data", "splits")):
        if part in origin.own:
            recipe[section] = "its own"
    dataset = trained.dataset
    is_mnist = dataset.partition(":")[0] == "mnist"
    versions = written_in["versions"]
    return {
        "file": file,
        "format": file_format,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "input": {"name": INPUT, "dtype": "uint8", "shape": ["N", *info.image_shape]}
        | {"meaning": "N images, pixels 0 to 255 as in the dataset; the network scales them"},
        "output": {"name": OUTPUT, "dtype": "float32", "shape": ["N", len(info.label_names)]}
        | {"meaning": "probability of each class, in the order of the labels"},
        "labels": [*info.label_names],
        "drawing_box": info.drawing_box,
        "ground": info.ground,
        "brightness": info.brightness and [*info.brightness],
        "trained_on": {
            **({"dataset": dataset} if "splits" in origin.own else recipe["data"]),
            "examples": origin.examples,
            "data_sha256": origin.data_sha256,
        },
        "recipe": recipe,
        "step": trained.step,
        "params_sha256": params_sha256,
        "figures": {**figures, "test_accuracy_ci95": interval},
        "written_by": {"platform": written_in["platform"], "versions": versions},
        "intended_use": f"Learning and experiments with images like those of {dataset}.",
        "limits": [*LIMITS],
        "licence": {
            "software": "Apache-2.0",
            "data": MNIST_LICENCE if is_mnist else "unknown; ask the owner of the data",
        },
        "run": _template(f"run_{file_format}.txt").format(
            file=file, shape=(1, *info.image_shape), jax=versions["jax"]
        ),
    }


def format_card(card: Mapping[str, Any]) -> str:
    """Formats a card as Markdown."""
    examples, figures = card["trained_on"]["examples"], card["figures"]
    lines = []
    if "test_accuracy" in figures:
        low, high = figures["test_accuracy_ci95"]
        lines += [
            f"- Test accuracy: {figures['test_accuracy']:.2%} of {examples['test']:,} images "
            f"(95 % interval {low:.2%} to {high:.2%})",
            f"- Test loss: {spelled_loss(figures.get('test_loss'))} nats per image",
        ]
    if "val_accuracy" in figures:
        lines.append(f"- Validation accuracy: {figures['val_accuracy']:.2%}")
    texts = {
        "labels": json.dumps(card["labels"], ensure_ascii=False),
        "figures": "\n".join(lines) or "It was not measured.",
        "limits": "\n".join(f"- {limit}" for limit in card["limits"]),
        "examples": ", ".join(f"{count:,} {split}" for split, count in examples.items()),
        "versions": ", ".join(map(" ".join, card["written_by"]["versions"].items())),
        "recipe": json.dumps(card["recipe"], indent=2),
    }
    return _template("model_card.md").format(**{**card, **texts})


def _template(name: str) -> str:
    return resources.files("mnist_jax.exporting").joinpath(name).read_text(encoding="utf-8")
