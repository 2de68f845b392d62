"""A Linen module as a function from images to logits."""

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mnist_jax.messages import one_line

# Arguments that switch modules to training, with their values there.
FLAGS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


@dataclass(frozen=True, eq=False)
class Forward:
    """Calls a module with the arguments that its `__call__` takes.

    A module maps images [B, H, W, C] to logits [B, num_classes]. It may take the arguments of
    `FLAGS`, and `mask`, bool [B], False for padding.

    Two are equal if their modules are, so JAX compiles once for both. A module with an unhashable
    field, such as a list, equals only itself.
    """

    model: nn.Module

    def __call__(
        self,
        variables: Any,
        images: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
        rngs: dict[str, jax.Array] | None = None,
        mutable: Any = False,
    ) -> Any:
        """Applies the module like Linen's `apply` to images, float [B, H, W, C] in [0, 1].

        Streams missing in `rngs` draw from `params`. With `mutable` collections the result is
        (logits, changed collections).
        """
        options = self._options(train=train, mask=mask)
        return self.model.apply(variables, images, rngs=rngs, mutable=mutable, **options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Forward) and other._identity() == self._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> Any:
        try:
            hash(self.model)
        except TypeError:
            return id(self.model)
        return self.model

    def init(self, rng: jax.Array, images: jax.Array) -> dict[str, Any]:
        """Initialises the module's variables, without collections that grow, as of sown values."""
        variables = self.model.init(rng, images, **self._options(train=False, mask=None))
        variables = {"params": {}, **nn.meta.unbox(variables)}
        kept = [name for name in variables if name != "params"]
        if not kept:
            return variables
        _, after = jax.eval_shape(
            lambda: self(variables, images, train=True, rngs={"params": rng}, mutable=kept)
        )
        for name in kept:
            if jax.tree.structure(variables[name]) != jax.tree.structure(dict(after)[name]):
                del variables[name]
        return variables

    def _options(self, *, train: bool, mask: jax.Array | None) -> dict[str, Any]:
        taken = _arguments(self.model)
        options: dict[str, Any] = {
            name: value == train for name, value in FLAGS.items() if name in taken
        }
        return options | ({"mask": mask} if "mask" in taken else {})


@functools.lru_cache(maxsize=32)
def check_module(forward: Forward, image_shape: tuple[int, ...]) -> int:
    """Returns a module's number of classes, given images of shape (H, W, C).

    Raises ValueError if it cannot be applied to them, has nothing to train, or does not return
    logits [B, num_classes].
    """
    model = forward.model
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model must be an instance of a Flax Linen module, got {one_line(model):.200}"
        )
    name = type(model).__name__
    taken = _arguments(model)
    names = {field.name for field in dataclasses.fields(model)}
    fields = [flag for flag in FLAGS if flag in names and flag not in taken]
    if fields:
        raise ValueError(
            f"model {name} has a field {fields[0]!r}: make it an argument of __call__, since one "
            "network is called in training and in evaluation"
        )
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)

    def trace(rng: jax.Array, images: jax.Array) -> Any:
        variables = forward.init(rng, images)
        mask = jnp.ones(len(images), bool)
        rngs, others = {"params": rng}, [key for key in variables if key != "params"]
        trained, _ = forward(variables, images, train=True, mask=mask, rngs=rngs, mutable=others)
        return variables["params"], trained, forward(variables, images, mask=mask)

    try:
        params, *outputs = jax.eval_shape(trace, jax.random.key(0), images)
    except Exception as error:  # a module may raise anything
        raise ValueError(
            f"model {name} cannot be applied to images {[*images.shape]}: "
            f"{type(error).__name__}: {one_line(error):.300}"
        ) from error
    for output in outputs:
        shape = getattr(output, "shape", None)
        if shape is None or len(shape) != 2 or shape[0] != images.shape[0]:
            got = type(output).__name__ if shape is None else f"the shape {[*shape]}"
            raise ValueError(
                f"model {name} must map images [2, {', '.join(map(str, image_shape))}] to logits "
                f"[2, num_classes], got {got}"
            )
        if not jnp.issubdtype(output.dtype, jnp.floating):
            raise ValueError(f"model {name} must return floats, its logits, got {output.dtype}")
    if not jax.tree.leaves(params):
        raise ValueError(f"model {name} has no parameters to train")
    return outputs[0].shape[1]


def _arguments(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    """Returns the arguments of a module's (or a wrapped NNX module's) `__call__`."""
    return inspect.signature(getattr(model, "nnx_class", type(model)).__call__).parameters
