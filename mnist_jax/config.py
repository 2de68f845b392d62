"""The configuration of a run: frozen dataclasses that are valid or do not exist."""

import dataclasses
import json
import math
import re
import runpy
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


def _require(condition: bool, name: str, expected: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


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
    """The network."""

    name: str = "cnn"
    """The architecture."""
    num_classes: int = 10
    """Labels are 0 to num_classes - 1."""
    features: int = 32
    """Filters of the first convolution."""
    depth: int = 1
    """Convolutions, each with a max-pool; every one has twice the filters of the one before."""
    kernel_size: int = 3
    """Pixels a side of a filter."""
    pool_size: int = 2
    """Pixels a side of a max-pool window."""
    hidden_size: int = 64
    """Units of the hidden layer."""
    dropout_rate: float = 0.2
    """The part of the hidden units that a training step leaves out."""
    lowering: Literal["auto", "matmul", "xla"] = "auto"
    """How convolutions are computed: as matrix products, by XLA's own, or the faster of both."""

    def __post_init__(self):
        _check_types(self)
        _require(self.num_classes >= 2, "model.num_classes", "at least 2", self.num_classes)
        for name in ("features", "depth", "kernel_size", "pool_size", "hidden_size"):
            _require(getattr(self, name) >= 1, f"model.{name}", "at least 1", getattr(self, name))
        _require(
            0 <= self.dropout_rate < 1,
            "model.dropout_rate",
            "at least 0 and below 1",
            self.dropout_rate,
        )


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam."""

    learning_rate: float = 1e-3
    """Step size; of a schedule, the largest one."""
    schedule: Literal["constant", "one_cycle"] = "constant"
    """The step size over the run: always the same, or up for 30 % of the steps, then down."""
    b1: float = 0.9
    """Decay of the mean of the gradients."""
    b2: float = 0.999
    """Decay of the mean of their squares."""
    eps: float = 1e-7
    """Added to the root of the second mean."""

    def __post_init__(self):
        _check_types(self)
        for name in ("learning_rate", "eps"):
            value = getattr(self, name)
            _require(0 < value < math.inf, f"optimizer.{name}", "above 0 and finite", value)
        for name in ("b1", "b2"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"optimizer.{name}", "at least 0 and below 1", value)


@dataclass(frozen=True)
class CheckpointConfig:
    """When the training state is saved."""

    every_epochs: int = 1
    """Epochs between checkpoints; the last epoch is always saved."""

    def __post_init__(self):
        _check_types(self)
        _require(self.every_epochs >= 1, "checkpoint.every_epochs", "at least 1", self.every_epochs)


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
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self):
        _check_types(self)
        _require(0 <= self.seed < 2**32, "seed", "0 to 2**32 - 1", self.seed)
        for name in ("epochs", "batch_size", "chunk_steps"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))


def load_config(path: str | Path) -> Config:
    """Reads a recipe: a Python file with `get_config() -> Config`, or a `config.json`.

    `configs/NAME.py` is also found where it does not lie in the current directory: an installed
    package carries its recipes, and a checkout has them beside the package.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not give a valid Config; the message names the file and says why.
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
            return config_from_dict(json.loads(file.read_text()))
        get_config = runpy.run_path(str(file)).get("get_config")
        config = get_config() if callable(get_config) else None
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise ValueError(f"{path} must define get_config() -> Config")
    return config


def config_from_dict(values: Any) -> Config:
    """Builds a Config from nested dicts, as `dataclasses.asdict` gives; ValueError where wrong."""
    return _build(Config, values, "")


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


def config_differences(old: Config, new: Config) -> list[str]:
    """Returns a line for each field that differs: "optimizer.learning_rate is 0.001, not 0.01"."""
    before, after = _flatten(dataclasses.asdict(old)), _flatten(dataclasses.asdict(new))
    return [f"{k} is {before[k]!r}, not {after[k]!r}" for k in before if before[k] != after[k]]


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            _flatten(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {prefix + name: value}
        )
    return flat
