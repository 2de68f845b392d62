"""The card of an exported network: what it is, what it was trained on, what it is good for.

References:
    M. Mitchell et al., "Model Cards for Model Reporting", 2019, https://arxiv.org/abs/1810.03993
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnist_jax.exporting.contract import INPUT, OUTPUT
from mnist_jax.metrics import wilson_interval

MNIST_LICENCE = (
    "MNIST, by Yann LeCun, Corinna Cortes and Christopher J. C. Burges: Creative Commons "
    "Attribution-ShareAlike 3.0, https://creativecommons.org/licenses/by-sa/3.0/"
)
LIMITS = (
    "Its accuracy was measured on images like those that it was trained on, made and prepared in "
    "the same way; it says nothing of others.",
    "It always answers with one of its classes, for an image that shows none of them, too.",
    "Its probabilities are not calibrated: of the answers given with 0.9, more or fewer than nine "
    "in ten may be right.",
    "Nobody has tried to deceive it.",
)
RUN = {
    "stablehlo": """\
from pathlib import Path

import numpy as np
from jax import export  # pip install "jax>={jax}" flatbuffers

network = export.deserialize(bytearray(Path({file!r}).read_bytes()))
images = np.zeros({shape}, np.uint8)
probabilities = np.asarray(network.call(images))
print(probabilities.argmax(axis=1))
""",
    "onnx": """\
import numpy as np
import onnxruntime  # pip install onnxruntime

session = onnxruntime.InferenceSession({file!r})
images = np.zeros({shape}, np.uint8)
(probabilities,) = session.run(["probabilities"], {{"images": images}})
print(probabilities.argmax(axis=1))
""",
}


def create_card(
    data: bytes,
    *,
    file_name: str,
    file_format: str,
    image_shape: Sequence[int],
    label_names: Sequence[str],
    drawing_box: int,
    config: dict[str, Any],
    step: int,
    params_sha256: str,
    data_sha256: str | None,
    counts: dict[str, int],
    figures: dict[str, float],
    versions: dict[str, str],
    platform: str,
) -> dict[str, Any]:
    """Describes an exported network. The same network has the same card, whenever and wherever.

    Args:
        data: the exported file.
        file_name: its name, without a directory.
        file_format: "stablehlo" or "onnx".
        image_shape: (H, W, C).
        label_names: of the classes, in order.
        drawing_box: see `datasets.DataInfo`.
        config: what it was trained by, as nested dicts.
        step: updates made.
        params_sha256: of the parameters, see `hashing.tree_sha256`.
        data_sha256: of the images and labels, where it is known.
        counts: examples by split, as far as they are known.
        figures: some of `test_accuracy`, `test_loss` and `val_accuracy`, of this very step.
        versions: of what has written the file, by package; `jax` is among them.
        platform: that it was written on: cpu, gpu, tpu.

    Returns:
        What `json` can hold.
    """
    recipe = config
    if config.get("init_from"):  # without the directories of a machine
        recipe = config | {"init_from": Path(config["init_from"]).name}
    dataset = config["data"]["dataset"]
    is_mnist = dataset.partition(":")[0] == "mnist"
    accuracy, tested = figures.get("test_accuracy"), counts.get("test")
    interval = None
    if accuracy is not None and tested:
        interval = list(wilson_interval(round(accuracy * tested), tested))
    code = RUN[file_format].format(file=file_name, shape=(1, *image_shape), jax=versions["jax"])
    return {
        "file": file_name,
        "format": file_format,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "input": {
            "name": INPUT,
            "dtype": "uint8",
            "shape": ["N", *image_shape],
            "meaning": "N images, pixels 0 to 255 as in the dataset; the file scales them itself",
        },
        "output": {
            "name": OUTPUT,
            "dtype": "float32",
            "shape": ["N", len(label_names)],
            "meaning": "the probability of each class, in the order of the labels",
        },
        "labels": [*label_names],
        "drawing_box": drawing_box,
        "trained_on": {**config["data"], "examples": counts, "data_sha256": data_sha256},
        "recipe": recipe,
        "step": step,
        "params_sha256": params_sha256,
        "figures": {**figures, "test_accuracy_ci95": interval},
        "written_by": {"platform": platform, "versions": versions},
        "intended_use": f"To learn and to experiment with images like those of {dataset}.",
        "limits": [*LIMITS],
        "licence": {
            "software": "Apache-2.0",
            "data": MNIST_LICENCE if is_mnist else "not known here: ask whom the data belongs to",
        },
        "run": code,
    }


def check_card(card: Any, data: bytes) -> None:
    """Raises ValueError unless a card, read from JSON, is that of an exported file."""
    expected = card.get("sha256") if isinstance(card, dict) else None
    if not isinstance(expected, str):
        raise ValueError("the card is none that mnist_jax has written: it names no sha256")
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise ValueError(
            f"the file has the SHA-256 {found}, and its card names {expected}: one of them is "
            "damaged, or they are of two exports; export the network again"
        )


def format_card(card: dict[str, Any]) -> str:
    """Lays out what `create_card` returns as Markdown."""
    arrays = [
        f"| {kind} | `{card[kind]['name']}` | {card[kind]['dtype']} "
        f"| [{', '.join(map(str, card[kind]['shape']))}] | {card[kind]['meaning']} |"
        for kind in ("input", "output")
    ]
    trained_on, written_by = card["trained_on"], card["written_by"]
    versions = ", ".join(f"{name} {version}" for name, version in written_by["versions"].items())
    examples = ", ".join(f"{n:,} {split}" for split, n in trained_on["examples"].items())
    data = trained_on["dataset"] + (f" ({examples} examples)" if examples else "")
    if trained_on["data_sha256"]:
        data += f", SHA-256 `{trained_on['data_sha256']}`"
    recipe = json.dumps(card["recipe"], indent=2)
    labels = json.dumps(card["labels"], ensure_ascii=False)
    return f"""# {card["file"]}

A network that tells what an image shows, in the format {card["format"]}: {card["bytes"]:,} bytes,
SHA-256 `{card["sha256"]}`.

## What it takes and gives

| | name | dtype | shape | meaning |
|---|---|---|---|---|
{arrays[0]}
{arrays[1]}

The labels, in order:

```json
{labels}
```

## How to run it

```python
{card["run"]}```

## How good it is

{_figures(card["figures"], trained_on["examples"].get("test"))}

## What it is for

{card["intended_use"]}

{chr(10).join(f"- {limit}" for limit in card["limits"])}

## What it was made of

- Data: {data}.
- Steps: {card["step"]:,}. Parameters: SHA-256 `{card["params_sha256"]}`.
- Written by {versions}, on {written_by["platform"]}.

The recipe:

```json
{recipe}
```

## Licence

- Software: {card["licence"]["software"]}.
- Data: {card["licence"]["data"]}.
"""


def _figures(figures: dict[str, Any], tested: int | None) -> str:
    lines = []
    if "test_accuracy" in figures:
        line = f"- Test accuracy: {figures['test_accuracy']:.2%}"
        if figures["test_accuracy_ci95"]:
            low, high = figures["test_accuracy_ci95"]
            line += f" of {tested:,} images (95 % interval {low:.2%} to {high:.2%})"
        lines.append(line)
    if "test_loss" in figures:
        lines.append(f"- Test loss: {figures['test_loss']:.4f} nats an image")
    if "val_accuracy" in figures:
        lines.append(f"- Validation accuracy: {figures['val_accuracy']:.2%}")
    return "\n".join(lines) or "It was not measured."
