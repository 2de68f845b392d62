"""A first convolution, then stages of two, and one hidden layer; each stage ends with a pooling.

Every stage doubles the filters. Two small filters in a row see as much of the image as a large one,
with fewer weights and another rectifier. The first filters are two pixels larger, which is cheap on
few channels; their pooling makes later layers four times cheaper.

References:
    K. Simonyan and A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", 2015, https://arxiv.org/abs/1409.1556
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
        first, *others = layers.stage_features(self.features, self.depth)
        convs = [(first, self.kernel_size + 2, self.pool_size)]
        convs += [(f, self.kernel_size, size) for f in others for size in (1, self.pool_size)]
        for number, (features, kernel_size, pool_size) in enumerate(convs, start=1):
            x = layers.ConvPool(
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
                x = nn.relu(layers.batch_norm(x, train=train, mask=mask, name=f"norm{number}"))
        x = layers.Dense(self.hidden_size, name="dense")(layers.flatten(x)).T
        x = layers.Dropout(self.dropout_rate, name="dropout")(nn.relu(x), train=train)
        return nn.Dense(self.num_classes, kernel_init=layers.glorot_uniform, name="output")(x)
