"""Translation to ONNX: each primitive, the content of a file, and refusals."""

import collections
import json
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from exports import NETWORKS, export_network, exported, network
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from mnist_jax.exporting.onnx_file import IR_VERSION, OPSET, from_onnx, to_onnx
from mnist_jax.exporting.onnx_graph import BROADCASTING, ELEMENTWISE, INLINED, OTHERS, REWRITTEN

SHAPE = (4, 6, 2)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), dtype=np.uint8)
KERNEL = jnp.asarray(np.random.default_rng(0).standard_normal((3, 3, 2, 4), np.float32))


def run(data: bytes, images: np.ndarray) -> Any:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"images": images})[0]


def scaled(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Returns the function for pixels from -1 to 1."""
    return lambda images: function(images.astype(jnp.float32) / 128 - 1)


def assert_same(function: Callable[[Any], Any], convert: Callable[..., Any] = jnp.asarray) -> None:
    data = to_onnx(function, SHAPE, {})
    for count in (1, 3):
        expected, computed = function(convert(IMAGES[:count])), run(data, IMAGES[:count])
        np.testing.assert_allclose(computed, np.asarray(expected), rtol=1e-5, atol=1e-5)


def test_onnx_files_are_valid_and_declare_their_input_and_output(subtests):
    def described(value: onnx.ValueInfoProto) -> tuple[str, int, list[int | str]]:
        array = value.type.tensor_type
        sizes = [dim.dim_param or dim.dim_value for dim in array.shape.dim]
        return value.name, array.elem_type, sizes

    for name, (shape, options) in NETWORKS.items():
        with subtests.test(msg=name):
            model = onnx.load_from_string(exported(name, "onnx"))
            onnx.checker.check_model(model, full_check=True)
            assert (model.ir_version, model.opset_import[0].version) == (IR_VERSION, OPSET)
            (taken,), (given,) = model.graph.input, model.graph.output
            classes = options.get("num_classes", 5)
            assert described(taken) == ("images", onnx.TensorProto.UINT8, ["N", *shape])
            assert described(given) == ("probabilities", onnx.TensorProto.FLOAT, ["N", classes])


def test_an_onnx_file_holds_the_labels_and_the_description():
    labels = ["null", "eins", "zwei", "drei", "fünf"]
    data = export_network("mlp", "onnx", labels)
    props = {prop.key: prop.value for prop in onnx.load_from_string(data).metadata_props}
    assert props.pop("description") == "cnn trained on mnist"
    assert json.loads(props.pop("labels")) == labels
    assert not props


def test_images_are_transposed_once_and_convolutions_are_convolutions(subtests):
    for name in ("cnn", "deep_cnn", "resnet, normalised"):
        with subtests.test(msg=name):
            nodes = onnx.load_from_string(exported(name, "onnx")).graph.node
            counts = collections.Counter(node.op_type for node in nodes)
            axes = [leaf.ndim for leaf in jax.tree.leaves(network(name)[1])]
            assert counts["Conv"] == axes.count(4) > 0
            # Where the first dense layer has the batch last, too, its vectors turn there and back.
            assert counts["Transpose"] == (1 if name.startswith("resnet") else 3)
            assert counts["MatMul"] == axes.count(2)


def test_no_constant_is_held_twice():
    constants = onnx.load_from_string(exported("transformer", "onnx")).graph.initializer
    contents = [(array.data_type, *array.dims, array.raw_data) for array in constants]
    assert len(set(contents)) == len(contents) > 0


def test_a_new_axis_of_size_one_needs_no_transpose():
    model = onnx.load_from_string(to_onnx(scaled(lambda x: nn.softmax(x, axis=1)), SHAPE, {}))
    assert "Transpose" not in {node.op_type for node in model.graph.node}


def with_class_token(x: jax.Array) -> jax.Array:
    """Puts values that depend only on the number of images before values of the images."""
    token = jnp.broadcast_to(jnp.arange(12.0).reshape(1, 1, 12), (x.shape[0], 1, 12))
    tokens = jnp.concatenate([token, x.reshape(-1, 4, 12)], axis=1)
    return lax.slice(tokens, (0, 0, 1), (x.shape[0], 5, 12), (1, 2, 1))


def pool(x: jax.Array, *args: Any) -> jax.Array:
    return lax.reduce_window(x, *args)


def convolved(x: jax.Array, dimensions: tuple[str, str, str], **options: Any) -> jax.Array:
    padding = ((1, 0), (2, 1))
    options = {"window_strides": (1, 2), "padding": padding} | options
    return lax.conv_general_dilated(x, KERNEL, dimension_numbers=dimensions, **options)


@jax.custom_vjp
def doubled(x: jax.Array) -> jax.Array:
    return x + x


doubled.defvjp(lambda x: (doubled(x), None), lambda _, grad: (2 * grad,))

FUNCTIONS = {
    "absolute, minus": lambda x: -jnp.abs(x),
    "division, error function": lambda x: lax.erf(x) / (2 + x),
    "minimum": lambda x: jnp.minimum(x, 0.3) - jnp.maximum(x, 0.1),
    "comparisons": lambda x: jnp.where(x > 0, x, 1) + jnp.where(x < 0.5, x, 2),
    "equality": lambda x: jnp.where(x == x, x, 3.0),
    "more comparisons": lambda x: jnp.where(x >= 0, x, 1) + jnp.where(x <= 0.5, x, 2),
    "roots and logarithms": lambda x: jnp.sqrt(x + 2) + lax.rsqrt(x + 2) + jnp.log(x + 2),
    "powers": lambda x: x**3 - x**2 + jnp.square(x),
    "activations": lambda x: nn.sigmoid(x) + nn.gelu(x) + nn.tanh(x) + nn.relu(x) + nn.silu(x),
    "softmax": lambda x: nn.softmax(x, axis=1),
    "a function with gradients of its own": doubled,
    "operands in one order": lambda x: (x.swapaxes(0, 3) + x.swapaxes(0, 3)).swapaxes(0, 3),
    "operands in two orders": lambda x: x.swapaxes(1, 2) + x.reshape(-1, 6, 4, 2),
    "a constant in other order": lambda x: x.swapaxes(1, 3) * jnp.arange(24.0).reshape(1, 1, 6, 4),
    "reductions": lambda x: x.max(axis=(1, 3)) + x.sum(axis=(1, 3)) * x.min(axis=(1, 3)),
    "a sum of what is broadcast": lambda x: jnp.broadcast_to(x[:, :1], x.shape).sum(axis=1),
    "a constant for each image": lambda x: jnp.broadcast_to(jnp.arange(2.0), x.shape) * x,
    "only a constant": lambda x: jnp.broadcast_to(jnp.arange(2.0), (*x.shape[:1], 2)) + 1,
    "a class token": with_class_token,
    "squeezed": lambda x: lax.slice_in_dim(x, 1, 2, axis=1).squeeze(1),
    "padded": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 0), (3, 0)), constant_values=0.5),
    "cropped by padding": lambda x: lax.pad(x, 0.0, [(0, 0, 0), (-1, 2, 0), (1, -2, 0), (0, 0, 0)]),
    "largest of windows": lambda x: pool(
        x, -jnp.inf, lax.max, (1, 2, 3, 1), (1, 1, 2, 1), ((0, 0), (0, 1), (1, 1), (0, 0))
    ),
    "sum of windows": lambda x: pool(
        x.swapaxes(0, 3), 0.0, lax.add, (1, 2, 3, 1), (1, 2, 1, 1), ((0, 0), (0, 1), (1, 1), (0, 0))
    ).swapaxes(0, 3),
    "convolution, batch first": lambda x: convolved(x, ("NHWC", "HWIO", "NCHW")),
    "convolution, batch last": lambda x: convolved(x.swapaxes(0, 3), ("CHWN", "HWIO", "NHWC")),
    "convolution, dilated": lambda x: convolved(x, ("NHWC", "HWIO", "NHWC"), rhs_dilation=(2, 1)),
    "convolution, by channel": lambda x: lax.conv_general_dilated(
        x,
        KERNEL[:, :, :1],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=2,
    ),
    "product with a matrix": lambda x: x @ jnp.ones((2, 5)),
    "products of pairs": lambda x: jnp.einsum("nhwc,nhvc->nhwv", x, x),
    "products of pairs, transposed": lambda x: jnp.einsum("nhwc,nvhc->nhwv", x, x.swapaxes(1, 2)),
    "products over several axes": lambda x: jnp.einsum("nhwc,hwk->nck", x, jnp.ones((4, 6, 5))),
    "products that keep axes": lambda x: jnp.einsum("nhwc,nwkl->nhckl", x, x.swapaxes(1, 2)),
    "products of images": lambda x: jnp.einsum("nhwc,mhwc->nm", x, x).sum(axis=1, keepdims=True),
    "waves": lambda x: jnp.sin(x) + jnp.cos(x) * jnp.sign(x),
    "a power that is no integer": lambda x: jnp.abs(x) ** 1.5,
    "smooth rectifiers": lambda x: nn.elu(x) + nn.softplus(x),
    "logarithm of a sum": lambda x: jax.nn.logsumexp(x, axis=1),
    "logic": lambda x: jnp.where(((x > 0) & (x < 0.5)) | ~(x > -0.5), x, 1.0),
    "rows in another order": lambda x: jnp.stack([x[:, 3], x[:, 0]], axis=1),
    "a half": lambda x: jnp.split(x, 2, axis=2)[1],
    "the first and the last": lambda x: x[:, 0] + x[:, -1],
    "recomputed": jax.checkpoint(jnp.abs),
    "a loop over layers": lambda x: lax.scan(
        lambda y, layer: (jnp.tanh(y @ layer), None), x, jnp.arange(12.0).reshape(3, 2, 2) / 12
    )[0],
    "a loop over rows of images": lambda x: lax.scan(
        lambda y, row: (y + row, y * row), x.sum(axis=1), x.swapaxes(0, 1), reverse=True
    )[1].swapaxes(0, 1),
}


def test_translated_functions_compute_the_same(subtests):
    for name, function in FUNCTIONS.items():
        with subtests.test(msg=name):
            assert_same(jax.jit(scaled(function)))


def test_every_translation_is_tested():
    used = set()

    def collect(jaxpr: Any) -> None:
        for eqn in jaxpr.eqns:
            used.add(eqn.primitive.name)
            inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr")
            if inner:
                collect(getattr(inner, "jaxpr", inner))

    for function in FUNCTIONS.values():
        collect(jax.make_jaxpr(scaled(function))(IMAGES).jaxpr)
    known = {*BROADCASTING, *ELEMENTWISE, *OTHERS, *REWRITTEN}
    assert used - {*INLINED, "iota"} <= known  # iota: of constants alone
    # Some versions of JAX have no primitive of their own for these; and x[:, 0] is a `slice` here,
    # but a `gather` where the number of images is unknown.
    assert known - used <= {"gather", "square", "stack", "stop_gradient"}


@given(data=st.data())
@settings(max_examples=30)
def test_reshapes_and_transposes_compute_the_same_in_any_sequence(data):
    steps = []
    shape: tuple[int, ...] = (-1, *SHAPE)
    for _ in range(data.draw(st.integers(1, 4))):
        order = data.draw(st.permutations(range(len(shape))))
        shape = tuple(shape[axis] for axis in order)
        batch = shape.index(-1)
        before, after = math.prod(shape[:batch]), math.prod(shape[batch + 1 :])
        if data.draw(st.booleans()):  # axes merge, or split, on both sides of the batch
            sides = [data.draw(st.sampled_from(factors(n))) for n in (before, after)]
            shape = (*sides[0], -1, *sides[1])
        steps.append((order, shape))

    def function(x: Any) -> Any:
        for order, sizes in steps:
            x = x.transpose(order).reshape(sizes)
        return x.swapaxes(0, shape.index(-1))

    assert_same(scaled(function), np.asarray)  # NumPy compiles nothing


def factors(number: int) -> list[tuple[int, ...]]:
    pairs = [(i, number // i) for i in range(1, number + 1) if number % i == 0]
    return [(number,), *pairs]


UNTRANSLATED = [
    (lambda x: jnp.sort(x, axis=1), "sort, which has no translation to ONNX: add one to mnist"),
    (lambda x: jnp.cumsum(x, axis=1), "cumsum, which has no"),
    (lambda x: x[:, ::-1], "gather with other places"),
    (lambda x: x.astype(jnp.bfloat16), "convert_element_type with bfloat16"),
    (lambda x: (x > 0).astype(jnp.int32) & 1, "^the network has no translation to ONNX"),
    (lambda x: lax.pad(x, 0.0, [(0, 0, 0), (0, 0, 1), (0, 0, 0), (0, 0, 0)]), "pad with pad"),
    (lambda x: pool(x, 0.0, lax.add, (1, 2, 2, 2), (1, 1, 1, 1), "VALID"), "with windows over"),
    (lambda x: convolved(x, ("NHWC", "HWIO", "NHWC"), lhs_dilation=(2, 1)), " dilated images"),
    (
        lambda x: convolved(x, ("NHWC", "HWIO", "NHWC"), padding=((-1, 0), (0, 0))),
        "dilated with crops",
    ),
    (lambda x: lax.slice_in_dim(x, 0, -1), "slice with a number of images"),
    (lambda x: (x.reshape(-1, 48) @ x.reshape(-1, 48).T)[:, :, None].sum(axis=1), "has no shape"),
    (lambda x: jnp.broadcast_to(jnp.arange(2.0), (2 * x.shape[0], 2)).reshape(-1, 4), r"no size 2"),
]


def test_functions_without_a_translation_are_refused_in_one_line(subtests):
    for function, message in UNTRANSLATED:
        with subtests.test(msg=message):
            with pytest.raises(ValueError, match=message) as error:
                to_onnx(scaled(function), SHAPE, {})
            assert "\n" not in str(error.value)
            assert "StableHLO" in str(error.value)


def test_a_file_that_is_not_onnx_is_refused_in_one_line_and_nothing_is_printed(capfd):
    for data in (b"", b"\n", b"no network", bytes(1000)):
        with pytest.raises(ValueError, match=r"^onnxruntime [\d.]+ cannot read the file [^\n]*$"):
            from_onnx(data)
    assert capfd.readouterr() == ("", "")


def test_an_onnx_file_of_another_network_is_refused_in_one_line_and_nothing_is_printed(capfd):
    with pytest.raises(ValueError, match=r"\(its output is not a batch of probabilities\)"):
        from_onnx(to_onnx(scaled(lambda x: x), SHAPE, {}))
    whole = exported("mlp", "onnx")
    model = onnx.load_from_string(whole)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    from_onnx(model.SerializeToString())  # onnxruntime by itself would warn
    model.opset_import[0].version = 99
    for data in (model.SerializeToString(), whole.replace(b"Relu", b"R\x80lu")):
        with pytest.raises(ValueError, match=r"^onnxruntime [\d.]+ cannot read the file [^\n]*$"):
            from_onnx(data)
    assert capfd.readouterr() == ("", "")
