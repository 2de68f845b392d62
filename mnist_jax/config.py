"""The configuration of a run: frozen dataclasses that are valid or do not exist."""

import dataclasses
import json
import re
import runpy
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

LARGEST = 2**20  # of what a network or a batch has many of: more is a slip, and no memory holds it
FLOAT32_MAX = 3.4028234663852886e38  # what is more becomes infinite where it is computed with


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
        for name in ("num_classes", "features", "depth", "kernel_size", "pool_size", "hidden_size"):
            _require_count(f"model.{name}", getattr(self, name), 2 if name == "num_classes" else 1)
        _require(self.depth <= 20, "model.depth", "at most 20", self.depth)
        _require_count("model.features * 2**(model.depth - 1)", self.features << self.depth - 1)
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
            _require(0 < value < FLOAT32_MAX, f"optimizer.{name}", "above 0 and finite", value)
        for name in ("b1", "b2"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"optimizer.{name}", "at least 0 and below 1", value)


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
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self):
        _check_types(self)
        _require(0 <= self.seed < 2**32, "seed", "0 to 2**32 - 1", self.seed)
        _require(self.epochs >= 1, "epochs", "at least 1", self.epochs)
        _require(self.chunk_steps >= 1, "chunk_steps", "at least 1", self.chunk_steps)
        _require_count("batch_size", self.batch_size)


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
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a recipe raises, SystemExit too
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


def config_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns a line for each value that differs: "optimizer.learning_rate is 0.001, not 0.01".

    Args: nested dicts, such as `dataclasses.asdict` gives.
    """
    before, after = _flatten(old), _flatten(new)
    return [
        f"{name} is {before.get(name)!r}, not {after.get(name)!r}"
        for name in before | after
        if name not in before or name not in after or before[name] != after[name]
    ]


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            _flatten(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {prefix + name: value}
        )
    return flat
