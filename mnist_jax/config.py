"""The configuration of a run: frozen dataclasses that are valid or do not exist."""

import contextlib
import dataclasses
import difflib
import functools
import inspect
import json
import re
import runpy
import sys
import textwrap
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

LARGEST = 2**20  # features, units or images; more is a slip
FLOAT32_MAX = 3.4028234663852886e38
# The fields that each optimizer uses, beside its learning rate.
OPTIMIZER_CHOICES = {
    "adam": ("b1", "b2", "eps"),
    "adamw": ("b1", "b2", "eps", "weight_decay", "decay"),
    "nadam": ("b1", "b2", "eps", "weight_decay", "decay"),
    "sgd": ("momentum", "weight_decay", "decay"),
    "lion": ("b1", "b2", "weight_decay", "decay"),
    "muon": ("momentum", "b1", "b2", "eps", "weight_decay", "decay"),
}


class Limit(NamedTuple):
    """A condition on a value, and the words for it in a message."""

    holds: Callable[[Any], bool]
    expected: str


def _below(limit: int) -> Limit:
    return Limit(lambda x: 0 <= x < limit, f"at least 0 and below {limit}")


AT_LEAST_0 = Limit(lambda n: n >= 0, "at least 0")
AT_LEAST_1 = Limit(lambda n: n >= 1, "at least 1")
NOT_HUGE = Limit(lambda n: n <= LARGEST, f"at most {LARGEST}")
Count = Annotated[int, AT_LEAST_1, NOT_HUGE]
Seed = Annotated[int, Limit(lambda n: 0 <= n < 2**32, "0 to 2**32 - 1")]
Fraction = Annotated[float, _below(1)]
Positive = Annotated[float, Limit(lambda x: 0 < x < FLOAT32_MAX, "above 0 and finite")]
NotNegative = Annotated[float, Limit(lambda x: 0 <= x < FLOAT32_MAX, "at least 0 and finite")]
DatasetName = Annotated[
    str,
    Limit(
        lambda name: bool(re.fullmatch(r"\w+(/[\w.-]+)?(:\d+\.\d+\.\d+)?", name)),
        "a tfds name such as mnist or emnist/letters:3.1.0",
    ),
]


