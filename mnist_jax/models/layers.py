"""What several architectures are made of.

Between convolutions an array is [C, H, W, B], with the batch last: see `ops.conv_pool`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from mnist_jax.config import LARGEST
from mnist_jax.ops import choose_lowering, conv_pool

glorot_uniform = nn.initializers.glorot_uniform()


def stage_features(features: int, depth: int) -> list[int]:
    """Returns the features of each stage, twice those of the one before; ValueError if too many."""
    if features << depth - 1 > LARGEST:
        raise ValueError(
            f"model.features * 2**(model.depth - 1) must be at most {LARGEST}, "
            f"got {features << depth - 1}"
        )
    return [features << stage for stage in range(depth)]


def batch_last(images: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [C, H, W, B]."""
    return images.swapaxes(0, -1)


def flatten(x: jax.Array) -> jax.Array:
    """Lines up an image's numbers: [C, H, W, B] -> [C * H * W, B]; in memory nothing moves."""
    return x.reshape(-1, x.shape[-1])


class Dense(nn.Module):
    """`nn.Dense` with the batch last, for a large D: on a CPU, `kernel.T @ x` costs less."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps float [D, B] to float [features, B]."""
        kernel = self.param("kernel", glorot_uniform, (len(x), self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        return kernel.T @ x + bias[:, None]


class ConvPool(nn.Module):
    """A convolution, the pooling behind it, a bias and a rectifier: see `ops.conv_pool`."""

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
        """Maps float [C, H, W, B] to float [features, H', W', B]; the sizes are `conv_pool`'s."""
        shape = (self.kernel_size, self.kernel_size, len(x), self.features)
        kernel = self.param("kernel", glorot_uniform, shape)
        zeros = nn.initializers.zeros_init()
        pool, stride, pool_size = self._pooling()
        return conv_pool(
            x,
            kernel,
            self.param("bias", zeros, (self.features,)) if self.use_bias else None,
            stride=stride,
            padding=self.padding,
            pool=pool,
            pool_size=pool_size,
            rectify=self.rectify,
            lowering=self.lowering,
        )

    def chosen_lowering(self, x: jax.Array) -> str:
        """Returns the lowering that computes this layer here, for inputs as in `__call__`."""
        shape = (self.kernel_size, self.kernel_size, len(x), self.features)
        kernel = jax.ShapeDtypeStruct(shape, x.dtype)
        _, stride, pool_size = self._pooling()
        return choose_lowering(x, kernel, stride, pool_size, self.lowering)

    def _pooling(self) -> tuple[str, int, int]:
        """Returns the pooling, the stride and the pooling's size as `conv_pool` has them."""
        if self.pool == "stride":  # the convolution leaves out at once what pooling would drop
            return "max", self.stride * self.pool_size, 1
        return self.pool, self.stride, self.pool_size


def batch_norm(x: jax.Array, *, train: bool, mask: jax.Array | None, name: str) -> jax.Array:
    """Makes the submodule `name`: normalises each channel, then scales and shifts it.

    In training the mean and the variance are those of the batch, padding left out, and a tenth of
    them goes into the running ones, which evaluation uses.

    Args:
        x: float [C, H, W, B].
        train: see above.
        mask: bool [B], False for padding; None: there is none.
        name: of the submodule, with the parameters `scale` and `bias`, and in the collection
            `batch_stats` the running `mean` and `var`.

    References:
        S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
        Reducing Internal Covariate Shift", 2015, https://arxiv.org/abs/1502.03167
    """
    norm = nn.BatchNorm(
        use_running_average=not train, axis=0, momentum=0.9, epsilon=1e-5, name=name
    )
    return norm(x, mask=None if mask is None else mask.reshape(1, 1, 1, -1))


class Dropout(nn.Module):
    """`nn.Dropout`, to the bit, whose rate may also be traced: one program for many rates."""

    rate: float | jax.Array

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """In training, silences units at random and scales the others by 1 / (1 - rate)."""
        if not train or (not isinstance(self.rate, jax.Array) and self.rate == 0):
            return x
        keep = 1 - self.rate
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, x.shape)
        # A traced rate is float32, and would make float32 of all that comes after it. XLA makes a
        # product of a division by a constant: so the bits are those of a constant rate.
        return jnp.where(kept, x * (1 / jnp.asarray(keep, x.dtype)), 0)
