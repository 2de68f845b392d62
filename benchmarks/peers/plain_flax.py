"""Flax as in its own MNIST example: a Python loop over a jitted step."""

import flax
import jax
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from protocol import Data, Peer, serve

glorot_uniform = nn.initializers.glorot_uniform()


class CNN(nn.Module):
    """The reference network."""

    @nn.compact
    def __call__(self, x, train):
        """Maps images to logits."""
        x = nn.Conv(32, (3, 3), padding="VALID", kernel_init=glorot_uniform)(x)
        x = nn.max_pool(x, (2, 2), strides=(2, 2))  # before the rectifier: equal, and faster
        x = nn.relu(x)
        x = x.reshape((len(x), -1))
        x = nn.Dense(64, kernel_init=glorot_uniform)(x)
        x = nn.relu(x)
        x = nn.Dropout(0.2, deterministic=not train)(x)
        return nn.Dense(10, kernel_init=glorot_uniform)(x)


@jax.jit
def train_step(state, images, labels, dropout_rng):
    """Makes one update; returns the state and the loss."""
    dropout_key = jax.random.fold_in(dropout_rng, state.step)

    def loss_fn(params):
        logits = state.apply_fn(
            {"params": params}, images, train=True, rngs={"dropout": dropout_key}
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    return state.apply_gradients(grads=grads), loss


@jax.jit
def eval_step(state, images, labels):
    """Counts the correct predictions."""
    logits = state.apply_fn({"params": state.params}, images, train=False)
    return (logits.argmax(axis=-1) == labels).sum()


def create(data: Data, seed: int) -> Peer:
    """Builds the training state."""
    rng = np.random.default_rng(seed)
    init_key, dropout_rng = jax.random.split(jax.random.key(seed))
    splits = {
        name: (images.astype(np.float32) / 255, labels) for name, (images, labels) in data.items()
    }
    model = CNN()
    params = model.init(init_key, splits["train"][0][:1], train=False)["params"]
    tx = optax.adam(1e-3, eps=1e-7)
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    def batches(split, order):
        images, labels = splits[split]
        for start in range(0, len(order), 128):
            index = order[start : start + 128]
            yield images[index], labels[index]

    def epoch():
        nonlocal state
        losses = []
        for batch in batches("train", rng.permutation(len(splits["train"][1]))):
            state, loss = train_step(state, *batch, dropout_rng)
            losses.append(loss)
        jax.block_until_ready(losses)
        return {"steps": len(losses), "val_accuracy": accuracy("validation")}

    def accuracy(split):
        count = len(splits[split][1])
        return sum(int(eval_step(state, *b)) for b in batches(split, np.arange(count))) / count

    return epoch, lambda: accuracy("test")


if __name__ == "__main__":
    serve(create, jax, flax)
