"""A vision transformer: the image is cut into patches, and each is a token.

Patches are squares of `kernel_size` pixels a side, zero-padded. A token has `features` numbers, a
block's hidden layer `hidden_size` units, an attention head about 16 features: ViT's 64 would leave
small networks a single head. The mean of all tokens is classified.

References:
    A. Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at
    Scale", 2021, https://arxiv.org/abs/2010.11929
    L. Beyer, X. Zhai and A. Kolesnikov, "Better plain ViT baselines for ImageNet-1k", 2022,
    https://arxiv.org/abs/2205.01580 (the mean of all tokens).
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from mnist_jax.models import layers


class Position(nn.Module):
    """Adds a learned vector to each token, float [B, T, D]: attention ignores positions."""

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        init = nn.initializers.normal(0.02)
        return tokens + self.param("embedding", init, (1, *tokens.shape[1:]))


class Attention(nn.Module):
    """Computes softmax(q k' / sqrt(D / heads)) v in each head, from and to float [B, T, D]."""

    heads: int

    def __call__(self, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        shape = (*query.shape[:2], self.heads, -1)
        query, key, value = (x.reshape(shape) for x in (query, key, value))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
        mixed = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores), value)
        return mixed.reshape(*shape[:2], -1)


class Block(nn.Module):
    """Attention, then a hidden layer for each token; both add to their input, [B, T, D]."""

    hidden_size: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        width = tokens.shape[-1]
        heads = next(n for n in range(max(1, width // 16), 0, -1) if width % n == 0)

        dense = functools.partial(nn.Dense, kernel_init=layers.glorot_uniform)
        x = nn.LayerNorm(name="norm1")(tokens)
        query, key, value = (dense(width, name=name)(x) for name in ("query", "key", "value"))
        x = Attention(heads, name="attention")(query, key, value)
        tokens += dense(width, name="projection")(x)
        x = nn.LayerNorm(name="norm2")(tokens)
        x = nn.gelu(dense(self.hidden_size, name="dense1")(x))
        return tokens + dense(width, name="dense2")(x)


class Model(nn.Module):
    """Images -> logits."""

    num_classes: int
    features: int
    depth: int
    kernel_size: int
    hidden_size: int
    dropout_rate: float | jax.Array
    lowering: str

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        del mask  # images do not interact
        # The stride is the filter's size: one patch at a time.
        patches = layers.ConvPool(
            self.features,
            self.kernel_size,
            stride=self.kernel_size,
            padding="SAME",
            lowering=self.lowering,
            name="patches",
        )(layers.batch_last(images))
        tokens = patches.reshape(self.features, -1, images.shape[0]).T
        tokens = Position(name="position")(tokens)
        for number in range(1, self.depth + 1):
            tokens = Block(self.hidden_size, name=f"block{number}")(tokens)
        x = nn.LayerNorm(name="norm")(tokens).mean(axis=1)
        x = layers.Dropout(self.dropout_rate, name="dropout")(x, train=train)
        return nn.Dense(self.num_classes, kernel_init=layers.glorot_uniform, name="output")(x)
