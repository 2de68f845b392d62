"""The kernel as a JAX function, with its derivatives."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

KERNEL_SIZES = (3, 5)
POOL_SIZES = (1, 2, 3)
LINE = 16  # numbers in a cache line; divides the batch
NONE = 255  # winner of a rectified output, as in conv_pool.h

Shapes = tuple[tuple[int, ...], ...]


class Options(NamedTuple):
    """The options of a layer; see `ops.conv_pool`."""

    stride: int
    pool: str
    pool_size: int
    rectify: bool


def fits(images: Any, kernel: Any, pool_size: int) -> bool:
    """Tells whether there is a kernel for these shapes and types.

    They must not differ between devices, as in some `shard_map`s or on a mesh with explicit axes.
    """
    if not all(map(_is_whole, (images, kernel))):
        return False
    height, width = kernel.shape[:2]
    return (
        height == width
        and height in KERNEL_SIZES
        and pool_size in POOL_SIZES
        and len(images) > 0
        and images.shape[-1] % LINE == 0
        and images.shape[-1] > 0
        and images.dtype == kernel.dtype == jnp.float32
    )


def _is_whole(array: Any) -> bool:
    kind = array if isinstance(array, jax.ShapeDtypeStruct) else jax.typeof(array)
    axes = getattr(getattr(kind, "sharding", None), "spec", ())
    manual = getattr(kind, "manual_axis_type", None)  # before jax 0.10 it was `vma`
    varying = manual.varying if manual is not None else getattr(kind, "vma", None)
    return not varying and all(axis is None for axis in axes)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def conv_pool(images: jax.Array, kernel: jax.Array, bias: jax.Array, options: Options) -> jax.Array:
    """Convolves, pools, adds the bias and rectifies.

    The library computes the outputs, also under `jax.vmap`, and their reverse-mode gradients; XLA
    computes all other derivatives, and the gradient of a mapped function.

    Images, padded, are [C, H, W, B], the kernel [k, k, C, F], the bias [F] and the result
    [F, H', W', B], all float32; `fits` must be True.
    """
    return _call("Infer", options, _output(images, kernel, options))(images, kernel, bias)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _forward(
    images: jax.Array, kernel: jax.Array, bias: jax.Array, options: Options
) -> tuple[jax.Array, jax.Array]:
    """Computes the outputs and, as uint8, their winners: the maxima's places in the windows."""
    outputs = _output(images, kernel, options)
    winners = jax.ShapeDtypeStruct(outputs.shape, jnp.uint8)
    return tuple(_call("Forward", options, (outputs, winners))(images, kernel, bias))


