"""The steps against an independent computation in NumPy, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import create_reference

from mnist_jax import rng
from mnist_jax.config import OptimizerConfig
from mnist_jax.metrics import mean_metrics
from mnist_jax.optimizer import create_optimizer
from mnist_jax.state import create_train_state
from mnist_jax.steps import batch_loss, predict_step, run_eval_steps, train_step

RNGS = {role: rng.stream(0, role) for role in ("dropout", "augment")}
# Compiled as a whole; op by op they are hundreds of programs.
OPTIONS = ["ema_decay", "label_smoothing", "mixup_alpha", "precision", "rotation"]
compiled_step = jax.jit(train_step, static_argnames=OPTIONS)
loss_and_grads = jax.jit(jax.value_and_grad(batch_loss, has_aux=True), static_argnames=OPTIONS)


def create_state(learning_rate=1e-3, averaged=False, **fields):
    tx = create_optimizer(**vars(OptimizerConfig(learning_rate=learning_rate)), num_steps=1)
    model, key = create_reference(**fields), jax.random.key(0, impl="rbg")  # quick to compile
    create = functools.partial(create_train_state, model, tx, image_shape=(28, 28, 1))
    return jax.jit(functools.partial(create, averaged=averaged))(key)


def create_batch(mnist, indices):
    images, labels = (x[indices] for x in mnist["train"])
    batch = {"image": images, "label": labels, "mask": np.ones(len(indices), bool)}
    return jax.tree.map(jnp.asarray, batch)


def numpy_loss_and_grads(params, images, labels):
    """Computes the network's forward and backward pass without dropout, in NumPy."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x = images.astype(np.float64) / 255
    n, classes = len(x), np.arange(10)
    windows = np.lib.stride_tricks.sliding_window_view(x[..., 0], (3, 3), axis=(1, 2))
    conv = np.einsum("nijkl,klf->nijf", windows, p["conv1"]["kernel"][:, :, 0])
    blocks = conv.reshape(n, 13, 2, 13, 2, 32).transpose(0, 1, 3, 5, 2, 4).reshape(n, 13, 13, 32, 4)
    winner = blocks.argmax(axis=-1)
    pooled = blocks.max(axis=-1) + p["conv1"]["bias"]
    flat = np.maximum(pooled, 0).transpose(0, 3, 1, 2).reshape(n, -1)  # channel by channel
    hidden = flat @ p["dense"]["kernel"] + p["dense"]["bias"]
    active = np.maximum(hidden, 0)
    logits = active @ p["output"]["kernel"] + p["output"]["bias"]
    log_probs = logits - logits.max(axis=1, keepdims=True)
    log_probs -= np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
    loss = -log_probs[np.arange(n), labels].mean()

    d_logits = (np.exp(log_probs) - (labels[:, None] == classes)) / n
    d_hidden = (d_logits @ p["output"]["kernel"].T) * (hidden > 0)
    d_flat = (d_hidden @ p["dense"]["kernel"].T).reshape(n, 32, 13, 13)
    d_pooled = d_flat.transpose(0, 2, 3, 1) * (pooled > 0)
    d_blocks = d_pooled[..., None] * (winner[..., None] == np.arange(4))
    d_conv = d_blocks.reshape(n, 13, 13, 32, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(conv.shape)
    grads = {
        "conv1": {
            "kernel": np.einsum("nijkl,nijf->klf", windows, d_conv)[:, :, None],
            "bias": d_pooled.sum(axis=(0, 1, 2)),
        },
        "dense": {"kernel": flat.T @ d_hidden, "bias": d_hidden.sum(axis=0)},
        "output": {"kernel": active.T @ d_logits, "bias": d_logits.sum(axis=0)},
    }
    return loss, grads, logits


def test_loss_and_gradients_equal_numpy_in_float64(mnist):
    state = create_state(dropout_rate=0.0)
    batch = create_batch(mnist, np.arange(32))
    loss, grads, _ = numpy_loss_and_grads(state.params, *(x[:32] for x in mnist["train"]))
    (found, (sums, _)), found_grads = loss_and_grads(state.params, state, batch, RNGS)
    assert found == pytest.approx(loss, rel=1e-5)
    assert mean_metrics([sums])["loss"] == pytest.approx(loss, rel=1e-5)
    for expected, ours in zip(*map(jax.tree.leaves, (grads, found_grads)), strict=True):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("lowering", ["matmul", pytest.param("xla", marks=pytest.mark.slow)])
def test_loss_and_gradients_in_bfloat16_are_close_to_numpy(mnist, lowering):
    """Rounding can turn a rectifier on or off, so only norms are compared."""
    state = create_state(dropout_rate=0.0, lowering=lowering)
    batch = create_batch(mnist, np.arange(128))
    loss, grads, _ = numpy_loss_and_grads(state.params, *(x[:128] for x in mnist["train"]))
    (found, _), found_grads = loss_and_grads(state.params, state, batch, RNGS, precision="bfloat16")
    assert found == pytest.approx(loss, rel=5e-3)
    for expected, ours in zip(*map(jax.tree.leaves, (grads, found_grads)), strict=True):
        assert ours.dtype == jnp.float32
        assert np.linalg.norm(ours - expected) < 0.1 * np.linalg.norm(expected)


def test_the_first_update_agrees_with_adam(mnist):
    state = create_state(dropout_rate=0.0)
    before = jax.tree.map(np.asarray, state.params)
    batch = create_batch(mnist, np.arange(32))
    after, _ = compiled_step(state, batch, RNGS)
    _, grads, _ = numpy_loss_and_grads(before, *(x[:32] for x in mnist["train"]))
    for old, grad, new in zip(*map(jax.tree.leaves, (before, grads, after.params)), strict=True):
        # In the first step both means are the gradient itself, so its length is the learning rate.
        sure = np.abs(grad) > 1e-5
        expected = old - 1e-3 * grad / (np.abs(grad) + 1e-7)
        np.testing.assert_allclose(np.asarray(new)[sure], expected[sure], rtol=1e-3, atol=2e-6)
    assert after.step == 1
    assert jnp.asarray(after.step).dtype == jnp.int32


def test_evaluation_over_a_ragged_last_batch_equals_numpy(mnist):
    state = create_state()
    images, labels = (x[:100] for x in mnist["test"])
    loss, _, logits = numpy_loss_and_grads(state.params, images, labels)
    padded = np.arange(128) % 100
    batch = {"image": images[padded], "label": labels[padded], "mask": np.arange(128) < 100}
    chunk = jax.tree.map(lambda x: jnp.asarray(x).reshape(2, 64, *x.shape[1:]), batch)
    metrics = mean_metrics([run_eval_steps(state.eval_variables, state.apply_fn, chunk)])
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["accuracy"] == (logits.argmax(axis=1) == labels).mean()
    images = chunk["image"].reshape(-1, 28, 28, 1)
    probabilities, classes = predict_step(state.eval_variables, state.apply_fn, images)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities[:100], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(classes[:100], logits.argmax(axis=1))


def test_the_rate_factor_multiplies_the_update(mnist):
    state, batch = create_state(), create_batch(mnist, np.arange(32))
    states = [state, *(compiled_step(state, batch, RNGS, factor)[0] for factor in (1.0, 0.5, 0.0))]
    leaves = (jax.tree.leaves(each.params) for each in states)
    for old, whole, half, none in zip(*leaves, strict=True):
        np.testing.assert_allclose(half - old, (whole - old) / 2, atol=1e-7)
        np.testing.assert_array_equal(old, none)


def test_evaluation_uses_the_running_mean(mnist):
    state, batch = create_state(averaged=True), create_batch(mnist, np.arange(32))
    expected = np.asarray(state.params["output"]["bias"])
    for step in range(1, 8):
        state, _ = compiled_step(state, batch, RNGS, ema_decay=0.4)
        decay = min(0.4, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * np.asarray(state.params["output"]["bias"])
        found = np.asarray(state.eval_variables["params"]["output"]["bias"])
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert not np.array_equal(found, np.asarray(state.params["output"]["bias"]))


@pytest.mark.parametrize(
    ("role", "options"),
    [("dropout", {}), ("augment", {"rotation": 15.0}), ("augment", {"mixup_alpha": 1.0})],
    ids=["dropout", "rotation", "mixup"],
)
def test_random_numbers_depend_on_the_step_and_on_the_keys_of_their_role(mnist, role, options):
    state = create_state(dropout_rate=0.5 if role == "dropout" else 0.0)
    batch = create_batch(mnist, np.arange(64))

    def loss(step, seed=0, other_seed=0, **options):
        keys = {one: rng.stream(seed if one == role else other_seed, one) for one in RNGS}
        _, sums = compiled_step(state.replace(step=jnp.int32(step)), batch, keys, **options)
        return float(sums["loss_sum"])

    found = loss(7, **options)
    assert found == loss(7, other_seed=1, **options)
    assert found not in (loss(8, **options), loss(7, seed=1, **options))
    assert found != loss(7) or not options
