"""The configuration of a run: frozen dataclasses that are valid or do not exist."""

import dataclasses
import functools
import json
import re
import runpy
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flax.traverse_util import flatten_dict

LARGEST = 2**20  # of what a network or a batch has many of: more is a slip, and no memory holds it
FLOAT32_MAX = 3.4028234663852886e38  # what is more becomes infinite where it is computed with
# What each optimizer takes beside its learning rate: whatever else were set would change nothing.
OPTIMIZER_CHOICES = {
    "adam": ("b1", "b2", "eps"),
    "adamw": ("b1", "b2", "eps", "weight_decay", "decay"),
    "nadam": ("b1", "b2", "eps", "weight_decay", "decay"),
    "sgd": ("momentum", "weight_decay", "decay"),
    "lion": ("b1", "b2", "weight_decay", "decay"),
    "muon": ("momentum", "b1", "b2", "eps", "weight_decay", "decay"),
}


def _require(condition: bool, name: str, expected: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def _require_count(name: str, value: int, least: int = 1) -> None:
    _require(least <= value, name, f"at least {least}", value)
    _require(value <= LARGEST, name, f"at most {LARGEST}", value)


def _check_types(config: Any) -> None:
    """Raises ValueError for a field whose value is not of its annotated type."""
    for name, expected in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if typing.get_origin(expected) is typing.Literal:
            valid, kind = value in typing.get_args(expected), f"one of {typing.get_args(expected)}"
        else:
            accepted = (int, float) if expected is float else expected
            valid = isinstance(value, accepted) and (
                expected is bool or not isinstance(value, bool)
            )
            kind = f"of type {getattr(expected, '__name__', expected)}"
        _require(valid, f"{type(config).__name__}.{name}", kind, value)


@dataclass(frozen=True)
class DataConfig:
    """What the network learns from."""

    dataset: str = "mnist"
    """A name of tfds; `mnist` comes with this package."""
    train_split: str = "train"
    """The examples for training and validation, in tfds's notation: train, train[:1000]."""
    test_split: str = "test"
    """The examples for the test at the end."""
    validation_fraction: float = 0.2
    """The part of train_split that is kept for validation."""
    split_seed: int = 42
    """Draws the validation examples, as scikit-learn's train_test_split(random_state=...) does."""
    loader: Literal["memory", "stream"] = "memory"
    """Where the images are: all in the devices' memory, or on the disk, read while it trains."""

    def __post_init__(self):
        _check_types(self)
        _require(
            bool(re.fullmatch(r"\w+(/[\w.-]+)?(:\d+\.\d+\.\d+)?", self.dataset)),
            "data.dataset",
            "a tfds name such as mnist or emnist/letters:3.1.0",
            self.dataset,
        )
        _require(
            0 < self.validation_fraction < 1,
            "data.validation_fraction",
            "between 0 and 1",
            self.validation_fraction,
        )
        _require(0 <= self.split_seed < 2**32, "data.split_seed", "0 to 2**32 - 1", self.split_seed)


@dataclass(frozen=True)
class ModelConfig:
    """The network. An architecture refuses a choice that it does not have; see `models`."""

    name: str = "cnn"
    """The architecture: a file of `mnist_jax/models/`."""
    features: int = 32
    """Filters of the first convolution; of a transformer, the width of a token."""
    depth: int = 1
    """Stages one after another; each stage of convolutions has twice the filters of the last."""
    kernel_size: int = 3
    """Pixels a side of a filter; of a transformer, of a patch."""
    stride: int = 1
    """Pixels from one place of a filter to the next; of a ResNet, in its first convolution."""
    padding: Literal["VALID", "SAME"] = "VALID"
    """What surrounds an image that is convolved: nothing, or zeros, so that no rows are lost."""
    pool: Literal["max", "mean", "stride"] = "max"
    """What is kept of each window; with "stride", the convolution leaves the others out at once."""
    pool_size: int = 2
    """Pixels a side of a pooling window."""
    batch_norm: bool = False
    """Whether each feature of a convolution is normalised over the batch."""
    hidden_size: int = 64
    """Units of a hidden layer."""
    dropout_rate: float = 0.2
    """The part of what the output layer is given (of an MLP, any layer) that a step leaves out."""
    lowering: Literal["auto", "matmul", "xla"] = "auto"
    """How convolutions are computed: as matrix products, by XLA's own, or the faster of both."""

    def __post_init__(self):
        _check_types(self)
        for name in ("features", "depth", "kernel_size", "stride", "pool_size", "hidden_size"):
            _require_count(f"model.{name}", getattr(self, name))
        _require(self.depth <= 20, "model.depth", "at most 20", self.depth)
        _require(
            0 <= self.dropout_rate < 1,
            "model.dropout_rate",
            "at least 0 and below 1",
            self.dropout_rate,
        )


@dataclass(frozen=True)
class OptimizerConfig:
    """How the gradients change the parameters."""

    name: Literal["adam", "adamw", "nadam", "sgd", "lion", "muon"] = "adam"
    """The rule, of Optax."""
    learning_rate: float = 1e-3
    """Step size; of a schedule, the largest one."""
    schedule: Literal["constant", "cosine", "exponential", "one_cycle"] = "constant"
    """The step size over the run: always the same, down along half a wave, down to a hundredth, or
    up for 30 % of the steps and then down."""
    warmup: float = 0.0
    """The part of the steps in which the step size first rises from 0."""
    b1: float = 0.9
    """Decay of the mean of the gradients."""
    b2: float = 0.999
    """Decay of the mean of their squares."""
    eps: float = 1e-7
    """Added to the root of the second mean."""
    momentum: float = 0.9
    """Decay of the sum of the gradients, of sgd and muon."""
    weight_decay: float = 0.0
    """The part of a weight that goes with each step, times the step size."""
    decay: Literal["kernels", "all"] = "kernels"
    """Which weights decay: kernels only, or biases and scales too."""
    clip_norm: float = 0.0
    """The largest norm of all gradients together; 0: no limit."""

    def __post_init__(self):
        _check_types(self)
        for name in ("learning_rate", "eps"):
            value = getattr(self, name)
            _require(0 < value < FLOAT32_MAX, f"optimizer.{name}", "above 0 and finite", value)
        for name in ("warmup", "b1", "b2", "momentum"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"optimizer.{name}", "at least 0 and below 1", value)
        for name in ("weight_decay", "clip_norm"):
            value = getattr(self, name)
            _require(0 <= value < FLOAT32_MAX, f"optimizer.{name}", "at least 0 and finite", value)
        for name in ("b1", "b2", "eps", "momentum", "weight_decay", "decay"):
            used = name in OPTIMIZER_CHOICES[self.name]
            if not used and getattr(self, name) != getattr(OptimizerConfig, name):
                raise ValueError(
                    f"optimizer.{name} must stay at {getattr(OptimizerConfig, name)!r} with "
                    f"{self.name}, which has no use for it but for learning_rate, "
                    f"{', '.join(OPTIMIZER_CHOICES[self.name])}"
                )
        _require(
            self.schedule != "one_cycle" or not self.warmup,
            "optimizer.warmup",
            "0 with one_cycle, which begins with one of its own",
            self.warmup,
        )


@dataclass(frozen=True)
class AugmentConfig:
    """How training images are changed at random, each time they are seen; 0: not at all."""

    shift: float = 0.0
    """Pixels to a side, at most."""
    rotation: float = 0.0
    """Degrees either way, at most."""
    scale: float = 0.0
    """The part by which an image grows or shrinks, at most."""
    shear: float = 0.0
    """Degrees either way, at most."""
    elastic: float = 0.0
    """Pixels by which a smooth random field moves each point (standard deviation)."""
    cutout: int = 0
    """Pixels a side of a square that is blanked."""
    mixup_alpha: float = 0.0
    """Mixup: two images and their labels, weighted by a draw of Beta(alpha, alpha)."""

    def __post_init__(self):
        _check_types(self)
        limits = {"rotation": 180, "scale": 1, "shear": 90}
        for name, value in vars(self).items():
            limit = limits.get(name, LARGEST)
            _require(0 <= value < limit, f"augment.{name}", f"at least 0 and below {limit}", value)


@dataclass(frozen=True)
class WatchConfig:
    """What is done where the validation no longer gets better; 0: nothing."""

    patience: int = 0
    """Epochs with a lower validation accuracy than the best after which training stops; the result
    is then the best network, not the last one."""
    plateau_patience: int = 0
    """Epochs without a lower validation loss after which the learning rate falls."""
    plateau_factor: float = 0.1
    """What it is multiplied with then."""

    def __post_init__(self):
        _check_types(self)
        for name in ("patience", "plateau_patience"):
            _require_count(f"watch.{name}", getattr(self, name), 0)
        _require(
            0 < self.plateau_factor < 1,
            "watch.plateau_factor",
            "above 0 and below 1",
            self.plateau_factor,
        )


@dataclass(frozen=True)
class CheckpointConfig:
    """When the training state is saved."""

    every_epochs: int = 1
    """Epochs between checkpoints; the last epoch is always saved."""
    every_steps: int = 0
    """Steps between further checkpoints, each at the end of its chunk; 0: only at epochs."""

    def __post_init__(self):
        _check_types(self)
        _require(self.every_epochs >= 1, "checkpoint.every_epochs", "at least 1", self.every_epochs)
        _require(self.every_steps >= 0, "checkpoint.every_steps", "at least 0", self.every_steps)


@dataclass(frozen=True)
class Config:
    """A recipe. The defaults are the reference recipe, the one of `configs/default.py`."""

    seed: int = 0
    """The root of all randomness."""
    epochs: int = 10
    """Passes over the training examples."""
    batch_size: int = 128
    """Examples a step."""
    chunk_steps: int = 75
    """Steps in one compiled call; progress is shown once a call."""
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = "float32"
    """What the network multiplies in where it is trained; parameters, optimizer and losses stay
    float32, and so does evaluation."""
    label_smoothing: float = 0.0
    """The part of each label that is spread over all classes."""
    ema_decay: float = 0.0
    """Decay of a running mean of the parameters, which then is what is measured; 0: none."""
    init_from: str = ""
    """A workdir whose trained network gives the first parameters, where they fit."""
    freeze: str = ""
    """Parameters and batch statistics that stay: patterns such as conv*, separated by commas."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self):
        _check_types(self)
        _require(0 <= self.seed < 2**32, "seed", "0 to 2**32 - 1", self.seed)
        _require(self.epochs >= 1, "epochs", "at least 1", self.epochs)
        _require(self.chunk_steps >= 1, "chunk_steps", "at least 1", self.chunk_steps)
        for name in ("label_smoothing", "ema_decay"):
            value = getattr(self, name)
            _require(0 <= value < 1, name, "at least 0 and below 1", value)
        _require_count("batch_size", self.batch_size)
        _require(
            not self.watch.patience or self.checkpoint.every_epochs == 1,
            "checkpoint.every_epochs",
            "1 with watch.patience, so that the best epoch is saved",
            self.checkpoint.every_epochs,
        )


def load_config(path: str | Path) -> Config:
    """Reads a recipe: a Python file with `get_config() -> Config`, or a `config.json`.

    `configs/NAME.py` is also found where it does not lie in the current directory: an installed
    package carries its recipes, and a checkout has them beside the package.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not give a valid Config; the message names the file and says why.
    """
    config = read_recipe(path, "get_config")
    if not isinstance(config, Config):
        raise ValueError(f"{path} must define get_config() -> Config")
    return config


def read_recipe(path: str | Path, function: str) -> Any:
    """Returns what a function of a recipe returns, or None where it has no such function.

    A `config.json` has get_config only. Raises as `load_config` does.
    """
    file = Path(path)
    package = Path(__file__).parent
    if not file.is_file() and file.parent == Path("configs"):
        file = next(
            (home / file for home in (package, package.parent) if (home / file).is_file()), file
        )
    if not file.is_file():
        raise FileNotFoundError(f"there is no config file {str(path)!r}")
    try:
        if file.suffix == ".json":
            values = json.loads(file.read_text(encoding="utf-8"))
            return config_from_dict(values) if function == "get_config" else None
        found = runpy.run_path(str(file)).get(function)
        return found() if callable(found) else None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a recipe raises, SystemExit too
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error


def config_from_dict(values: Any) -> Config:
    """Builds a Config from nested dicts, as `dataclasses.asdict` gives; ValueError where wrong."""
    return _build(Config, values, "")


def replace_fields(config: Config, values: dict[str, Any]) -> Config:
    """Returns the config with other values: {"epochs": 3, "optimizer.learning_rate": 0.01}.

    Raises:
        ValueError: there is no such field, or the values are not valid together.
    """
    nested = dataclasses.asdict(config)
    known = flatten_dict(nested, sep=".")
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"unknown config field {name}; expected some of {', '.join(known)}")
        *groups, field_name = name.split(".")
        functools.reduce(lambda part, group: part[group], groups, nested)[field_name] = value
    return config_from_dict(nested)


def _build(cls: type, values: Any, prefix: str) -> Any:
    _require(isinstance(values, dict), prefix.rstrip(".") or "a config", "an object", values)
    types = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(types))
    if unknown:
        names = ", ".join(prefix + name for name in unknown)
        raise ValueError(f"unknown config field {names}; expected some of {', '.join(types)}")
    return cls(
        **{
            name: _build(types[name], value, f"{prefix}{name}.")
            if dataclasses.is_dataclass(types[name])
            else value
            for name, value in values.items()
        }
    )


def completed(values: dict[str, Any]) -> dict[str, Any]:
    """Adds what the config of an older version lacks: later fields, with their defaults.

    Args:
        values: nested dicts, as `dataclasses.asdict` gave; a run may have added something.

    Returns:
        One dict of all, by names such as "optimizer.learning_rate".
    """
    defaults = flatten_dict(dataclasses.asdict(Config()), sep=".")
    return defaults | flatten_dict(values, sep=".")


def config_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns a line for each value that differs: "optimizer.learning_rate is 0.001, not 0.01".

    Args: nested dicts, such as `dataclasses.asdict` gives.
    """
    before, after = (flatten_dict(values, sep=".") for values in (old, new))
    return [
        f"{name} is {before.get(name)!r}, not {after.get(name)!r}"
        for name in before | after
        if name not in before or name not in after or before[name] != after[name]
    ]
