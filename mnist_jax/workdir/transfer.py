"""Transfer learning: training that begins with a trained network."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mnist_jax.optimizer import is_frozen
from mnist_jax.state import Variables
from mnist_jax.workdir.hashing import named_leaves

HEAD = "output"  # the layer that depends on the classes


class Transfer(NamedTuple):
    """The variables to begin with, and the layers by origin."""

    variables: Variables
    loaded: list[str]
    remade: list[str]
    left_out: list[str]


def transfer(variables: Variables, trained: Variables, *, members: bool = False) -> Transfer:
    """Copies a trained network's layers of the same names and shapes into initialised variables.

    With `members`, `variables` have a leading axis, whose members all receive the same. Raises
    ValueError if a layer other than the head has another shape, or nothing fits.
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
                "network; give both the same image shape and the same model fields"
            )
        else:
            remade[layer] = None
    # A layer is loaded whole: a new kernel needs a new bias.
    loaded = [layer for layer in loaded if layer not in remade]
    if not loaded:
        raise ValueError(
            "nothing of the trained network fits: its layers are "
            f"{', '.join(trained['params'])}, not {', '.join(variables['params'])}"
        )
    taken = {name: leaf for name, leaf in taken.items() if name.split("/")[1] in loaded}
    leaves = [taken.get(name, leaf) for name, leaf in named_leaves(variables).items()]
    whole = jax.tree.unflatten(jax.tree.structure(variables), leaves)
    left_out = [layer for layer in trained["params"] if layer not in variables["params"]]
    return Transfer(whole, loaded, list(remade), left_out)


def frozen_parameters(params: Any, freeze: str) -> list[str]:
    """Returns the names of the parameters that `optimizer.is_frozen` fixes.

    Raises ValueError if a pattern fits nothing, or nothing is left to train.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = dict(zip(named_leaves(params), (path for path, _ in leaves), strict=True))
    for pattern in freeze.split(",") if freeze else []:
        if not any(is_frozen(path, pattern) for path in paths.values()):
            raise ValueError(
                f"freeze: {pattern.strip()!r} fits no parameter; there are {', '.join(paths)}"
            )
    frozen = [name for name, path in paths.items() if is_frozen(path, freeze)]
    if len(frozen) == len(paths):
        raise ValueError(f"freeze: {freeze!r} leaves nothing to train; leave out a layer")
    return frozen
