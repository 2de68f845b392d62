"""Linen modules, images -> logits, and the registry of architectures."""

import jax
from flax import linen as nn

from mnist_jax.ops import conv_pool

glorot_uniform = nn.initializers.glorot_uniform()


class ConvPool(nn.Module):
    """A convolution with a bias, the pooling behind it, and the rectifier.

    Bias and rectifier come after the pooling: for a maximum that is the same, on fewer numbers.
    """

    features: int
    kernel_size: int
    pool_size: int
    lowering: str

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps float [B, H, W, C] to float [B, (H-k+1)//p, (W-k+1)//p, features]."""
        shape = (self.kernel_size, self.kernel_size, images.shape[-1], self.features)
        kernel = self.param("kernel", glorot_uniform, shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        # Between the two swaps the batch is last. Two layers in a row swap nothing: XLA sees it.
        x = conv_pool(
            images.swapaxes(0, -1), kernel, pool_size=self.pool_size, lowering=self.lowering
        )
        return nn.relu(x + bias.reshape(-1, 1, 1, 1)).swapaxes(0, -1)


def flatten(images: jax.Array) -> jax.Array:
    """Lines up what belongs to an image: [B, H, W, C] -> [B, C * H * W], a channel after another.

    In the order of `conv_pool`'s result nothing moves in memory.
    """
    return images.swapaxes(0, -1).reshape(-1, images.shape[0]).T


class CNN(nn.Module):
    """The classic small network: convolution, max-pool, one hidden layer, dropout, output.

    With a depth of 2 or more, further convolutions follow the first one, each with a max-pool and
    with twice the filters. The fields are those of `ModelConfig`, but for its name.
    """

    num_classes: int
    features: int
    depth: int
    kernel_size: int
    pool_size: int
    hidden_size: int
    dropout_rate: float
    lowering: str

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Computes logits; `softmax` makes them probabilities, and belongs to prediction.

        Args:
            images: float [B, H, W, C], scaled to [0, 1].
            train: drops hidden units out at random; needs the rng stream `dropout`.

        Returns:
            float [B, num_classes].
        """
        x = images
        for layer in range(self.depth):
            features = self.features * 2**layer
            conv = ConvPool(
                features, self.kernel_size, self.pool_size, self.lowering, name=f"conv{layer + 1}"
            )
            x = conv(x)
        x = flatten(x)
        x = nn.Dense(self.hidden_size, kernel_init=glorot_uniform, name="dense")(x)
        x = nn.relu(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        return nn.Dense(self.num_classes, kernel_init=glorot_uniform, name="output")(x)


MODELS: dict[str, type[nn.Module]] = {"cnn": CNN}


def create_model(name: str, **fields: int | float | str) -> nn.Module:
    """Returns the architecture `name`, its fields set; raises ValueError for an unknown one."""
    if name not in MODELS:
        raise ValueError(f"model.name is {name!r}; expected one of {', '.join(sorted(MODELS))}")
    return MODELS[name](**fields)
