"""The classic small network: convolution, max-pool, one hidden layer, dropout, output.

Each further stage is a convolution of twice the filters, with pooling.
"""

import jax
from flax import linen as nn

from mnist_jax.models import layers


class Model(nn.Module):
    """Images -> logits."""

    num_classes: int
    features: int
    depth: int
    kernel_size: int
    stride: int
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
        x = layers.batch_last(images)
        for number, features in enumerate(
            layers.stage_features(self.features, self.depth), start=1
        ):
            x = layers.ConvPool(
                features,
                self.kernel_size,
                self.stride,
                self.padding,
                self.pool,
                self.pool_size,
                use_bias=not self.batch_norm,
                rectify=not self.batch_norm,
                lowering=self.lowering,
                name=f"conv{number}",
            )(x)
            if self.batch_norm:
                x = nn.relu(layers.batch_norm(x, train=train, mask=mask, name=f"norm{number}"))
        x = layers.Dense(self.hidden_size, name="dense")(layers.flatten(x)).T
        x = layers.Dropout(self.dropout_rate, name="dropout")(nn.relu(x), train=train)
        return nn.Dense(self.num_classes, kernel_init=layers.glorot_uniform, name="output")(x)
