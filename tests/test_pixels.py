"""Augmentations and pooling at exact pixels; steps of a network that can be computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnist_jax.augment import blank, warp
from mnist_jax.ops import conv_pool
from mnist_jax.state import TrainState
from mnist_jax.steps import batch_loss, run_ensemble_steps, train_step


def blanked(centre: tuple[int, int], size: int) -> list[str]:
    """Draws what is left of six rows of seven ones."""
    found = blank(jnp.ones((1, 6, 7, 1)), jnp.array([centre]), size)[0, ..., 0]
    return ["".join("#" if pixel else "." for pixel in row) for row in np.asarray(found)]


def test_cutout_blanks_these_pixels(subtests):
    """The centre of an even size is the pixel after the middle."""
    rows = "#######"
    for what, centre, size, expected in (
        ("nothing", (3, 3), 0, [rows] * 6),
        ("a pixel", (3, 3), 1, [*[rows] * 3, "###.###", *[rows] * 2]),
        ("four pixels", (3, 3), 2, [*[rows] * 2, *["##..###"] * 2, *[rows] * 2]),
        ("nine pixels", (3, 3), 3, [*[rows] * 2, *["##...##"] * 3, rows]),
        ("an even side", (3, 3), 4, [rows, *["#....##"] * 4, rows]),
        ("a corner, even", (0, 0), 2, [".######", *[rows] * 5]),
        ("a corner, odd", (0, 0), 3, ["..#####"] * 2 + [rows] * 4),
        ("the last corner, even", (5, 6), 4, [rows] * 3 + ["####..."] * 3),
        ("the last corner, odd", (5, 6), 3, [rows] * 4 + ["#####.."] * 2),
        ("all", (3, 3), 9, ["......."] * 6),
    ):
        with subtests.test(msg=what):
            assert blanked(centre, size) == expected


def test_a_displacement_field_is_down_then_right():
    field = jnp.zeros((2, 1, 5, 5)).at[0, 0, 2, 2].set(1.0).at[1, 0, 0, 0].set(3.0)
    images = jnp.arange(25.0).reshape(1, 5, 5, 1) / 25
    zero, one = jnp.zeros(1), jnp.ones(1)
    none = {"shift": jnp.zeros((1, 2)), "angle": zero, "factor": one, "slant": zero}
    found = warp(images, **none, field=field)
    changed = np.argwhere(np.abs(np.asarray(found - images))[0, ..., 0] > 1e-6).tolist()
    assert changed == [[0, 0], [2, 2]]
    assert found[0, 2, 2, 0] == pytest.approx(17 / 25)
    assert found[0, 0, 0, 0] == pytest.approx(3 / 25)


def test_the_gradient_of_a_maximum_of_more_than_256_goes_to_one_place():
    """A byte numbers at most 256 places of a pooling window."""
    window = np.zeros((1, 17, 17, 3), np.float32)
    for image, (row, column) in enumerate([(16, 16), (0, 1), (16, 0)]):
        window[0, row, column, image] = 1.0

    @jax.jit
    @jax.grad
    def gradient(images: jax.Array) -> jax.Array:
        return conv_pool(images, jnp.ones((1, 1, 1, 1)), pool_size=17, lowering="matmul").sum()

    np.testing.assert_array_equal(gradient(window), window)


def linear_state(classes: int) -> TrainState:
    """Returns the state of a network whose logits are the first pixels."""

    def apply_fn(variables, images, **_):
        logits = images.reshape(len(images), -1)[:, :classes] + variables["params"]["bias"]
        return (logits, {}) if _ else logits

    return TrainState(
        step=jnp.int32(0),
        apply_fn=apply_fn,
        params={"bias": jnp.zeros((1, classes))},  # type: ignore[arg-type]
        tx=None,  # type: ignore[arg-type]
        opt_state=(),
        collections={},
        average={},
    )


@pytest.mark.parametrize(("freeze", "mean"), [("", 3.0), ("norm", 1.0), ("bias", 3.0)])
def test_a_step_replaces_the_batch_statistics_that_are_not_frozen(freeze, mean):
    state, tx = linear_state(3), optax.sgd(0.1)
    apply_fn = state.apply_fn

    def apply_with_statistics(variables, images, **options):
        logits, _ = apply_fn(variables, images, **options)
        mean = variables["batch_stats"]["norm"]["mean"]
        return logits, {"batch_stats": {"norm": {"mean": mean + 2}}}

    state = state.replace(
        apply_fn=apply_with_statistics,
        tx=tx,
        opt_state=tx.init(state.params),
        collections={"batch_stats": {"norm": {"mean": jnp.ones(())}}},
    )
    batch = {"image": jnp.zeros((2, 2, 2, 1), jnp.uint8), "label": jnp.zeros(2, int)}
    keys = {role: jax.random.key(0) for role in ("dropout", "augment")}
    after, _ = train_step(state, batch | {"mask": jnp.ones(2, bool)}, keys, freeze=freeze)
    assert float(after.collections["batch_stats"]["norm"]["mean"]) == mean
    assert int(after.step) == 1


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_the_loss_mixes_images_and_targets_alike_and_leaves_padding_out(monkeypatch):
    """With smoothed labels, against NumPy; padding has its own images and labels."""
    monkeypatch.setattr(jax.random, "beta", lambda *_: jnp.float32(0.75))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 2, 2, 1)).astype(np.uint8)
    labels, mask = np.array([0, 2, 1, 1, 2, 0]), np.arange(6) < 4
    x, y = images.reshape(6, 4)[:, :3] / 255, np.eye(3)[labels]
    for values in (x, y):
        before = values.copy()
        for n in (1, 2, 3):  # the neighbour of the first is padding
            values[n] = 0.75 * before[n] + 0.25 * before[n - 1]
    targets = 0.8 * y + 0.2 / 3
    expected = -(targets * log_softmax(x)).sum(axis=1)[mask].mean()
    state = linear_state(3)
    batch = jax.tree.map(jnp.asarray, {"image": images, "label": labels, "mask": mask})
    keys = {role: jax.random.key(0) for role in ("dropout", "augment")}
    compiled = jax.jit(batch_loss, static_argnames=("mixup_alpha", "label_smoothing"))
    options = {"mixup_alpha": 0.3, "label_smoothing": 0.2}
    loss, (sums, _) = compiled(state.params, state, batch, keys, **options)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert int(sums["count"]) == 4
    assert int(sums["correct"]) == (x.argmax(axis=1) == labels)[mask].sum()
    plain, _ = compiled(state.params, state, batch, keys)
    logits = log_softmax(images.reshape(6, 4)[:, :3] / 255)
    assert float(plain) == pytest.approx(-logits[np.arange(4), labels[:4]].mean(), rel=1e-5)


def test_an_ensemble_is_measured_by_its_mean_probabilities():
    """Three networks, and a chunk of two batches, the last one padded."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, 5, 2, 2, 1)).astype(np.uint8)
    labels, mask = rng.integers(0, 3, (2, 5)), np.arange(10).reshape(2, 5) < 7
    biases = 3 * rng.normal(size=(3, 1, 3))
    logits = images.reshape(2, 5, 4)[..., :3] / 255 + biases[:, None]
    mean = np.exp(log_softmax(logits)).mean(axis=0)
    chunk = jax.tree.map(jnp.asarray, {"image": images, "label": labels, "mask": mask})
    variables = tuple({"params": {"bias": jnp.asarray(bias, jnp.float32)}} for bias in biases)
    found = run_ensemble_steps(variables, (linear_state(3).apply_fn,) * 3, chunk)
    losses = -np.log(np.take_along_axis(mean, labels[..., None], -1)[..., 0])
    np.testing.assert_allclose(found["loss_sum"], (losses * mask).sum(axis=1), rtol=1e-5)
    right = (mean.argmax(axis=-1) == labels) & mask
    assert found["correct"].tolist() == right.sum(axis=1).tolist()
    assert found["count"].tolist() == [5, 2]
