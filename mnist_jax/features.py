"""What a network looks for, and what it finds: its filters and feature maps."""

from typing import Any

import jax
from flax import linen as nn
from flax.traverse_util import flatten_dict

from mnist_jax.models.layers import ConvPool
from mnist_jax.state import Variables


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


def feature_maps(model: nn.Module, variables: Variables, images: Any) -> dict[str, jax.Array]:
    """Computes where on the images each filter of each convolution finds its pattern.

    Args:
        model: images -> logits.
        variables: what it computes with.
        images: float32 [B, H, W, C] in [0, 1].

    Returns:
        By the name of each convolution, in alphabetical order, its answers after the pooling: float
        [B, H', W', features]. Positive ones go on. Empty where there is no convolution.
    """
    _, found = model.apply(
        variables,
        images,
        capture_intermediates=lambda module, _: isinstance(module, ConvPool),
        mutable=["intermediates"],
    )
    answers: dict[str, Any] = flatten_dict(found.get("intermediates", {}), sep="/")
    return {
        name.removesuffix("/__call__"): answers[name][0].transpose(3, 1, 2, 0)
        for name in sorted(answers)
    }
