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
    """Returns the values of nested dicts by names such as "optimizer.learning_rate"."""
    if not isinstance(values, dict):
        return {prefix.removesuffix("."): values}
    parts = (flattened(value, f"{prefix}{name}.") for name, value in values.items())
    return {name: value for part in parts for name, value in part.items()}


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Returns " (did you mean X?)" with the known name that is most like another, or "".

    The last parts of dotted names are compared, first within the group that is named, and initials
    count: lr is like optimizer.learning_rate.
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
    """A config whose values have the types of their annotations and keep the limits there.

    Scalars of NumPy and JAX become numbers of Python, which compare alike and fit into JSON.
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
                is_bool = isinstance(value, bool)  # which Python counts among the integers
                valid = isinstance(value, accepted) and is_bool == (expected is bool)
                kind = f"of type {getattr(expected, '__name__', expected)}"
            _require(valid, f"{cls.__name__}.{name}", kind, value)
            for limit in getattr(limits[name], "__metadata__", ()):
                full_name = f"{section}.{name}" if section else name
                _require(limit.holds(value), full_name, limit.expected, value)


@dataclass(frozen=True)
class DataConfig(Checked):
    """What the network learns from."""

    dataset: DatasetName = "mnist"
    """A name of tfds; `mnist` comes with this package."""
    train_split: str = "train"
    """The examples for training and validation, in tfds's notation: train, train[:1000]."""
    test_split: str = "test"
    """The examples for the test at the end."""
    validation_fraction: Annotated[float, Limit(lambda x: 0 < x < 1, "between 0 and 1")] = 0.2
    """Fraction of train_split held out for validation; of no effect where the dataset was imported
    with a validation part."""
    split_seed: Seed = 42
    """Draws the validation examples, as scikit-learn's train_test_split(random_state=...) does."""
    loader: Literal["memory", "stream"] = "memory"
    """Where the images are: all in the devices' memory, or on the disk, read while it trains."""


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The network. An architecture refuses a choice that it does not have; see `models`."""

    name: str = "cnn"
    """The architecture: a file of `mnist_jax/models/`."""
    features: Count = 32
    """Filters of the first convolution; of a transformer, the width of a token."""
    depth: Annotated[int, AT_LEAST_1, Limit(lambda n: n <= 20, "at most 20")] = 1
    """Stages one after another; each stage of convolutions has twice the filters of the last."""
    kernel_size: Count = 3
    """Pixels a side of a filter; of a transformer, of a patch."""
    stride: Count = 1
    """Pixels from one place of a filter to the next; of a ResNet, in its first convolution."""
    padding: Literal["VALID", "SAME"] = "VALID"
    """What surrounds an image that is convolved: nothing, or zeros, so that no rows are lost."""
    pool: Literal["max", "mean", "stride"] = "max"
    """What is kept of each window; with "stride", the convolution leaves the others out at once."""
    pool_size: Count = 2
    """Pixels a side of a pooling window."""
    batch_norm: bool = False
    """Whether each feature of a convolution is normalised over the batch."""
    hidden_size: Count = 64
    """Units of a hidden layer."""
    dropout_rate: Fraction = 0.2
    """The part of what the output layer is given (of an MLP, any layer) that a step leaves out."""
    lowering: Literal["auto", "matmul", "xla", "native", "rows"] = "auto"
    """How convolutions are computed: auto takes what should be the fastest here; matmul: matrix
    products; xla: XLA's own; rows: convolutions of whole rows, for TPUs; native: a kernel of this
    package for CPUs, where it fits."""


@dataclass(frozen=True)
class OptimizerConfig(Checked):
    """How the gradients change the parameters."""

    name: Literal["adam", "adamw", "nadam", "sgd", "lion", "muon"] = "adam"
    """The rule, of Optax."""
    learning_rate: Positive = 1e-3
    """Step size; of a schedule, the largest one."""
    schedule: Literal["constant", "cosine", "exponential", "one_cycle"] = "constant"
    """The step size over the run: always the same, down along half a wave, down to a hundredth, or
    up for 30 % of the steps and then down."""
    warmup: Fraction = 0.0
    """The part of the steps in which the step size first rises from 0."""
    b1: Fraction = 0.9
    """Decay of the mean of the gradients."""
    b2: Fraction = 0.999
    """Decay of the mean of their squares."""
    eps: Positive = 1e-7
    """Added to the root of the second mean."""
    momentum: Fraction = 0.9
    """Decay of the sum of the gradients, of sgd and muon."""
    weight_decay: NotNegative = 0.0
    """The part of a weight that goes with each step, times the step size."""
    decay: Literal["kernels", "all"] = "kernels"
    """Which weights decay: kernels only, or biases and scales too."""
    clip_norm: NotNegative = 0.0
    """The largest norm of all gradients together; 0: no limit."""

    def __post_init__(self):
        super().__post_init__()
        used = OPTIMIZER_CHOICES[self.name]
        for name in ("b1", "b2", "eps", "momentum", "weight_decay", "decay"):
            default = getattr(OptimizerConfig, name)
            if name not in used and getattr(self, name) != default:
                raise ValueError(
                    f"optimizer.{name} must stay at {default!r} with {self.name}, which has no use "
                    f"for it but for learning_rate, {', '.join(used)}"
                )
        begins = "0 with one_cycle, which begins with one of its own"
        may_warm_up = self.schedule != "one_cycle" or not self.warmup
        _require(may_warm_up, "optimizer.warmup", begins, self.warmup)


@dataclass(frozen=True)
class AugmentConfig(Checked):
    """How training images are changed at random, each time they are seen; 0: not at all."""

    shift: Annotated[float, _below(LARGEST)] = 0.0
    """Pixels to a side, at most."""
    rotation: Annotated[float, _below(180)] = 0.0
    """Degrees either way, at most."""
    scale: Annotated[float, _below(1)] = 0.0
    """The part by which an image grows or shrinks, at most."""
    shear: Annotated[float, _below(90)] = 0.0
    """Degrees either way, at most."""
    elastic: Annotated[float, _below(LARGEST)] = 0.0
    """Pixels by which a smooth random field moves each point (standard deviation)."""
    cutout: Annotated[int, _below(LARGEST)] = 0
    """Pixels a side of a square that is blanked."""
    mixup_alpha: Annotated[float, _below(LARGEST)] = 0.0
    """Mixup: two images and their labels, weighted by a draw of Beta(alpha, alpha)."""


@dataclass(frozen=True)
class WatchConfig(Checked):
    """What is done where the validation no longer gets better; 0: nothing.

    Of a metric whose name contains "loss", "error" or "gap" lower is better, of others higher.
    """

    monitor: str = "val_accuracy"
    """Metric of the history by which an epoch is the best: for early stopping, for the checkpoint
    that is kept, and for `--step best`."""
    patience: Annotated[int, AT_LEAST_0, NOT_HUGE] = 0
    """Epochs since the best one after which training stops; the result is then the best network,
    not the last one."""
    plateau_monitor: str = "val_loss"
    """Metric of the history that shows when to lower the learning rate."""
    plateau_patience: Annotated[int, AT_LEAST_0, NOT_HUGE] = 0
    """Epochs without a better `plateau_monitor` after which the learning rate falls."""
    plateau_factor: Annotated[float, Limit(lambda x: 0 < x < 1, "above 0 and below 1")] = 0.1
    """What it is multiplied with then."""


@dataclass(frozen=True)
class CheckpointConfig(Checked):
    """When the training state is saved."""

    every_epochs: Annotated[int, AT_LEAST_1] = 1
    """Epochs between checkpoints; the last epoch is always saved."""
    every_steps: Annotated[int, AT_LEAST_0] = 0
    """Steps between further checkpoints, each at the end of its chunk; 0: only at epochs."""


@dataclass(frozen=True)
class Config(Checked):
    """A recipe. The defaults are the reference recipe, the one of `configs/default.py`.

    Its parts have fields of their own: see `DataConfig`, `ModelConfig`, `OptimizerConfig`,
    `AugmentConfig`, `WatchConfig` and `CheckpointConfig`.
    """

    seed: Seed = 0
    """The root of all randomness."""
    epochs: Annotated[int, AT_LEAST_1] = 10
    """Passes over the training examples."""
    batch_size: Count = 128
    """Examples a step."""
    chunk_steps: Annotated[int, AT_LEAST_1] = 75
    """Steps in one compiled call; progress is shown once a call."""
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = "float32"
    """What the network multiplies in where it is trained; parameters, optimizer and losses stay
    float32, and so does evaluation."""
    label_smoothing: Fraction = 0.0
    """The part of each label that is spread over all classes."""
    ema_decay: Fraction = 0.0
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
        super().__post_init__()
        every = self.checkpoint.every_epochs
        saved = "1 with watch.patience, so that the best epoch is saved"
        _require(not self.watch.patience or every == 1, "checkpoint.every_epochs", saved, every)


FIELD_DOCS: dict[type, dict[str, str]] = {}  # the string below each field, in one line


def _document_fields() -> None:
    """Fills `FIELD_DOCS`, and adds it to the docstring of each class: for `help(Config)`."""
    try:
        source = inspect.getsource(sys.modules[__name__])  # once: of a class, Python parses it all
    except (OSError, TypeError, KeyError):  # only the compiled file is there, or its text is run
        source = ""
    blocks = re.split(r"(?m)^(?=\S)", source)
    for cls in Checked.__subclasses__():
        block = next((text for text in blocks if text.startswith(f"class {cls.__name__}(")), "")
        found = re.findall(r'(?ms)^    (\w+): [^\n]*\n    """(.*?)"""', block)
        docs = FIELD_DOCS[cls] = {name: " ".join(text.split()) for name, text in found}
        if docs:
            lines = (f"{name}: {text}" for name, text in docs.items())
            filled = (textwrap.fill(line, 96, subsequent_indent="    ") for line in lines)
            attributes = textwrap.indent("\n".join(filled), "    ")
            cls.__doc__ = f"{inspect.getdoc(cls)}\n\nAttributes:\n{attributes}\n"


_document_fields()


# What a recipe may define beside get_config: the user's own parts, see `parts.recipe_parts`.
PART_FUNCTIONS = ("get_model", "get_optimizer", "get_loss", "get_splits", "get_metrics")


def load_config(path: str | Path) -> Config:
    """Reads a recipe: a Python file with `get_config() -> Config`, or a `config.json`.

    The package's own recipes are also found by their names, such as `fast`.

    Raises FileNotFoundError if the file does not exist, and ValueError if it does not give a
    valid Config; the message names the file and the reason.
    """
    function = recipe_function(path, "get_config")
    config = function() if function else None
    if not isinstance(config, Config):
        raise ValueError(f"{path} must define get_config() -> Config")
    return config


def recipe_function(path: str | Path, name: str) -> Callable[..., Any] | None:
    """Returns a function of a recipe, or None where it has no such function.

    Whatever the function raises becomes a ValueError that names the file. A `config.json` has
    get_config only. Raises as `load_config` does.
    """
    file = _find_recipe(path)

    def read() -> dict[str, Any]:
        if file.suffix != ".json":
            return _run_recipe(file.absolute(), file.stat().st_mtime_ns)
        config = config_from_dict(json.loads(file.read_text(encoding="utf-8")))
        return {"get_config": lambda: config}

    defined = _of_recipe(path, file, read)()
    for other in defined:  # a slip would train without what it names
        near = difflib.get_close_matches(other, PART_FUNCTIONS, 1, 0.8)
        if near and near[0] not in defined:
            raise ValueError(f"{path} defines {other}, which has no effect: call it {near[0]}")
    function = defined.get(name)
    return _of_recipe(path, file, function) if callable(function) else None


def recipe_folder() -> Path:
    """Returns the folder of the package's recipes; in a checkout it lies beside the package."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def recipe_names() -> list[str]:
    """Returns the names of the package's recipes: `mnist-jax train --config NAME`."""
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
    near = did_you_mean(name, recipe_names())
    raise FileNotFoundError(f"{message}{near}; the recipes are {', '.join(recipe_names())}")


