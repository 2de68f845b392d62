"""The kernel's derivatives and maps agree with those of XLA's own operations."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import some_slow
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
    return jnp.sin(outputs).sum() / outputs.shape[-1]


def many(arrays: Arrays, axes: tuple[int | None, ...] = (0, 0, 0)) -> Arrays:
    """Stacks three variants of arrays along a new first axis."""
    return tuple(
        array if axis is None else jnp.stack([array, array[::-1] * 0.5, array * -1.5])
        for array, axis in zip(arrays, axes, strict=True)
    )  # type: ignore[return-value]


def train(f: Callable, x: Arrays) -> tuple:

    def step(weights, scale):
        loss, grads = jax.value_and_grad(lambda w: smooth(f(x[0] * scale, *w)))(weights)
        return jax.tree.map(lambda w, g: w - 0.1 * g, weights, grads), loss

    return lax.scan(step, x[1:], jnp.array([1.0, 0.5, 2.0]))


def grad_of(f: Callable) -> Callable:
    return jax.grad(lambda *x: smooth(f(*x)), (0, 1, 2))


def mapped(*axes: int | None, transform: Callable = lambda f: f) -> Callable:
    return lambda f, x, _: jax.vmap(transform(f), axes)(*many(x, axes))


def hessian_of(f: Callable, x: Arrays, outer: Callable, inner: Callable) -> tuple:
    """Differentiates by a few pixels, kernel and bias."""

    def loss(pixels, kernel, bias):
        return smooth(f(x[0].at[0, 2, 2:4, :2].set(pixels), kernel, bias))

    return outer(inner(loss, (0, 1, 2)), (0, 1, 2))(x[0][0, 2, 2:4, :2], *x[1:])


# Each takes a function of three arrays, these arrays, and tangents.
KINDS: dict[str, Callable] = {
    "grad": lambda f, x, _: grad_of(f)(*x),
    "grad of images": lambda f, x, _: jax.grad(lambda a: smooth(f(a, *x[1:])))(x[0]),
    "grad of kernel": lambda f, x, _: jax.grad(lambda k: smooth(f(x[0], k, x[2])))(x[1]),
    "grad of bias": lambda f, x, _: jax.grad(lambda b: smooth(f(*x[:2], b)))(x[2]),
    "jvp": lambda f, x, v: jax.jvp(f, x, v),
    "linearize": lambda f, x, v: (lambda out, jvp: (out, jvp(*v)))(*jax.linearize(f, *x)),
    "jacfwd": lambda f, x, _: jax.jacfwd(f, (1, 2))(*x),
    "jacrev": lambda f, x, _: jax.jacrev(lambda *x: f(*x)[:, 0, 0], (0, 1, 2))(*x),
    "hessian": lambda f, x, _: hessian_of(f, x, jax.jacfwd, jax.jacrev),
    "forward over reverse": lambda f, x, v: jax.jvp(grad_of(f), x, v),
    "forward over forward": lambda f, x, v: jax.jvp(lambda *x: jax.jvp(f, x, v)[1], x, v),
    "reverse over reverse": lambda f, x, v: jax.grad(
        lambda x: sum(jnp.vdot(a, b) for a, b in zip(grad_of(f)(*x), v, strict=True))
    )(x),
    "vmap": mapped(0, 0, 0),
    "vmap over images": mapped(0, None, None),
    "vmap over kernel": mapped(None, 0, None),
    "vmap of grad": mapped(0, 0, 0, transform=grad_of),
    "grad of vmap": lambda f, x, _: jax.grad(lambda x: smooth(jax.vmap(f)(*x)))(many(x)),
    "checkpoint": lambda f, x, v: KINDS["grad"](jax.checkpoint(f), x, v),
    "scan": lambda f, x, _: train(f, x),
}


def problem(pool: str, *, rectify: bool) -> tuple[Callable, Callable, Arrays, Arrays]:
    """Returns the kernel and the reference, arrays without ties in a window, and tangents."""
    rng = np.random.default_rng(2)
    options = {"stride": 1, "pool": pool, "pool_size": 2, "rectify": rectify}
    layer = create_layer(rng, (2, 7, 6, 16), 3, 3, **options)
    x, v = (tuple(jnp.float32(rng.normal(size=a.shape)) for a in layer[:3]) for _ in range(2))
    ours = functools.partial(conv_pool, lowering="native", **options)  # type: ignore[arg-type]
    return ours, functools.partial(reference, **options), x, v  # type: ignore[return-value]


def compare(found, expected) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for value, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (value.shape, value.dtype) == (wanted.shape, wanted.dtype)
        scale = max(1.0, float(jnp.abs(wanted).max()))
        np.testing.assert_allclose(value / scale, wanted / scale, 0, 2e-5)


@pytest.mark.parametrize("layer", some_slow(["max, cut"], ["max, cut", "max", "mean, cut"]))
@pytest.mark.parametrize("name", KINDS)
def test_every_derivative_and_map_agrees_with_plain_operations(name, layer):
    pool, *rectify = layer.split(",")
    ours, theirs, *arrays = problem(pool, rectify=bool(rectify))
    expected = jax.jit(functools.partial(KINDS[name], theirs))(*arrays)
    compare(jax.jit(functools.partial(KINDS[name], ours))(*arrays), expected)


@pytest.mark.parametrize("name", some_slow(["grad", "jvp", "vmap of grad"], KINDS))
def test_derivatives_are_the_same_without_jit(name):
    ours, _, *arrays = problem("max", rectify=True)
    expected = jax.jit(functools.partial(KINDS[name], ours))(*arrays)
    compare(KINDS[name](ours, *arrays), expected)