def _require(condition: bool, name: str, expected: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def flattened(values: Any, prefix: str = "") -> dict[str, Any]:
    """Returns nested dicts' values by names such as "optimizer.learning_rate"."""
    if not isinstance(values, dict):
        return {prefix.removesuffix("."): values}
    parts = (flattened(value, f"{prefix}{name}.") for name, value in values.items())
    return {name: value for part in parts for name, value in part.items()}


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Returns " (did you mean X?)" with the most similar known name, or "".

    It compares last parts of dotted names and their initials (lr: learning_rate), first within the
    group.
    """
    group, _, last = str(name).rpartition(".")
    known = [*known]
    for among in ([other for other in known if other.startswith(f"{group}.")], known):
        short = {}
        for other in reversed(among):
            words = other.rpartition(".")[2]
            short |= {"".join(word[:1] for word in words.split("_")): other, words: other}
        if near := difflib.get_close_matches(last, short, 1):
            return f" (did you mean {short[near[0]]}?)"
    return ""


def _unknown_field(name: object, known: Iterable[str]) -> ValueError:
    group, known = str(name).partition(".")[0] + ".", [*known]
    listed = ", ".join([other for other in known if other.startswith(group)] or known)
    near = did_you_mean(name, known)
    return ValueError(f"unknown config field {name}{near}; expected some of {listed}")


class Checked:
    """A config that checks its values against the types and limits of its annotations.

    Scalars of NumPy and JAX become Python numbers, for JSON.
    """

    def __new__(cls, *_: Any, **values: Any) -> Self:
        known = typing.get_type_hints(cls)
        for name in values:
            if name not in known:
                near = did_you_mean(name, flattened(dataclasses.asdict(cls())))  # type: ignore[call-overload]
                raise TypeError(
                    f"{cls.__name__} has no field {name}{near}; expected some of {', '.join(known)}"
                )
        return super().__new__(cls)

    def __post_init__(self):
        cls = type(self)
        section = cls.__name__.removesuffix("Config").lower()
        limits = typing.get_type_hints(cls, include_extras=True)
        for name, expected in typing.get_type_hints(cls).items():
            value = getattr(self, name)
            if getattr(value, "shape", None) == ():
                value = value.item()
                object.__setattr__(self, name, value)
            if typing.get_origin(expected) is Literal:
                valid = value in typing.get_args(expected)
                kind = f"one of {typing.get_args(expected)}"
            else:
                accepted = (int, float) if expected is float else expected
                is_bool = isinstance(value, bool)  # which is an int, too
                valid = isinstance(value, accepted) and is_bool == (expected is bool)
                kind = f"of type {getattr(expected, '__name__', expected)}"
            _require(valid, f"{cls.__name__}.{name}", kind, value)
            for limit in getattr(limits[name], "__metadata__", ()):
                full_name = f"{section}.{name}" if section else name
                _require(limit.holds(value), full_name, limit.expected, value)


@dataclass(frozen=True)
class DataConfig(Checked):
    """The dataset and its splits."""

    dataset: DatasetName = "mnist"
    """Dataset: mnist (in this package), an imported one, or one of tfds."""
    train_split: str = "train"
    """Examples for training and validation, in tfds's notation: train, train[:1000]."""
    test_split: str = "test"
    """Examples for the final test."""
    validation_fraction: Annotated[float, Limit(lambda x: 0 < x < 1, "between 0 and 1")] = 0.2
    """Fraction of train_split held out for validation, unless an imported dataset has its own
    validation split."""
    split_seed: Seed = 42
    """Seed of the validation split: the random_state of scikit-learn's train_test_split."""
    loader: Literal["memory", "stream"] = "memory"
    """Source of the images: the devices' memory, or the disk, read during training."""


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The network. Each architecture has some of these fields, and refuses the others."""

    name: str = "cnn"
    """Architecture: cnn, deep_cnn, mlp, resnet or transformer."""
    features: Count = 32
    """Filters in the first convolution; in a transformer, the width of a token."""
    depth: Annotated[int, AT_LEAST_1, Limit(lambda n: n <= 20, "at most 20")] = 1
    """Number of stages, hidden layers or blocks; each stage of convolutions doubles the filters."""
    kernel_size: Count = 3
    """Side of a filter in pixels; in a transformer, of a patch."""
    stride: Count = 1
    """Step of a filter in pixels; in a ResNet, of the first convolution only."""
    padding: Literal["VALID", "SAME"] = "VALID"
    """Border of a convolution's input: none, or zeros that keep the image's size."""
    pool: Literal["max", "mean", "stride"] = "max"
    """Value kept of each pooling window; "stride" convolves at one place per window only."""
    pool_size: Count = 2
    """Side of a pooling window in pixels."""
    batch_norm: bool = False
    """Batch normalisation after each convolution; --model.no-batch-norm: none."""
    hidden_size: Count = 64
    """Units in a hidden layer."""
    dropout_rate: Fraction = 0.2
    """Fraction of the output layer's inputs (in an MLP, every layer's) dropped at random in
    training."""
    lowering: Literal["auto", "matmul", "xla", "native", "rows"] = "auto"
    """Implementation of convolutions: auto picks the fastest, native is this package's kernel for
    CPUs, rows is for TPUs."""


@dataclass(frozen=True)
class OptimizerConfig(Checked):
    """The update of the parameters by the gradients."""

    name: Literal["adam", "adamw", "nadam", "sgd", "lion", "muon"] = "adam"
    """Optimizer (from Optax)."""
    learning_rate: Positive = 1e-3
    """Learning rate; with a schedule, the largest one."""
    schedule: Literal["constant", "cosine", "exponential", "one_cycle"] = "constant"
    """Learning rate over the run: constant; down along half a cosine; exponentially down to 1 %; or
    up for 30 % of the steps, then down."""
    warmup: Fraction = 0.0
    """Fraction of the steps in which the learning rate first rises from 0."""
    b1: Fraction = 0.9
    """Decay of the running mean of the gradients."""
    b2: Fraction = 0.999
    """Decay of the running mean of squared gradients."""
    eps: Positive = 1e-7
    """Constant added to the root of the mean square."""
    momentum: Fraction = 0.9
    """Decay of the sum of the gradients in sgd and muon."""
    weight_decay: NotNegative = 0.0
    """Fraction of a weight, times the learning rate, removed in each step."""
    decay: Literal["kernels", "all"] = "kernels"
    """Weights that decay: kernels only, or biases and scales too."""
    clip_norm: NotNegative = 0.0
    """Largest joint norm of all gradients; 0: no limit."""

    def __post_init__(self):
        super().__post_init__()
        used = OPTIMIZER_CHOICES[self.name]
        for name in ("b1", "b2", "eps", "momentum", "weight_decay", "decay"):
            default = getattr(OptimizerConfig, name)
            if name not in used and getattr(self, name) != default:
                raise ValueError(
                    f"optimizer.{name} has no effect with {self.name} (it uses learning_rate, "
                    f"{', '.join(used)}); leave it at {default!r}"
                )
        begins = "0 with one_cycle, which has its own warmup"
        may_warm_up = self.schedule != "one_cycle" or not self.warmup
        _require(may_warm_up, "optimizer.warmup", begins, self.warmup)


@dataclass(frozen=True)
class AugmentConfig(Checked):
    """Random changes of the training images, drawn again in each epoch; 0: none."""

    shift: Annotated[float, _below(LARGEST)] = 0.0
    """Largest shift in pixels."""
    rotation: Annotated[float, _below(180)] = 0.0
    """Largest rotation in degrees."""
    scale: Annotated[float, _below(1)] = 0.0
    """Largest fraction by which an image grows or shrinks."""
    shear: Annotated[float, _below(90)] = 0.0
    """Largest shear in degrees."""
    elastic: Annotated[float, _below(LARGEST)] = 0.0
    """Standard deviation, in pixels, of a smooth field of random displacements."""
    cutout: Annotated[int, _below(LARGEST)] = 0
    """Side of a blanked square in pixels."""
    mixup_alpha: Annotated[float, _below(LARGEST)] = 0.0
    """Alpha of mixup, which mixes pairs of examples by a draw of Beta(alpha, alpha)."""


@dataclass(frozen=True)
class WatchConfig(Checked):
    """Early stopping and learning-rate decay when validation stalls; 0: off.

    Lower is better for a metric whose name contains "loss", "error" or "gap", else higher.
    """

    monitor: str = "val_accuracy"
    """Metric that ranks epochs, for early stopping, the kept checkpoint and `--step best`."""
    patience: Annotated[int, AT_LEAST_0, NOT_HUGE] = 0
    """Epochs without improvement before training stops and returns the best network; 0: never."""
    plateau_monitor: str = "val_loss"
    """Metric that decides when to lower the learning rate."""
    plateau_patience: Annotated[int, AT_LEAST_0, NOT_HUGE] = 0
    """Epochs without improvement before the learning rate falls; 0: never."""
    plateau_factor: Annotated[float, Limit(lambda x: 0 < x < 1, "above 0 and below 1")] = 0.1
    """Factor applied to the learning rate on a plateau."""


@dataclass(frozen=True)
class CheckpointConfig(Checked):
    """The times of checkpoints."""

    every_epochs: Annotated[int, AT_LEAST_1] = 1
    """Epochs between checkpoints; the last epoch is always saved."""
    every_steps: Annotated[int, AT_LEAST_0] = 0
    """Steps between extra checkpoints, each at the end of its chunk; 0: none."""


@dataclass(frozen=True)
class Config(Checked):
    """A recipe. The defaults are the reference recipe, `configs/default.py`."""

    seed: Seed = 0
    """Seed of all randomness except the validation split."""
    epochs: Annotated[int, AT_LEAST_1] = 10
    """Passes over the training examples."""
    batch_size: Count = 128
    """Images per training step."""
    chunk_steps: Annotated[int, AT_LEAST_1] = 75
    """Steps in one compiled call; progress is shown after each call."""
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = "float32"
    """Number format of matrix products during training; parameters, optimizer, losses and
    evaluation stay float32."""
    label_smoothing: Fraction = 0.0
    """Fraction of each label that is spread over all classes."""
    ema_decay: Fraction = 0.0
    """Decay of a running mean of the parameters, used for evaluation; 0: none."""
    init_from: str = ""
    """Workdir of a trained network to start from, where its parameters fit."""
    freeze: str = ""
    """Patterns, separated by commas, of parameters and batch statistics to keep fixed: conv*."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self):
        super().__post_init__()
        every = self.checkpoint.every_epochs
        saved = "1 with watch.patience, so that the best epoch is saved"
        _require(not self.watch.patience or every == 1, "checkpoint.every_epochs", saved, every)


