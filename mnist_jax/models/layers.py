"""Layers of several architectures, on arrays [C, H, W, B]: see `ops.conv_pool`."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from mnist_jax.config import LARGEST
from mnist_jax.ops import choose_lowering, conv_pool

glorot_uniform = nn.initializers.glorot_uniform()


def stage_features(features: int, depth: int) -> list[int]:
    """Doubles the features from stage to stage; ValueError if there are too many."""
    last = features << depth - 1
    if last > LARGEST:
        raise ValueError(
            f"model.features * 2**(model.depth - 1) must be at most {LARGEST}, got {last}"
        )
    return [features << stage for stage in range(depth)]


def batch_last(images: jax.Array) -> jax.Array:
    """Moves the batch last: [B, H, W, C] -> [C, H, W, B]."""
    return images.swapaxes(0, -1)


def flatten(x: jax.Array) -> jax.Array:
    """Flattens each image: [C, H, W, B] -> [C * H * W, B]."""
    return x.reshape(-1, x.shape[-1])


class Dense(nn.Module):
    """`nn.Dense` from float [D, B] to [features, B], faster on a CPU for a large D."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", glorot_uniform, (len(x), self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        return kernel.T @ x + bias[:, None]


class ConvPool(nn.Module):
    """`ops.conv_pool` with its parameters, from float [C, H, W, B] to [features, H', W', B]."""

    features: int
    kernel_size: int
    stride: int = 1
    padding: str = "VALID"
    pool: str = "max"
    pool_size: int = 1
    use_bias: bool = True
    rectify: bool = False
    lowering: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, len(x), self.features)
        zeros = nn.initializers.zeros_init()
        pool, stride, pool_size = self._pooling()
        return conv_pool(
            x,
            self.param("kernel", glorot_uniform, shape),
            self.param("bias", zeros, (self.features,)) if self.use_bias else None,
            stride=stride,
            padding=self.padding,
            pool=pool,
            pool_size=pool_size,
            rectify=self.rectify,
            lowering=self.lowering,
        )

    def chosen_lowering(self, x: jax.Array) -> str:
        """Returns the lowering for the layer's inputs."""
        shape = (self.kernel_size, self.kernel_size, len(x), self.features)
        kernel = jax.ShapeDtypeStruct(shape, x.dtype)
        _, stride, pool_size = self._pooling()
        return choose_lowering(x, kernel, stride, pool_size, self.lowering)

    def _pooling(self) -> tuple[str, int, int]:
        if self.pool == "stride":  # the convolution skips the outputs that pooling would drop
            return "max", self.stride * self.pool_size, 1
        return self.pool, self.stride, self.pool_size


def batch_norm(x: jax.Array, *, train: bool, mask: jax.Array | None, name: str) -> jax.Array:
    """Normalises each channel of x, float [C, H, W, B], then scales and shifts it.

    The submodule has the parameters `scale` and `bias` and the `batch_stats` `mean` and `var`.
    Training uses the statistics of the batch without padding, where `mask`, bool [B], is False, and
    adds a tenth of them to the running ones, which evaluation uses.

    References:
        S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
        Reducing Internal Covariate Shift", 2015, https://arxiv.org/abs/1502.03167
    """
    norm = nn.BatchNorm(
        use_running_average=not train, axis=0, momentum=0.9, epsilon=1e-5, name=name
    )
    return norm(x, mask=None if mask is None else mask.reshape(1, 1, 1, -1))


class Dropout(nn.Module):
    """`nn.Dropout`, to the bit, with a rate that may be traced.

    Training zeros units at random, and scales the others by 1 / (1 - rate).
    """

    rate: float | jax.Array

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train or (not isinstance(self.rate, jax.Array) and self.rate == 0):
            return x
        keep = 1 - self.rate
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, x.shape)
        # The cast keeps a traced float32 rate from promoting `x`. XLA divides by a constant with a
        # product, so this product has the same bits.
        return jnp.where(kept, x * (1 / jnp.asarray(keep, x.dtype)), 0)
