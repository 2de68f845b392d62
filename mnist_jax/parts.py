"""A user's own model, optimizer, loss, data and metrics."""

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from mnist_jax.compiled import text_sha256
from mnist_jax.config import PART_FUNCTIONS, Config, recipe_function
from mnist_jax.datasets.info import DataInfo
from mnist_jax.forward import Forward, check_module
from mnist_jax.messages import one_line
from mnist_jax.metrics import Metric, with_hash
from mnist_jax.steps import LossFn, example_losses, norm

Optimizer = optax.GradientTransformation | optax.MultiSteps
OwnModel = nn.Module | Callable[[DataInfo], nn.Module] | None
OwnOptimizer = Optimizer | Callable[[int], Optimizer] | None
OwnMetrics = Mapping[str, Metric] | None


class Parts(NamedTuple):
    """A user's own parts, as `training.train` takes them; None stands for the config's."""

    model: OwnModel = None
    tx: OwnOptimizer = None
    loss_fn: LossFn | None = None
    splits: Any = None
    metrics: OwnMetrics = None


NONE = Parts()


def recipe_parts(path: str | Path | None, config: Config) -> Parts:
    """Reads a recipe's own parts; NONE without a path.

    The file may define `get_model(config, info)`, `get_optimizer(config, num_steps)`, `get_loss()`,
    `get_splits(config)` and `get_metrics()`, which receive the config with the command's options.

    Raises FileNotFoundError if there is no such file, ValueError if a function fails.
    """
    if path is None:
        return NONE
    model, tx, loss, splits, metrics = (recipe_function(path, name) for name in PART_FUNCTIONS)
    return Parts(
        functools.partial(model, config) if model else None,
        functools.partial(tx, config) if tx else None,
        loss() if loss else None,
        functools.partial(splits, config) if splits else None,
        metrics() if metrics else None,
    )


def own_model(parts: Parts, info: DataInfo) -> nn.Module | None:
    """Returns the user's module, if any; ValueError if it does not fit the data."""
    if parts.model is None:
        return None
    given: Any = parts.model
    model: Any = given
    if callable(given) and not isinstance(given, nn.Module | type):
        model = given(info)
    num_classes = check_module(Forward(model), info.image_shape)
    # Arrays may lack some of the model's classes.
    if num_classes != len(info.label_names) and parts.splits is None:
        raise ValueError(
            f"model {type(model).__name__} returns logits of {num_classes} classes, and the data "
            f"have {len(info.label_names)}: {', '.join(info.label_names[:20])}"
        )
    return model


def own_optimizer(parts: Parts, num_steps: int) -> optax.GradientTransformation | None:
    """Returns the user's optimizer, if any; ValueError if it is not an Optax transformation."""
    tx: Any = parts.tx
    if tx is None:
        return None
    if callable(tx) and not hasattr(tx, "update"):
        first = next(iter(inspect.signature(tx).parameters), "")
        # A function of a notebook may belong to no module.
        home = getattr(getattr(tx, "func", tx), "__module__", None) or ""
        if home.startswith("optax.") or "learning_rate" in first:
            raise ValueError(  # it would take num_steps for its learning rate
                "tx must be an Optax transformation, or a function num_steps -> one, got a "
                f"function of {first}: call it, as in optax.adam(1e-3)"
            )
        tx = tx(num_steps)
    if isinstance(tx, optax.MultiSteps):
        tx = tx.gradient_transformation()
    if not isinstance(tx, optax.GradientTransformation):
        raise ValueError(
            "tx must be an Optax transformation, or a function num_steps -> one, got "
            f"{one_line(tx):.200}"
        )
    return tx


def own_names(parts: Parts) -> list[str]:
    """Returns the names of the user's parts, as in `own_sha256`."""
    names = [name for name in ("model", "tx", "loss_fn") if getattr(parts, name) is not None]
    names += [f"metric {name}" for name in parts.metrics or {}]
    return names + (["splits"] if parts.splits is not None else [])


def own_sha256(
    parts: Parts, model: nn.Module, info: DataInfo, tx: optax.GradientTransformation | None = None
) -> dict[str, str]:
    """Returns the SHA-256 of each own part except data, by its name in `Parts`.

    Each is hashed as StableHLO for two images, so constants matter, but names of functions and
    files do not. `model` and `tx` are the run's, own or not.
    """
    if parts._replace(splits=None) == NONE:
        return {}
    forward, images = Forward(model), jnp.zeros((2, *info.image_shape))
    key = jax.random.key(0, impl="threefry2x32")
    variables = jax.eval_shape(forward.init, key, images)
    params = variables["params"]
    logits, labels = jnp.zeros((2, len(info.label_names))), jnp.zeros(2, jnp.int32)
    mask = jnp.ones(2, bool)

    def apply(variables: Any, images: jax.Array, key: jax.Array) -> Any:
        changing = [name for name in variables if name != "params"]
        rngs = {"dropout": key, "params": jax.random.fold_in(key, 1)}
        how = {"train": True, "mask": mask, "rngs": rngs, "mutable": changing}
        return forward(variables, images, **how), forward(variables, images)

    def update(tx: Any, params: Any) -> Any:
        extra = {"value": jnp.float32(1), "grad": params, "value_fn": norm}
        state = tx.init(params)
        return state, optax.with_extra_args_support(tx).update(params, state, params, **extra)

    def sha256(name: str, function: Callable[..., Any], *args: Any) -> None:
        try:
            found[name] = text_sha256(jax.jit(function).lower(*args))
        except ValueError:
            raise
        except Exception as error:  # a part may raise anything
            raise ValueError(
                f"{name} cannot be applied: {type(error).__name__}: {one_line(error):.300}"
            ) from error

    found: dict[str, str] = {}
    if parts.model is not None:
        sha256("model", apply, variables, images, key)
    if parts.tx is not None and tx is not None:
        sha256("tx", functools.partial(update, tx), params)
    if parts.loss_fn is not None:
        losses = functools.partial(example_losses, parts.loss_fn)
        sha256("loss_fn", losses, logits, labels, mask, params)
    for name, metric in (parts.metrics or {}).items():
        sha256(f"metric {name}", with_hash(metric), logits, labels)
    return found