FIELD_DOCS: dict[type, dict[str, str]] = {}  # the string below each field


def _document_fields() -> None:
    """Fills `FIELD_DOCS`, and adds it to each class's docstring, for `help(Config)`."""
    try:
        source = inspect.getsource(sys.modules[__name__])
    except (OSError, TypeError, KeyError):  # without the source file
        source = ""
    blocks = re.split(r"(?m)^(?=\S)", source)
    for cls in Checked.__subclasses__():
        block = next((text for text in blocks if text.startswith(f"class {cls.__name__}(")), "")
        found = re.findall(r'(?ms)^    (\w+): [^\n]*\n    """(.*?)"""', block)
        docs = FIELD_DOCS[cls] = {name: " ".join(text.split()) for name, text in found}
        if docs:
            lines = (f"{name}: {text}" for name, text in docs.items())
            filled = (
                textwrap.fill(line, 96, subsequent_indent="    ", break_on_hyphens=False)
                for line in lines
            )
            attributes = textwrap.indent("\n".join(filled), "    ")
            cls.__doc__ = f"{inspect.getdoc(cls)}\n\nAttributes:\n{attributes}\n"


_document_fields()


# Functions that a recipe may define beside get_config, see `parts.recipe_parts`.
PART_FUNCTIONS = ("get_model", "get_optimizer", "get_loss", "get_splits", "get_metrics")


