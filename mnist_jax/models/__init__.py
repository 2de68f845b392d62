"""The architectures: each file here, but for `layers`, defines one as a Linen class `Model`.

A `Model` maps images to logits. Its dataclass fields are `num_classes`, which the data tell, and
its choices among those of `ModelConfig`: one vocabulary for all. It is called as

    model(images, train=False, mask=None)

with float images [B, H, W, C] in [0, 1], of any size and any number of channels, and returns float
[B, num_classes]. With `train`, it needs the rng stream `dropout`, and batch normalisation uses the
batch's own statistics and updates the running ones, which are the collection `batch_stats`. `mask`
is bool [B], False for the padding of a batch, which then does not count in these statistics.
"""

import dataclasses
import importlib
import pkgutil
from typing import Any

from flax import linen as nn

from mnist_jax.config import ModelConfig


def model_names() -> list[str]:
    """Returns the names of the architectures, those of the files, in alphabetical order."""
    return sorted({file.name for file in pkgutil.iter_modules(__path__)} - {"layers"})


def create_model(name: str, num_classes: int, **fields: Any) -> nn.Module:
    """Returns an architecture.

    Args:
        name: one of `model_names`.
        num_classes: how many logits an image gets.
        **fields: some of `ModelConfig`; the others have their defaults. `dropout_rate` may also be
            a traced scalar.

    Raises:
        ValueError: there is no such architecture, or it has no choice where one was made.
    """
    model = _architecture(name)
    choices = choices_of(name)
    values = vars(ModelConfig())
    for field, value in fields.items():
        if field not in choices and value != values.get(field):
            raise ValueError(
                f"model.{field} is no choice of {name}, leave it at {values.get(field)!r}; "
                f"{name} has {', '.join(sorted(choices))}"
            )
    values = values | fields
    return model(num_classes=num_classes, **{field: values[field] for field in choices})


def choices_of(name: str) -> set[str]:
    """Returns the fields of `ModelConfig` that an architecture has; ValueError if there is none."""
    fields = {field.name for field in dataclasses.fields(_architecture(name))}
    return fields - {"num_classes", "name", "parent"}  # the last two are Linen's


def _architecture(name: str) -> Any:
    if name not in model_names():
        raise ValueError(f"model.name is {name!r}; expected one of {', '.join(model_names())}")
    return importlib.import_module(f"{__name__}.{name}").Model


def check_model(name: str, **fields: Any) -> None:
    """Raises ValueError if `create_model` does, whatever the number of classes."""
    create_model(name, num_classes=2, **fields)
