"""Transfer learning: a trained network's parameters as the beginning of another training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mnist_jax.optimizer import is_frozen
from mnist_jax.state import Variables
from mnist_jax.workdir.hashing import named_leaves

HEAD = "output"  # the layer that depends on the classes


class Transfer(NamedTuple):
    """The variables to begin with, and the layers by where theirs come from."""

    variables: Variables
    loaded: list[str]
    remade: list[str]
    left_out: list[str]


def transfer(variables: Variables, trained: Variables, *, members: bool = False) -> Transfer:
    """Takes all parameters and batch statistics that fit from a trained network.

    Args:
        variables: the new network's, initialised; a population's have a leading axis of members.
        trained: the trained network's.
        members: whether there is such an axis; all members receive the same.

    Returns:
        What the trained network has under the same name and of the same shape, a layer as a whole;
        the head and what it does not have as in `variables`.

    Raises:
        ValueError: a layer other than the head has another shape, or nothing fits.
    """
    source = named_leaves(trained)
    loaded, remade, taken = {}, {}, {}
    for name, leaf in named_leaves(variables).items():
        layer, shape = name.split("/")[1], leaf.shape[members:]
        if name in source and source[name].shape == shape:
            taken[name] = jnp.broadcast_to(source[name], leaf.shape)
            loaded[layer] = None
        elif name in source and layer != HEAD:
            raise ValueError(
                f"{name} is {list(shape)} here, but {list(source[name].shape)} in the trained "
                "network: give both the same images and the same fields of the model"
            )
        else:
            remade[layer] = None
    # A layer is of one piece: a new kernel goes with a new bias.
    loaded = [layer for layer in loaded if layer not in remade]
    if not loaded:
        raise ValueError(
            f"nothing of the trained network fits: its layers are {', '.join(_layers(trained))}, "
            f"not {', '.join(_layers(variables))}"
        )
    taken = {name: leaf for name, leaf in taken.items() if name.split("/")[1] in loaded}
    return Transfer(
        jax.tree.unflatten(
            jax.tree.structure(variables),
            [taken.get(name, leaf) for name, leaf in named_leaves(variables).items()],
        ),
        loaded,
        list(remade),
        [layer for layer in _layers(trained) if layer not in _layers(variables)],
    )


def frozen_parameters(params: Any, freeze: str) -> list[str]:
    """Returns the names of the parameters that keep their values.

    Args:
        params: the network's.
        freeze: patterns, see `optimizer.is_frozen`.

    Raises:
        ValueError: a pattern fits nothing, or nothing is left to train.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = list(named_leaves(params))
    for pattern in freeze.split(",") if freeze else []:
        if not any(is_frozen(path, pattern) for path, _ in leaves):
            raise ValueError(
                f"freeze: {pattern.strip()!r} fits no parameter; there are {', '.join(names)}"
            )
    frozen = [
        name for name, (path, _) in zip(names, leaves, strict=True) if is_frozen(path, freeze)
    ]
    if len(frozen) == len(names):
        raise ValueError(f"freeze: {freeze!r} leaves nothing to train; leave out a layer")
    return frozen


def _layers(variables: Variables) -> list[str]:
    return list(variables["params"])
