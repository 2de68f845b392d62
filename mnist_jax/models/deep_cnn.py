"""A first convolution, then stages of two, and one hidden layer; each stage ends with a pooling.

Every stage has twice the filters of the one before. Two small filters in a row see as much of the
image as one large one, with fewer weights and another rectifier. The first convolution is a stage
of its own, with filters two pixels larger, which are cheap on one or three channels. Its pooling
makes all later layers four times cheaper than a first stage of two convolutions would.

References:
    K. Simonyan and A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", 2015, https://arxiv.org/abs/1409.1556
"""

import jax
from flax import linen as nn

from mnist_jax.models.layers import (
    ConvPool,
    Dense,
    Dropout,
    batch_last,
    batch_norm,
    flatten,
    glorot_uniform,
    stage_features,
)


class Model(nn.Module):
    """Images -> logits."""

    num_classes: int
    features: int
    depth: int
    kernel_size: int
    padding: str
    pool: str
    pool_size: int
    batch_norm: bool
    hidden_size: int
    dropout_rate: float | jax.Array
    lowering: str

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        x = batch_last(images)
        stages = stage_features(self.features, self.depth)
        first = (stages[0], self.kernel_size + 2, self.pool_size)
        others = [
            (features, self.kernel_size, pool_size)
            for features in stages[1:]
            for pool_size in (1, self.pool_size)
        ]
        for number, (features, kernel_size, pool_size) in enumerate([first, *others], start=1):
            x = ConvPool(
                features,
                kernel_size,
                padding=self.padding,
                pool=self.pool,
                pool_size=pool_size,
                use_bias=not self.batch_norm,
                rectify=not self.batch_norm,
                lowering=self.lowering,
                name=f"conv{number}",
            )(x)
            if self.batch_norm:
                x = nn.relu(batch_norm(x, train=train, mask=mask, name=f"norm{number}"))
        x = Dense(self.hidden_size, name="dense")(flatten(x)).T
        x = Dropout(self.dropout_rate, name="dropout")(nn.relu(x), train=train)
        return nn.Dense(self.num_classes, kernel_init=glorot_uniform, name="output")(x)
