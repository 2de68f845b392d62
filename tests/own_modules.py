"""Networks and optimizers in other people's styles, as a user's own parts."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import nnx
from optax import contrib


def vectors(images: jax.Array) -> jax.Array:
    return images.reshape(len(images), -1)


class WithSetup(nn.Module):
    num_classes: int = 10

    def setup(self):
        self.layers = [nn.Dense(8), nn.Dense(8)]
        self.head = nn.Dense(self.num_classes)

    def __call__(self, images, train: bool):  # without a default
        del train
        x = vectors(images)
        for layer in self.layers:
            x = nn.relu(layer(x))
        return self.head(x)


class Normalised(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, x, train: bool = True):
        x = nn.Conv(4, (3, 3), strides=2, use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        return nn.Dense(self.num_classes)(vectors(x))


class Attentive(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, x, *, deterministic: bool):
        x = nn.Conv(8, (4, 4), strides=4, name="embedding")(x)
        x = x.reshape(len(x), -1, 8)
        x += self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        y = nn.LayerNorm()(x)
        y = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1)(y, deterministic=deterministic)
        x = nn.gelu(nn.Dense(8)(x + y))
        return nn.Dense(self.num_classes)(x.mean(axis=1))


class Noisy(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, x, train: bool = False):
        if train:
            x += 0.1 * jax.random.normal(self.make_rng("noise"), x.shape)
        x = nn.relu(nn.Dense(16)(vectors(x)))
        return nn.Dense(self.num_classes)(nn.Dropout(0.2, deterministic=not train)(x))


class Shared(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, x, train=False):
        del train
        x = nn.Dense(8, name="first")(vectors(x))
        again = nn.Dense(8, name="again")
        x = nn.tanh(again(nn.tanh(again(x))))
        return nn.Dense(self.num_classes, name="head")(x)


class Counting(nn.Module):
    """Keeps the mean of its features and the number of batches in its own collections."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(8)(vectors(x))
        mean = self.variable("ema_stats", "mean", jnp.zeros, (8,))
        calls = self.variable("counter", "calls", jnp.zeros, (), jnp.int32)
        if train and not self.is_initializing():
            mean.value = 0.9 * mean.value + 0.1 * jax.lax.stop_gradient(x.mean(axis=0))
            calls.value += 1
        return nn.Dense(self.num_classes)(nn.relu(x - mean.value[None]))


class Plain(nn.Module):
    """Has no training flag, and a matrix without a layer."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, inputs):
        x = nn.relu(nn.Conv(4, kernel_size=(5, 5), padding="VALID")(inputs))
        x = nn.max_pool(x, (2, 2), strides=(2, 2)).reshape((inputs.shape[0], -1))
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[1], 8))
        return nn.Dense(self.num_classes)(x @ kernel)


def sequential(num_classes: int = 10) -> nn.Module:
    layers = [nn.Conv(4, (3, 3), 2), nn.relu, nn.Conv(4, (3, 3), 2), nn.relu, vectors]
    return nn.Sequential([*layers, nn.Dense(num_classes)])


class Net(nnx.Module):
    def __init__(self, num_classes, *, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(4, num_classes, rngs=rngs)

    def __call__(self, x, train=False):
        x = nnx.relu(self.norm(self.conv(x), use_running_average=not train))
        return self.head(self.dropout(x.mean(axis=(1, 2)), deterministic=not train))


class FromNNX(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, x, train: bool = False):
        def create(rngs):  # one stream for all: NNX asks for "dropout" by name
            return Net(self.num_classes, rngs=nnx.Rngs(rngs.params()))

        return nnx.bridge.to_linen(create, name="net")(x, train=train)


class Keyed(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, x, train: bool = False):
        key = self.variable("noise", "key", lambda: jax.random.key(0))
        if train:
            key.value, own = jax.random.split(key.value)
            x += 0.01 * jax.random.normal(own, x.shape)
        return nn.Dense(self.num_classes, param_dtype=jnp.bfloat16)(vectors(x))


# From the number of classes to a module of images -> logits.
MODULES: dict[str, Callable[..., nn.Module]] = {
    "setup": WithSetup,
    "batch norm": Normalised,
    "attention": Attentive,
    "two rngs": Noisy,
    "shared": Shared,
    "counter": Counting,
    "no train": Plain,
    "sequential": sequential,
    "nnx": FromNNX,
    "key": Keyed,
}


class TwoInputs(nn.Module):
    @nn.compact
    def __call__(self, images, labels):
        return nn.Dense(10)(vectors(images)) + labels


class TupleOfInputs(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        images, extra = inputs
        return nn.Dense(10)(vectors(images)) + extra


class TupleOfOutputs(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = nn.Dense(8)(vectors(images))
        return nn.Dense(10)(x), x


class Scalar(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(10)(vectors(images)).mean()


class FieldTrain(nn.Module):
    train: bool = True

    @nn.compact
    def __call__(self, images):
        x = nn.Dropout(0.5, deterministic=not self.train)(vectors(images))
        return nn.Dense(10)(x)


# None of these can be trained to tell ten classes.
REFUSED: dict[str, Callable[[], nn.Module]] = {
    "two inputs": TwoInputs,
    "a tuple of inputs": TupleOfInputs,
    "a tuple of outputs": TupleOfOutputs,
    "seven classes": functools.partial(Plain, 7),
    "a scalar": Scalar,
    "a field": FieldTrain,
}


def clipped_lion(num_steps: int) -> optax.GradientTransformation:
    rate = optax.cosine_decay_schedule(3e-4, num_steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.lion(rate))


def by_rank(params: Any) -> Any:
    return jax.tree.map(lambda leaf: "matrix" if leaf.ndim > 1 else "vector", params)


def noise() -> optax.GradientTransformation:
    """Adds noise to the gradients, by a typed key in its state."""

    def init(params: Any) -> jax.Array:
        del params
        return jax.random.key(0)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        key, own = jax.random.split(state)
        return jax.tree.map(lambda x: x + 1e-3 * jax.random.normal(own, x.shape), updates), key

    return optax.GradientTransformation(init, update)


# Each makes an optimizer; `clipped_lion` is itself a function num_steps -> optimizer.
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "momentum": lambda: optax.sgd(0.05, momentum=0.9),
    "adam": lambda: optax.adam(1e-3),
    "every second step": lambda: optax.MultiSteps(optax.adam(1e-3), 2),
    "injected": lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
    "plateau": lambda: optax.chain(optax.adam(1e-3), contrib.reduce_on_plateau(patience=3)),
    "polyak": lambda: optax.polyak_sgd(max_learning_rate=0.1),
    "lbfgs": lambda: optax.lbfgs(memory_size=3),
    "lion": lambda: clipped_lion,
    "noise": lambda: optax.chain(noise(), optax.sgd(0.05)),
    "partition": lambda: optax.partition(
        {"matrix": optax.adam(1e-3), "vector": optax.sgd(0.1)}, by_rank
    ),
    "schedule free": lambda: contrib.schedule_free_adamw(1e-3),
}
