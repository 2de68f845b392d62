"""The kernel's derivatives and maps agree with those of XLA's own operations."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from layers import create_layer

from mnist_jax.ops import conv_pool

pytestmark = pytest.mark.usefixtures("native")

Arrays = tuple[jax.Array, jax.Array, jax.Array]  # images, kernel, bias


def reference(images, kernel, bias, *, stride, pool, pool_size, rectify):
    """Avoids `lax.reduce_window`, whose compiled derivative is wrong in some versions of JAX."""
    outputs = lax.conv_general_dilated(
        images, kernel, (stride, stride), "VALID", dimension_numbers=("CHWN", "HWIO", "CHWN")
    )
    height, width = (side // pool_size for side in outputs.shape[1:3])
    outputs = outputs[:, : height * pool_size, : width * pool_size]
    windows = outputs.reshape(len(outputs), height, pool_size, width, pool_size, -1)
    outputs = (jnp.max if pool == "max" else jnp.mean)(windows, axis=(2, 4))
    outputs += bias.reshape(-1, 1, 1, 1)
    return jax.nn.relu(outputs) if rectify else outputs


def smooth(outputs: jax.Array) -> jax.Array:
    """Computes a loss with derivatives of every order."""
    return jnp.sin(outputs).sum() / outputs.shape[-1]


def many(arrays: Arrays, axes: tuple[int | None, ...] = (0, 0, 0)) -> Arrays:
    """Stacks three variants of arrays along a new first axis."""
    return tuple(
        array if axis is None else jnp.stack([array, array[::-1] * 0.5, array * -1.5])
        for array, axis in zip(arrays, axes, strict=True)
    )  # type: ignore[return-value]


def along(f: Callable, x: Arrays, v: Arrays) -> Callable:
    return lambda t: smooth(f(*(a + t * b for a, b in zip(x, v, strict=True))))


def train(f: Callable, x: Arrays) -> tuple:
    """Runs some steps of gradient descent in a scan."""

    def step(weights, scale):
        loss, grads = jax.value_and_grad(lambda w: smooth(f(x[0] * scale, *w)))(weights)
        return jax.tree.map(lambda w, g: w - 0.1 * g, weights, grads), loss

    return lax.scan(step, x[1:], jnp.array([1.0, 0.5, 2.0]))


def vmapped(axes: tuple[int | None, ...]) -> tuple[Callable, Callable]:
    def of_values(f, x):
        return jax.vmap(f, axes)(*many(x, axes))

    def of_gradients(f, x):
        grad = jax.grad(lambda *x: smooth(f(*x)), (0, 1, 2))
        return jax.vmap(grad, axes)(*many(x, axes))

    return of_values, of_gradients


def hessian_of(f: Callable, x: Arrays, outer: Callable, inner: Callable) -> tuple:
    """Differentiates by a few pixels, kernel and bias."""

    def loss(pixels, kernel, bias):
        return smooth(f(x[0].at[0, 2, 2:4, :2].set(pixels), kernel, bias))

    return outer(inner(loss, (0, 1, 2)), (0, 1, 2))(x[0][0, 2, 2:4, :2], *x[1:])


# Each takes a function of three arrays, these arrays, and tangents.
KINDS: dict[str, Callable] = {
    "value": lambda f, x, _: f(*x),
    "grad": lambda f, x, _: jax.grad(lambda *x: smooth(f(*x)), (0, 1, 2))(*x),
    "grad of images": lambda f, x, _: jax.grad(lambda a: smooth(f(a, *x[1:])))(x[0]),
    "grad of kernel": lambda f, x, _: jax.grad(lambda k: smooth(f(x[0], k, x[2])))(x[1]),
    "grad of bias": lambda f, x, _: jax.grad(lambda b: smooth(f(*x[:2], b)))(x[2]),
    "jvp": lambda f, x, v: jax.jvp(f, x, v),
    "jvp of images": lambda f, x, v: jax.jvp(lambda a: f(a, *x[1:]), x[:1], v[:1]),
    "jvp of bias": lambda f, x, v: jax.jvp(lambda b: f(*x[:2], b), x[2:], v[2:]),
    "linearize": lambda f, x, v: (lambda out, jvp: (out, jvp(*v)))(*jax.linearize(f, *x)),
    "jacfwd": lambda f, x, _: jax.jacfwd(f, (1, 2))(*x),
    "jacrev": lambda f, x, _: jax.jacrev(lambda *x: f(*x)[:, 0, 0], (0, 1, 2))(*x),
    "hessian": lambda f, x, _: hessian_of(f, x, jax.jacfwd, jax.jacrev),
    "reverse over forward": lambda f, x, _: hessian_of(f, x, jax.jacrev, jax.jacfwd),
    "forward over reverse": lambda f, x, v: jax.jvp(KINDS["grad of"](f), x, v),
    "forward over forward": lambda f, x, v: jax.jvp(lambda *x: jax.jvp(f, x, v)[1], x, v),
    "reverse over reverse": lambda f, x, v: jax.grad(
        lambda x: sum(jnp.vdot(a, b) for a, b in zip(KINDS["grad of"](f)(*x), v, strict=True))
    )(x),
    "third order": lambda f, x, v: jax.grad(jax.grad(jax.grad(along(f, x, v))))(0.0),
    "vmap": lambda f, x, _: vmapped((0, 0, 0))[0](f, x),
    "vmap over images": lambda f, x, _: vmapped((0, None, None))[0](f, x),
    "vmap over kernel": lambda f, x, _: vmapped((None, 0, None))[0](f, x),
    "vmap of grad": lambda f, x, _: vmapped((0, 0, 0))[1](f, x),
    "vmap of grad over images": lambda f, x, _: vmapped((0, None, None))[1](f, x),
    "vmap of grad over kernel": lambda f, x, _: vmapped((None, 0, None))[1](f, x),
    "vmap of grad over bias": lambda f, x, _: vmapped((None, None, 0))[1](f, x),
    "vmap of vmap": lambda f, x, _: jax.vmap(jax.vmap(f))(*many(many(x))),
    "grad of vmap": lambda f, x, _: jax.grad(lambda x: smooth(jax.vmap(f)(*x)))(many(x)),
    "vmap of jvp": lambda f, x, v: jax.vmap(lambda x, v: jax.jvp(f, x, v))(many(x), many(v)),
    "checkpoint": lambda f, x, v: KINDS["grad"](jax.checkpoint(f), x, v),
    "scan": lambda f, x, _: train(f, x),
    "grad of scan": lambda f, x, _: jax.grad(lambda x: train(f, x)[1].sum())(x),
    "grad of": lambda f: jax.grad(lambda *x: smooth(f(*x)), (0, 1, 2)),
}
NAMES = [name for name in KINDS if name != "grad of"]
# The others are combinations of these.
QUICK = """grad, grad of images, grad of kernel, grad of bias, jvp, linearize, jacfwd, jacrev,
hessian, forward over reverse, forward over forward, reverse over reverse, vmap, vmap over images,
vmap over kernel, vmap of grad, grad of vmap, checkpoint, scan"""
QUICK = QUICK.replace("\n", " ").split(", ")


def problem(pool: str, *, rectify: bool) -> tuple[Callable, Callable, Arrays, Arrays]:
    """Returns the kernel and the reference, arrays without ties in a window, and tangents."""
    rng = np.random.default_rng(2)
    options = {"stride": 1, "pool": pool, "pool_size": 2, "rectify": rectify}
    layer = create_layer(rng, (2, 7, 6, 16), 3, 3, **options)
    x, v = (
        tuple(jnp.asarray(rng.normal(size=each.shape), jnp.float32) for each in layer[:3])
        for _ in range(2)
    )
    ours = functools.partial(conv_pool, lowering="native", **options)  # type: ignore[arg-type]
    return ours, functools.partial(reference, **options), x, v  # type: ignore[return-value]


def slow_unless(names: Iterable[str]) -> list[Any]:
    return [name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


slow = pytest.mark.slow
LAYERS = [("max", True), *(pytest.param(*x, marks=slow) for x in (("max", False), ("mean", True)))]


@pytest.mark.parametrize(("pool", "rectify"), LAYERS)
@pytest.mark.parametrize("name", slow_unless(QUICK))
def test_every_derivative_and_map_agrees_with_plain_operations(name, pool, rectify):
    ours, theirs, *arrays = problem(pool, rectify=rectify)
    expected = jax.jit(functools.partial(KINDS[name], theirs))(*arrays)
    compare(jax.jit(functools.partial(KINDS[name], ours))(*arrays), expected)


@pytest.mark.parametrize("name", slow_unless(["value", "grad", "jvp", "vmap of grad"]))
def test_derivatives_are_the_same_without_jit(name):
    ours, _, *arrays = problem("max", rectify=True)
    expected = jax.jit(functools.partial(KINDS[name], ours))(*arrays)
    compare(KINDS[name](ours, *arrays), expected)


def compare(found, expected) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for value, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (value.shape, value.dtype) == (wanted.shape, wanted.dtype)
        scale = max(1.0, float(jnp.abs(wanted).max()))
        np.testing.assert_allclose(value / scale, wanted / scale, 0, 2e-5)