@functools.lru_cache(maxsize=8)
def _run_recipe(file: Path, mtime_ns: int) -> dict[str, Any]:  # noqa: ARG001 (part of the key)
    """Runs a recipe once, however many of its functions are called."""
    return runpy.run_path(str(file))


def _of_recipe(path: str | Path, file: Path, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        here = str(file.absolute().parent)  # where a script finds its neighbours
        sys.path.insert(0, here)
        try:
            return function(*args)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a recipe raises, SystemExit too
            raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
        finally:
            with contextlib.suppress(ValueError):
                sys.path.remove(here)

    return call


def config_from_dict(values: Any) -> Config:
    """Builds a Config from nested dicts, as `dataclasses.asdict` gives; ValueError if wrong."""
    return _build(Config, values, "")


def replace_fields(config: Config, values: dict[str, Any]) -> Config:
    """Returns the config with other values: {"epochs": 3, "optimizer.learning_rate": 0.01}.

    Raises ValueError if a field does not exist, or the values are not valid together.
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
    """Returns the fields of nested dicts by names such as "optimizer.learning_rate".

    Fields that the config of an older version lacks get their defaults; a run may have added some.
    """
    defaults = flattened(dataclasses.asdict(Config()))
    return defaults | flattened(values)


def fields_with_defaults(config: Config) -> dict[str, tuple[Any, Any]]:
    """Returns each field's value and its default, by names such as "optimizer.learning_rate"."""
    values, defaults = completed(dataclasses.asdict(config)), completed({})
    return {name: (value, defaults[name]) for name, value in values.items()}


def config_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns a line for each value of nested dicts that differs, such as "epochs is 9, not 10"."""
    before, after = (flattened(values) for values in (old, new))
    return [
        f"{name} is {before.get(name)!r}, not {after.get(name)!r}"
        for name in before | after
        if name not in before or name not in after or before[name] != after[name]
    ]
