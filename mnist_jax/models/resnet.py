"""A small residual network: a convolution, then stages that add to their input.

A stage is a block of two convolutions in the pre-activation order (normalisation, rectifier,
convolution), which leaves the sum untouched. Every stage except the first halves height and width
and doubles the features. The output layer receives the mean over all places.

References:
    K. He, X. Zhang, S. Ren and J. Sun, "Identity Mappings in Deep Residual Networks", 2016,
    https://arxiv.org/abs/1603.05027
"""

import functools

import jax
from flax import linen as nn

from mnist_jax.models import layers


class Block(nn.Module):
    """x + convolution(convolution(x)), with a 1x1 convolution of x if the shape changes."""

    features: int
    kernel_size: int
    stride: int
    batch_norm: bool
    lowering: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None) -> jax.Array:
        """Maps float [C, H, W, B] to [features, ceil(H / stride), ceil(W / stride), B]."""
        conv = functools.partial(
            layers.ConvPool,
            self.features,
            padding="SAME",
            use_bias=not self.batch_norm,
            lowering=self.lowering,
        )

        def activate(x: jax.Array, name: str) -> jax.Array:
            if self.batch_norm:
                x = layers.batch_norm(x, train=train, mask=mask, name=name)
            return nn.relu(x)

        y = activate(x, "norm1")
        if self.stride > 1 or len(x) != self.features:
            x = conv(kernel_size=1, stride=self.stride, name="shortcut")(y)
        y = conv(kernel_size=self.kernel_size, stride=self.stride, name="conv1")(y)
        y = conv(kernel_size=self.kernel_size, name="conv2")(activate(y, "norm2"))
        return x + y


class Model(nn.Module):
    """Images -> logits."""

    num_classes: int
    features: int
    depth: int
    kernel_size: int
    stride: int
    batch_norm: bool
    dropout_rate: float | jax.Array
    lowering: str

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        x = layers.ConvPool(
            self.features,
            self.kernel_size,
            self.stride,
            padding="SAME",
            use_bias=not self.batch_norm,
            lowering=self.lowering,
            name="conv1",
        )(layers.batch_last(images))
        for number, features in enumerate(
            layers.stage_features(self.features, self.depth), start=1
        ):
            stride = 1 if number == 1 else 2
            options = self.kernel_size, stride, self.batch_norm, self.lowering
            x = Block(features, *options, name=f"block{number}")(x, train=train, mask=mask)
        if self.batch_norm:
            x = layers.batch_norm(x, train=train, mask=mask, name="norm")
        x = nn.relu(x).mean(axis=(1, 2)).T
        x = layers.Dropout(self.dropout_rate, name="dropout")(x, train=train)
        return nn.Dense(self.num_classes, kernel_init=layers.glorot_uniform, name="output")(x)
