"""The choice of the kernel, and of other lowerings in its place."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import create_reference, python
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mnist_jax.ops import choose_lowering, conv_pool
from mnist_jax.sharding import Target, traced_for

FLOAT32 = (jnp.float32, jnp.float32)


def choices(images=(1, 14, 14, 32), kernel=(3, 3, 1, 8), stride=1, pool_size=2, dtypes=FLOAT32):
    """Returns the choices of `auto` and of a forced kernel."""
    images, kernel = map(jax.ShapeDtypeStruct, (images, kernel), dtypes)
    return [choose_lowering(images, kernel, stride, pool_size, name) for name in ("auto", "native")]


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    "fitting",
    [
        {},
        {"images": (4, 14, 14, 16), "kernel": (5, 5, 4, 1)},
        {"images": (128, 14, 14, 16), "kernel": (3, 3, 128, 113)},
        {"pool_size": 1},
        {"pool_size": 3},
    ],
)
def test_auto_takes_the_kernel_if_it_fits(fitting):
    assert choices(**fitting) == ["native", "native"]


@pytest.mark.parametrize(
    "other",
    [
        {"images": (0, 14, 14, 32), "kernel": (3, 3, 0, 8)},
        {"images": (1, 14, 14, 24)},
        {"images": (1, 14, 14, 1)},
        {"images": (1, 14, 14, 0)},
        {"kernel": (1, 1, 1, 8)},
        {"kernel": (4, 4, 1, 8)},
        {"kernel": (7, 7, 1, 8)},
        {"kernel": (3, 5, 1, 8)},
        {"pool_size": 4},
        *({"dtypes": (dtype, jnp.bfloat16)} for dtype in (jnp.bfloat16, jnp.float32)),
        {"dtypes": (jnp.float16, jnp.float16)},
    ],
    ids=str,
)
def test_layers_without_a_kernel_take_the_next_choice_of_auto(other: dict[str, Any]):
    assert choices(**other) == ["matmul", "matmul"]


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    "slow", [{"stride": 2}, {"images": (128, 14, 14, 16), "kernel": (3, 3, 128, 114)}], ids=str
)
def test_a_kernel_that_does_not_pay_must_be_requested(slow):
    assert choices(**slow) == ["matmul", "native"]


@pytest.mark.parametrize("lowering", ["auto", "native"])
@pytest.mark.parametrize(
    ("platform", "precision", "layer", "expected"),
    [
        ("gpu", "float32", {}, "matmul"),
        ("gpu", "float32", {"pool_size": 1}, "xla"),
        ("tpu", "float32", {}, "matmul"),
        ("tpu", "float32", {"kernel": (5, 5, 1, 8)}, "rows"),
        ("tpu", "bfloat16", {"kernel": (5, 5, 1, 8)}, "rows"),
        ("tpu", "float32", {"images": (4, 14, 14, 32), "kernel": (3, 3, 4, 8)}, "rows"),
        ("tpu", "float32", {"kernel": (5, 5, 1, 8), "pool_size": 1}, "matmul"),
        ("tpu", "tensorfloat32", {"kernel": (5, 5, 1, 8), "pool_size": 1}, "matmul"),
        ("tpu", "bfloat16", {"kernel": (5, 5, 1, 8), "pool_size": 1}, "xla"),
        ("tpu", "float32", {"images": (3, 224, 224, 32), "kernel": (3, 3, 3, 32)}, "matmul"),
    ],
    ids=str,
)
def test_an_accelerator_never_gets_the_kernel(platform, precision, layer, expected, lowering):
    images, kernel = layer.get("images", (1, 14, 14, 32)), layer.get("kernel", (3, 3, 1, 8))
    with jax.default_matmul_precision(precision), traced_for(Target(platform, 1)):
        images, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (images, kernel))
        found = choose_lowering(images, kernel, 1, layer.get("pool_size", 2), lowering)
    assert found == expected


@pytest.mark.usefixtures("native")
def test_a_batch_split_over_devices_gets_the_kernel_only_if_forced(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert choices() == ["matmul", "native"]
    found = []
    mesh = jax.make_mesh((1,), ("member",), axis_types=(AxisType.Auto,))

    def of_each(x):
        found.extend(choices())
        return x

    spec = PartitionSpec()
    jax.shard_map(of_each, mesh=mesh, in_specs=spec, out_specs=spec)(jnp.zeros(3))
    assert set(found) == {"native"}  # in a shard_map every device has its own batches


def test_gradients_are_right_with_types_that_vary_between_devices():
    images = jax.random.normal(jax.random.key(0), (1, 9, 9, 16))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 4))

    def grad(images, kernel):
        return jax.grad(lambda kernel: (conv_pool(images, kernel, pool_size=2) ** 2).sum())(kernel)

    split, whole = PartitionSpec(None, None, None, "batch"), PartitionSpec()
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(grad, mesh=mesh, in_specs=(split, whole), out_specs=whole)
    explicit = jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Explicit,))
    images_there = jax.device_put(images, NamedSharding(explicit, split))
    assert choose_lowering(images_there, kernel, 1, 2) == "matmul"
    np.testing.assert_allclose(mapped(images, kernel), grad(images, kernel), rtol=1e-4)


WITHOUT_COMPILER = """
import jax.numpy as jnp
from mnist_jax.ops import choose_lowering, conv_pool
images, kernel = jnp.ones((1, 9, 9, 16)), jnp.ones((3, 3, 1, 2))
print(choose_lowering(images, kernel, 1, 2))
print(conv_pool(images, kernel, pool_size=2).sum())
print(conv_pool(images[..., :7], kernel, pool_size=2, lowering="native").sum())
try:
    conv_pool(images, kernel, pool_size=2, lowering="native")
except ValueError as error:
    print(error)
"""


def test_without_a_compiler_auto_takes_matmul_and_native_is_refused(tmp_path):
    done = python("-c", WITHOUT_COMPILER, PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "matmul",
        "2592.0",  # 9 * 2 filters * 3 * 3 places * 16 images
        "1134.0",
        "the lowering `native` cannot be used: no C++ compiler is found: install g++ or clang++ "
        "($CXX or one of c++, g++, clang++ is used)",
    ]
    assert os.listdir(tmp_path) == []  # noqa: PTH208


@pytest.mark.usefixtures("native")
def test_a_whole_network_calls_the_kernel_for_its_first_layer_alone():
    model = create_reference()
    images = jnp.zeros((32, 28, 28, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    program = str(jax.make_jaxpr(model.apply)(variables, images))
    assert program.count("ffi_call[") == program.count("mnist_jax_ConvPoolInfer") == 1
    assert "ffi_call" not in str(jax.make_jaxpr(model.apply)(variables, images[:31]))


@pytest.mark.usefixtures("native")
def test_images_and_kernels_may_be_numpy_arrays():
    images: Any = np.ones((1, 9, 9, 16), np.float32)
    for dtype in (np.float32, np.float64):
        kernel: Any = np.ones((3, 3, 1, 2), dtype)
        outputs = conv_pool(images, kernel, pool_size=2, lowering="native")
        assert (outputs.dtype, float(outputs.sum())) == (jnp.float32, 2592.0)
