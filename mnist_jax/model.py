"""Linen modules, images -> logits, and the registry of architectures."""

import jax
from flax import linen as nn

from mnist_jax.ops import conv_max_pool

glorot_uniform = nn.initializers.glorot_uniform()


class ConvMaxPool(nn.Module):
    """A convolution (stride 1, no padding) with a bias, and the max-pool behind it.

    Adding the bias after the maximum is the same as before it, on fewer numbers.
    """

    features: int
    kernel_size: int
    pool_size: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps float [B, H, W, C] to float [B, (H-k+1)//p, (W-k+1)//p, features]."""
        shape = (self.kernel_size, self.kernel_size, images.shape[-1], self.features)
        kernel = self.param("kernel", glorot_uniform, shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        return conv_max_pool(images, kernel, self.pool_size) + bias.reshape(1, 1, 1, -1)


class CNN(nn.Module):
    """The classic small network: convolution, max-pool, one hidden layer, dropout, output.

    The fields are those of `ModelConfig`.
    """

    num_classes: int
    features: int
    kernel_size: int
    pool_size: int
    hidden_size: int
    dropout_rate: float

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Computes logits; `softmax` makes them probabilities, and belongs to prediction.

        Args:
            images: float [B, H, W, C], scaled to [0, 1].
            train: drops hidden units out at random; needs the rng stream `dropout`.

        Returns:
            float [B, num_classes].
        """
        x = ConvMaxPool(self.features, self.kernel_size, self.pool_size, name="conv")(images)
        x = nn.relu(x)
        x = x.reshape(len(x), -1)
        x = nn.Dense(self.hidden_size, kernel_init=glorot_uniform, name="dense")(x)
        x = nn.relu(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        return nn.Dense(self.num_classes, kernel_init=glorot_uniform, name="output")(x)


MODELS: dict[str, type[nn.Module]] = {"cnn": CNN}


def create_model(name: str, **fields: int | float) -> nn.Module:
    """Returns the architecture `name`, its fields set; raises ValueError for an unknown one."""
    if name not in MODELS:
        raise ValueError(f"model.name is {name!r}; expected one of {', '.join(sorted(MODELS))}")
    return MODELS[name](**fields)
