"""What a network looks for, and what it finds: its filters and feature maps."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from mnist_jax.models.layers import ConvPool
from mnist_jax.reporting.pictures import sheet, visible
from mnist_jax.state import Variables
from mnist_jax.steps import eval_logits, to_float

COLUMNS = 8  # of a sheet
MOST = 64  # pictures on a sheet


def first_filters(variables: Variables) -> jax.Array | None:
    """Returns the filters that slide over the image itself.

    Args:
        variables: of a network.

    Returns:
        float32 [features, k, k, C], or None where the network has no convolution.
    """
    params = variables["params"]
    layer = params.get("conv1") or params.get("patches")
    return layer["kernel"].transpose(3, 0, 1, 2) if layer else None


@functools.partial(jax.jit, static_argnums=0)
def feature_maps(model: nn.Module, variables: Variables, images: Any) -> dict[str, jax.Array]:
    """Computes where on the images each filter of each convolution finds its pattern.

    Args:
        model: images -> logits.
        variables: what it computes with.
        images: float32 [B, H, W, C] in [0, 1].

    Returns:
        By the name of each convolution its answers after the pooling: float [B, H', W', features],
        before any normalisation and rectifier. Where a rectifier follows at once, positive ones go
        on; after a normalisation, those above another number. Empty where there is no convolution.
    """
    capture: Any = functools.partial(
        model.apply,
        capture_intermediates=lambda module, _: isinstance(module, ConvPool),
        mutable=["intermediates"],
    )
    _, captured = eval_logits(variables, capture, images)
    answers: dict[str, Any] = flatten_dict(captured.get("intermediates", {}), sep="/")
    return {
        name.removesuffix("/__call__"): answer[0].transpose(3, 1, 2, 0)
        for name, answer in answers.items()
    }


def filter_sheet(variables: Variables) -> np.ndarray | None:
    """Draws the filters that slide over the image, or the first: grey is 0, lighter is positive.

    Returns:
        uint8 [H, W, C], C = 1 or 3; of other channels the mean is drawn. None: there are none.
    """
    filters = first_filters(variables)
    if filters is None:
        return None
    if filters.shape[-1] not in (1, 3):
        filters = filters.mean(axis=-1, keepdims=True)
    return sheet(visible(np.asarray(filters)[:MOST], signed=True), COLUMNS, ground=255)


def map_sheets(maps: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """Draws the first feature maps of a single image, a sheet a convolution: black is 0 or less.

    Args:
        maps: float [1, H', W', features] by name, of `feature_maps`.

    Returns:
        uint8 [H, W, 1] by name, the first layer before the blocks.
    """
    return {
        name: sheet(
            visible(np.asarray(maps[name][0]).transpose(2, 0, 1)[:MOST, ..., None]), COLUMNS
        )
        for name in sorted(maps, key=_layer_order)
    }


def _layer_order(name: str) -> tuple[int, list[str | int]]:
    """Sorts the layers of the network before those of its blocks, and the tenth after the ninth."""
    parts = re.split(r"(\d+)", name)
    return name.count("/"), [int(part) if part.isdigit() else part for part in parts]


def drawn(model: nn.Module, variables: Variables, image: np.ndarray) -> dict[str, np.ndarray]:
    """Draws an image, the filters of a network, and what they find on it.

    Args:
        model: images -> logits.
        variables: what it computes with.
        image: uint8 [H, W, C].

    Returns:
        uint8 [H, W, C], C = 1 or 3, by name: "image", "filters", and "maps/" with the name of each
        convolution. What the network or an image of so many channels has not is left out.
    """
    maps = feature_maps(model, variables, to_float(jnp.asarray(image[None])))
    filters = filter_sheet(variables)
    return {
        **({"image": image} if image.shape[-1] in (1, 3) else {}),
        **({} if filters is None else {"filters": filters}),
        **{f"maps/{name}": picture for name, picture in map_sheets(maps).items()},
    }