def load_config(path: str | Path) -> Config:
    """Reads a recipe: a Python file with `get_config() -> Config`, a `config.json`, or a name.

    Raises FileNotFoundError without such a recipe, ValueError without a valid Config.
    """
    function = recipe_function(path, "get_config")
    config = function() if function else None
    if not isinstance(config, Config):
        raise ValueError(f"{path} must define get_config() -> Config")
    return config


def recipe_function(path: str | Path, name: str) -> Callable[..., Any] | None:
    """Returns a function of a recipe, None if it is undefined. Raises like `load_config`.

    An error in the function becomes a ValueError that names the file.
    """
    file = _find_recipe(path)

    def read() -> dict[str, Any]:
        if file.suffix != ".json":
            return _run_recipe(file.absolute(), file.stat().st_mtime_ns)
        config = config_from_dict(json.loads(file.read_text(encoding="utf-8")))
        return {"get_config": lambda: config}

    defined = _of_recipe(path, file, read)()
    for other in defined:
        near = difflib.get_close_matches(other, PART_FUNCTIONS, 1, 0.8)
        if near and near[0] not in defined:
            raise ValueError(f"{path} defines {other}, which has no effect; call it {near[0]}")
    function = defined.get(name)
    return _of_recipe(path, file, function) if callable(function) else None