@functools.partial(conv_pool.defjvp, symbolic_zeros=True)
def _conv_pool_jvp(options: Options, primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    (outputs, _), (tangent, _) = _forward_jvp(options, primals, tangents)
    return outputs, tangent


@functools.partial(_forward.defjvp, symbolic_zeros=True)
def _forward_jvp(options: Options, primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    images, kernel, bias = primals
    outputs, winners = _forward(images, kernel, bias, options)
    d_images, d_kernel, d_bias = tangents
    tangent: Any = jnp.zeros_like(outputs)
    if not (_is_zero(d_kernel) and _is_zero(d_bias)):
        weights = (
            jnp.zeros_like(w) if _is_zero(d) else d for w, d in ((kernel, d_kernel), (bias, d_bias))
        )
        tangent += tangent_p.bind(images, winners, *weights, options=options)
    if not _is_zero(d_images):
        tangent += tangent_p.bind(d_images, winners, kernel, jnp.zeros_like(bias), options=options)
    return (outputs, winners), (tangent, np.zeros(winners.shape, jax.dtypes.float0))


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def _output(images: Any, kernel: Any, options: Options) -> jax.ShapeDtypeStruct:
    sides = (
        ((side - kernel.shape[0]) // options.stride + 1) // options.pool_size
        for side in images.shape[1:3]
    )
    return jax.ShapeDtypeStruct((kernel.shape[-1], *sides, images.shape[-1]), jnp.float32)


def _call(name: str, options: Options, results: Any) -> Any:
    call = jax.ffi.ffi_call(f"mnist_jax_ConvPool{name}", results, vmap_method="broadcast_all")
    return functools.partial(
        call,
        stride=np.int64(options.stride),
        pool_size=np.int64(options.pool_size),
        mean=options.pool == "mean",
        rectify=options.rectify,
    )


def _tangent(
    images: jax.Array, winners: jax.Array, kernel: jax.Array, bias: jax.Array, options: Options
) -> jax.Array:
    """Computes the outputs at the winners, linear in the images, and in kernel and bias jointly."""
    size = options.pool_size
    convolved = lax.conv_general_dilated(
        images,
        kernel,
        (options.stride, options.stride),
        "VALID",
        dimension_numbers=("CHWN", "HWIO", "CHWN"),
        precision=lax.Precision.HIGHEST,
    )
    filters, height, width, batch = winners.shape
    windows = convolved[:, : height * size, : width * size].reshape(
        filters, height, size, width, size, batch
    )
    windows = windows.transpose(2, 4, 0, 1, 3, 5).reshape(size * size, *winners.shape)
    if options.pool == "mean":
        pooled = jnp.where(winners == NONE, 0, windows.mean(axis=0))
    else:
        places = jnp.arange(size * size, dtype=jnp.uint8).reshape(-1, 1, 1, 1, 1)
        pooled = jnp.where(winners[None] == places, windows, 0).sum(axis=0)
    return pooled + jnp.where(winners == NONE, 0, bias[:, None, None, None])


def _gradient(name: str, linear: Callable[..., jax.Array]) -> Callable[..., tuple[Any, ...]]:
    """Transposes `linear`, which is `_tangent` (fixed, winners, options, *varied), by the library.

    Returns a function (fixed, winners, gradient of the outputs, options, shapes of `varied`) ->
    gradients of `varied`.
    """

    @functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
    def gradient(fixed: Any, winners: Any, grads: Any, options: Options, shapes: Shapes) -> Any:
        return tuple(_call(name, options, _results(shapes))(fixed, winners, grads))

    @gradient.defjvp
    def _(options: Options, shapes: Shapes, primals: tuple, tangents: tuple) -> Any:
        _, winners, _ = primals

        def by_xla(fixed: jax.Array, grads: jax.Array) -> tuple[jax.Array, ...]:
            tangent = functools.partial(linear, fixed, winners, options)
            return jax.linear_transpose(tangent, *_results(shapes))(grads)

        _, tangent = jax.jvp(by_xla, primals[::2], tangents[::2])
        return gradient(*primals, options, shapes), tangent

    return gradient


def _results(shapes: Shapes) -> tuple[jax.ShapeDtypeStruct, ...]:
    return tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)


_weights_gradient = _gradient(
    "WeightsGradient",
    lambda images, winners, options, *weights: _tangent(images, winners, *weights, options=options),
)
_images_gradient = _gradient(
    "ImagesGradient",
    lambda kernel, winners, options, images: _tangent(
        images, winners, kernel, jnp.zeros(kernel.shape[-1], kernel.dtype), options
    ),
)


# `_tangent` is a primitive whose two transposes, for the images, and for kernel and bias, are the
# library's. A `jax.custom_vjp` would be shorter, but would forbid forward mode.
tangent_p = Primitive("mnist_jax_conv_pool_tangent")


@functools.partial(jax.jit, static_argnames="options")
def _evaluate(images: Any, winners: Any, kernel: Any, bias: Any, *, options: Options) -> jax.Array:
    return _tangent(images, winners, kernel, bias, options)


def _tangent_jvp(primals: tuple, tangents: tuple, *, options: Options) -> tuple[Any, Any]:
    images, winners, kernel, bias = primals
    d_images, _, *d_weights = map(ad.instantiate_zeros, tangents)
    tangent = tangent_p.bind(images, winners, *d_weights, options=options)
    tangent += tangent_p.bind(d_images, winners, kernel, jnp.zeros_like(bias), options=options)
    return tangent_p.bind(*primals, options=options), tangent


def _transpose(
    grads: Any, images: Any, winners: Any, kernel: Any, bias: Any, *, options: Options
) -> tuple[Any, ...]:
    if type(grads) is ad.Zero:
        arrays = images, winners, kernel, bias
        return tuple(ad.Zero(a.aval) if ad.is_undefined_primal(a) else None for a in arrays)
    if ad.is_undefined_primal(images):
        shapes = (images.aval.shape,)
        return *_images_gradient(kernel, winners, grads, options, shapes), None, None, None
    shapes = (kernel.aval.shape, bias.aval.shape)
    return None, None, *_weights_gradient(images, winners, grads, options, shapes)


def _batch(args: tuple, dims: tuple, *, options: Options) -> tuple[jax.Array, int]:
    return jax.vmap(functools.partial(_evaluate, options=options), dims)(*args), 0


tangent_p.def_impl(_evaluate)
tangent_p.def_abstract_eval(lambda images, winners, *_, **__: images.update(shape=winners.shape))
mlir.register_lowering(tangent_p, mlir.lower_fun(_evaluate, multiple_results=False))
ad.primitive_jvps[tangent_p] = _tangent_jvp
ad.primitive_transposes[tangent_p] = _transpose
batching.primitive_batchers[tangent_p] = _batch
