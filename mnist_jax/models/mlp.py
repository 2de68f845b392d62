"""Hidden layers of one size, each followed by dropout."""

import jax
from flax import linen as nn

from mnist_jax.models import layers


class Model(nn.Module):
    """Images -> logits."""

    num_classes: int
    depth: int
    hidden_size: int
    dropout_rate: float | jax.Array

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        del mask  # images do not interact
        x = images.reshape(images.shape[0], -1)
        for number in range(1, self.depth + 1):
            x = nn.Dense(
                self.hidden_size, kernel_init=layers.glorot_uniform, name=f"dense{number}"
            )(x)
            x = layers.Dropout(self.dropout_rate, name=f"dropout{number}")(nn.relu(x), train=train)
        return nn.Dense(self.num_classes, kernel_init=layers.glorot_uniform, name="output")(x)