def recipe_folder() -> Path:
    """Returns the folder of the package's recipes."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def recipe_names() -> list[str]:
    """Returns the names of the package's recipes."""
    return sorted(file.stem for file in recipe_folder().glob("[a-z]*.py"))


def _find_recipe(path: str | Path) -> Path:
    file = Path(path)
    if file.is_file():
        if file.suffix not in (".py", ".json"):
            raise ValueError(f"{path} is not a recipe; expected a .py file or a config.json")
        return file
    name = str(path).removeprefix("configs/").removesuffix(".py")
    if name in recipe_names():
        return recipe_folder() / f"{name}.py"
    message = f"there is no config file {str(path)!r}"
    if str(path) and (file / "config.json").is_file():
        raise FileNotFoundError(f"{message}; for that run's recipe, name {file / 'config.json'}")
    close = difflib.get_close_matches(name.lower(), recipe_names(), 1)
    near = f" (did you mean {close[0]}?)" if close else ""
    raise FileNotFoundError(f"{message}{near}; the recipes are {', '.join(recipe_names())}")


@functools.lru_cache(maxsize=8)
def _run_recipe(file: Path, mtime_ns: int) -> dict[str, Any]:  # noqa: ARG001 (part of the key)
    """Runs a recipe's file once, for all of its functions."""
    return runpy.run_path(str(file))


def _of_recipe(path: str | Path, file: Path, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        here = str(file.absolute().parent)  # where a script finds its neighbours
        sys.path.insert(0, here)
        try:
            return function(*args)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # even SystemExit
            raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
        finally:
            with contextlib.suppress(ValueError):
                sys.path.remove(here)

    return call


def config_from_dict(values: Any) -> Config:
    """Builds a Config from nested dicts; ValueError if invalid."""
    return _build(Config, values, "")


def replace_fields(config: Config, values: dict[str, Any]) -> Config:
    """Returns the config with new values, such as {"optimizer.learning_rate": 0.01}.

    Raises ValueError for an unknown field or invalid value.
    """
    nested = dataclasses.asdict(config)
    known = flattened(nested)
    for name, value in values.items():
        if name not in known:
            raise _unknown_field(name, known)
        *groups, field_name = name.split(".")
        functools.reduce(lambda part, group: part[group], groups, nested)[field_name] = value
    return config_from_dict(nested)


def _build(cls: type, values: Any, prefix: str) -> Any:
    _require(isinstance(values, dict), prefix.rstrip(".") or "a config", "an object", values)
    types = typing.get_type_hints(cls)
    if unknown := sorted(set(values) - set(types), key=str):
        known = flattened(dataclasses.asdict(cls()))
        raise _unknown_field(f"{prefix}{unknown[0]}", [prefix + name for name in known])
    return cls(
        **{
            name: _build(types[name], value, f"{prefix}{name}.")
            if dataclasses.is_dataclass(types[name])
            else value
            for name, value in values.items()
        }
    )


def completed(values: dict[str, Any]) -> dict[str, Any]:
    """Returns `flattened` values, with defaults for missing fields."""
    defaults = flattened(dataclasses.asdict(Config()))
    return defaults | flattened(values)


def fields_with_defaults(config: Config) -> dict[str, tuple[Any, Any]]:
    """Returns each field's (value, default) by its `flattened` name."""
    values, defaults = completed(dataclasses.asdict(config)), completed({})
    return {name: (value, defaults[name]) for name, value in values.items()}


def config_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns a line for each different value of nested dicts: "epochs is 9, not 10"."""
    before, after = (flattened(values) for values in (old, new))
    return [
        f"{name} is {before.get(name)!r}, not {after.get(name)!r}"
        for name in before | after
        if name not in before or name not in after or before[name] != after[name]
    ]
