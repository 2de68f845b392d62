"""The table of a network's layers: shapes, parameters, products."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from helpers import create_reference
from own_modules import MODULES, REFUSED

from mnist_jax.forward import Forward
from mnist_jax.models import create_model, model_names
from mnist_jax.reporting.summary import format_table, step_flops, summarize


def product_flops(jaxpr: Any) -> int:
    """Counts the FLOPs of convolutions and matrix products in a traced function."""
    total = 0
    for eqn in jaxpr.eqns:
        shapes = [var.aval.shape for var in eqn.invars]
        outputs = math.prod(eqn.outvars[0].aval.shape)
        if eqn.primitive.name == "dot_general":
            contracted = eqn.params["dimension_numbers"][0][0]
            total += 2 * outputs * math.prod(shapes[0][axis] for axis in contracted)
        elif eqn.primitive.name == "conv_general_dilated":
            total += 2 * outputs * math.prod(shapes[1][:-1])
        total += sum(product_flops(x.jaxpr) for x in eqn.params.values() if hasattr(x, "jaxpr"))
    return total


OWN = {"attention": 10_816, "scan": 2848, "shared": 2720, "vmap": 3104}  # FLOPs, by hand


@pytest.mark.parametrize("name", [*MODULES, "a tuple of outputs", "a scalar"])
def test_a_summary_lists_each_layer_of_any_module_once(name):
    model = (MODULES | REFUSED)[name]()
    layers = summarize(model, (12, 12, 1))
    images = jnp.zeros((1, 12, 12, 1))
    variables = jax.eval_shape(Forward(model).init, jax.random.key(0), images)
    sizes = [leaf.size for leaf in jax.tree.leaves(variables["params"])]
    assert sum(layer.params for layer in layers) == sum(sizes)
    names = [layer.name for layer in layers]
    assert len({*names}) == len(names) > 0
    assert sum(layer.flops for layer in layers) == OWN.get(name, sum(x.flops for x in layers)) > 0
    assert "total" in format_table(layers, (12, 12, 1))


def test_a_summary_shows_what_modules_share_and_hold_themselves():
    by_name = {layer.name: layer[1:4] for layer in summarize(MODULES["shared"](), (12, 12, 1))}
    assert by_name["again"] == ((8,), 72, 256)  # called twice
    by_name = {layer.name: layer[1:4] for layer in summarize(MODULES["no train"](), (12, 12, 1))}
    assert by_name["Plain"] == ((10,), 512, 1024)
    assert not {"flatten", "mean"} & {*by_name}  # it pools in between


@pytest.mark.parametrize("name", model_names())
def test_a_summary_counts_every_parameter_and_product(name):
    fields = {field.name for field in dataclasses.fields(create_model(name, 10))}
    wanted = {"depth": 2, "padding": "SAME", "batch_norm": True, "lowering": "xla"}
    model = create_model(name, 10, **{k: v for k, v in wanted.items() if k in fields})
    images = jnp.zeros((1, 15, 17, 3))
    layers = summarize(model, (15, 17, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    sizes = [leaf.size for leaf in jax.tree.leaves(variables["params"])]
    assert sum(layer.params for layer in layers) == sum(sizes)
    traced = jax.make_jaxpr(model.apply)(variables, images)
    assert sum(layer.flops for layer in layers) == product_flops(traced.jaxpr)
    assert layers[-1].shape == (10,)
    assert all(layer.purpose for layer in layers)


def test_layers_and_step_flops_of_the_reference_are_those_counted_by_hand():
    layers = summarize(create_reference(), (28, 28, 1))
    assert [(layer.name, layer.shape, layer.params) for layer in layers] == [
        ("conv1", (26, 26, 32), 320),
        ("max_pool", (13, 13, 32), 0),
        ("flatten", (5408,), 0),
        ("dense", (64,), 346176),
        ("dropout", (64,), 0),
        ("output", (10,), 650),
    ]
    # Multiplications and additions of one image: 26*26*32 outputs of 9 products each, and so on.
    assert [layer.flops for layer in layers] == [389376, 0, 0, 692224, 0, 1280]
    # Forward, and the gradients of weights and inputs; the images need none.
    expected = 128 * (2 * 389376 + 3 * (692224 + 1280))
    assert step_flops(create_reference(), (28, 28, 1), 128) == expected


def test_a_summary_follows_the_fields():
    layers = summarize(create_reference(features=8, kernel_size=5, pool_size=1), (12, 10, 3))
    assert layers[0][:3] == ("conv1", (8, 6, 8), 5 * 5 * 3 * 8 + 8)
    assert layers[1][:2] == ("flatten", (8 * 6 * 8,))
    mean = create_reference(features=8, pool="mean", stride=2, padding="SAME", batch_norm=True)
    assert [layer[:3] for layer in summarize(mean, (28, 28, 1))[:3]] == [
        ("conv1", (14, 14, 8), 72),
        ("mean_pool", (7, 7, 8), 0),
        ("norm1", (7, 7, 8), 16),
    ]
    strided = summarize(create_reference(features=8, pool="stride"), (28, 28, 1))
    assert [layer[:2] for layer in strided[:2]] == [("conv1", (13, 13, 8)), ("flatten", (1352,))]


def test_the_table_is_aligned_and_ends_with_the_totals():
    layers = summarize(create_reference(), (28, 28, 1))
    first, image, *rows, total, lowered = format_table(
        [layers[0]._replace(lowering="fused"), *layers[1:]], (28, 28, 1)
    ).splitlines()
    assert first.split() == ["layer", "output", "parameters", "FLOPs", "purpose"]
    places = {line.index(word) for line, word in ((first, "purpose"), (image, "pixels"))}
    places |= {line.index(layer.purpose) for line, layer in zip(rows, layers, strict=True)}
    assert len(places) == 1
    counts = (sum(layer.params for layer in layers), sum(layer.flops for layer in layers))
    assert total.split()[:3] == ["total", *(f"{count:,}" for count in counts)]
    assert lowered == "lowered here: conv1 fused"
