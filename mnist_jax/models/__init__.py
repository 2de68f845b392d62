"""The architectures: each file here except `layers` defines one as a Linen class `Model`.

Its fields are `num_classes`, known from the data, and some fields of `ModelConfig`. A call

    model(images, train=False, mask=None)

maps float images [B, H, W, C] in [0, 1], of any size, to logits, float [B, num_classes]. With
`train` it needs the rng stream `dropout`, and batch normalisation updates its running statistics,
the collection `batch_stats`, without padding, where `mask`, bool [B], is False.
"""

import dataclasses
import importlib
import pkgutil
from typing import Any

from flax import linen as nn

from mnist_jax.config import ModelConfig


def model_names() -> list[str]:
    """Returns the sorted names of the architectures."""
    return sorted({file.name for file in pkgutil.iter_modules(__path__)} - {"layers"})


def create_model(name: str, num_classes: int, **fields: Any) -> nn.Module:
    """Creates an architecture with fields of `ModelConfig`; `dropout_rate` may be traced.

    Raises ValueError if the architecture does not exist, or lacks a field that was set.
    """
    model, choices, values = _architecture(name), choices_of(name), vars(ModelConfig())
    for field, value in fields.items():
        if field not in choices and value != values.get(field):
            raise ValueError(
                f"model.{field} has no effect on {name}, which has {', '.join(sorted(choices))}: "
                f"leave it at {values.get(field)!r}"
            )
    values = values | fields
    return model(num_classes=num_classes, **{field: values[field] for field in choices})


def choices_of(name: str) -> set[str]:
    """Returns an architecture's fields of `ModelConfig`; ValueError for an unknown name."""
    fields = {field.name for field in dataclasses.fields(_architecture(name))}
    return fields - {"num_classes", "name", "parent"}  # Linen's, the last two


def _architecture(name: str) -> Any:
    if name not in (names := model_names()):
        raise ValueError(f"model.name is {name!r}; expected one of {', '.join(names)}")
    return importlib.import_module(f"{__name__}.{name}").Model


def check_model(name: str, **fields: Any) -> None:
    """Raises ValueError if `create_model` does."""
    create_model(name, num_classes=2, **fields)
