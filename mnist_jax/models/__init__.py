"""The architectures: each file here except `layers` defines one as a Linen class `Model`.

A `Model` maps images to logits. Its dataclass fields are `num_classes`, known from the data, and
some fields of `ModelConfig`, the vocabulary of all architectures. It is called as

    model(images, train=False, mask=None)

with float images [B, H, W, C] in [0, 1], of any size and number of channels, and returns float
[B, num_classes]. With `train`, it needs the rng stream `dropout`, and batch normalisation uses the
batch's own statistics and updates the running ones, the collection `batch_stats`. `mask` is
bool [B], False for the padding of a batch, which these statistics ignore.
"""

import dataclasses
import importlib
import pkgutil
from typing import Any

from flax import linen as nn

from mnist_jax.config import ModelConfig


def model_names() -> list[str]:
    """Returns the sorted names of the architectures, which are those of the files."""
    return sorted({file.name for file in pkgutil.iter_modules(__path__)} - {"layers"})


def create_model(name: str, num_classes: int, **fields: Any) -> nn.Module:
    """Creates an architecture.

    Args:
        name: one of `model_names`.
        num_classes: number of logits per image.
        **fields: fields of `ModelConfig`, with its defaults. `dropout_rate` may be traced.

    Raises:
        ValueError: there is no such architecture, or it does not have a field that was set.
    """
    model = _architecture(name)
    choices = choices_of(name)
    values = vars(ModelConfig())
    for field, value in fields.items():
        if field not in choices and value != values.get(field):
            raise ValueError(
                f"model.{field} has no effect on {name}, which has {', '.join(sorted(choices))}: "
                f"leave it at {values.get(field)!r}"
            )
    values = values | fields
    return model(num_classes=num_classes, **{field: values[field] for field in choices})


def choices_of(name: str) -> set[str]:
    """Returns an architecture's fields of `ModelConfig`; raises ValueError for an unknown name."""
    fields = {field.name for field in dataclasses.fields(_architecture(name))}
    return fields - {"num_classes", "name", "parent"}  # the last two are Linen's


def _architecture(name: str) -> Any:
    if name not in model_names():
        raise ValueError(f"model.name is {name!r}; expected one of {', '.join(model_names())}")
    return importlib.import_module(f"{__name__}.{name}").Model


def check_model(name: str, **fields: Any) -> None:
    """Raises ValueError if `create_model` does, whatever the number of classes."""
    create_model(name, num_classes=2, **fields)
