"""Bad input for `sweep`: exit code 2, one line on standard error, and nothing written."""

import importlib.util

import pytest

HEAD = """
from mnist_jax import Config
from mnist_jax.config import DataConfig

def get_config():
    return Config(epochs=1, data=DataConfig(train_split="train[:640]", test_split="test[:100]"))

"""


def space(body: str) -> str:
    return f"{HEAD}from optuna.distributions import *\ndef get_search_space(): {body}\n"


def of(**distributions: str) -> str:
    """Returns a recipe with distributions; "__" stands for a dot."""
    pairs = (f"'{name.replace('__', '.')}': {kind}" for name, kind in distributions.items())
    return space(f"return {{{', '.join(pairs)}}}")


GOOD, UNIT = of(epochs="IntDistribution(1, 2)"), "FloatDistribution(0, 1)"
NO_SPACE = "must define get_search_space() -> dict of field names and Optuna's distributions"
UNKNOWN = "unknown config field optimizer.lr (did you mean optimizer.learning_rate?); expected"
OTHER_DATA = "must not hold data.validation_fraction: accuracies on different data cannot be"
OPTIMIZERS = "CategoricalDistribution(['sgd', '{}'])".format
BAD_RECIPES = {
    "none.py": (HEAD, NO_SPACE),
    "value.py": (HEAD + "get_search_space = 3", NO_SPACE),
    "empty.py": (space("return {}"), NO_SPACE),
    "numbers.py": (of(epochs="[1, 2]"), NO_SPACE),
    "recipe.json": ('{"epochs": 1}', NO_SPACE),
    "raises.py": (space("1 / 0"), "raises.py: ZeroDivisionError"),
    "bounds.py": (of(x="FloatDistribution(2, 1)"), "bounds.py: ValueError: "),
    "field.py": (of(optimizer__lr=UNIT), UNKNOWN),
    "group.py": (of(model=UNIT), "unknown config field model"),
    "number.py": (space(f"return {{1: {UNIT}}}"), NO_SPACE),
    "low.py": (of(optimizer__eps=UNIT), "does not fit the config: optimizer.eps must be above 0"),
    "type.py": (of(epochs="FloatDistribution(1, 3)"), "Config.epochs must be of"),
    "choice.py": (of(optimizer__name=OPTIMIZERS("adan")), "OptimizerConfig.name must be one of"),
    "together.py": (
        of(optimizer__name=OPTIMIZERS("adam"), optimizer__b1="FloatDistribution(0.8, 0.95)"),
        "optimizer.b1 has no effect with sgd",
    ),
    "data.py": (of(data__validation_fraction="FloatDistribution(0.1, 0.5)"), OTHER_DATA),
}
START = "sweep --config good.py --trials 1"
ARGUMENTS = {
    "sweep": "--config",
    "sweep --trials 3": "--config",
    "sweep --config good.py": "--trials",
    "sweep --config good.py --trials 0": "trials must be at least 1, got 0",
    f"{START} --epochs 0": "epochs must be at least 1, got 0",
    f"{START} --workdir ''": "--workdir must be a path",
    f"{START} --workdir a-file": "the workdir a-file is a file",
    f"{START} --workdir a-file/x": "a-file/x: Not a directory",
    f"{START} --workdir of-train": "holds a run of `train`: choose",
    f"{START} --workdir lost": "holds trials but no sweep.db: give the",
    f"{START} --workdir broken": "sweep.db cannot be opened: file is",
    f"{START} --workdir broken --storage x": "leave out --storage",
    f"{START} --storage ''": "--storage cannot be opened: Could not parse",
    f"{START} --storage a://b": "--storage cannot be opened: Can't load",
    f"{START} --storage oracle://b/c": "--storage cannot be opened: ",
    f"{START} --storage sqlite:///no/x.db": "unable to open database file",
    f"{START} --storage sqlite:///{{x}}.db": "--storage cannot be opened: ",
}


FILES = {name: text for name, (text, _) in BAD_RECIPES.items()} | {
    "good.py": GOOD,
    "of-train/config.json": "{}",
    "lost/trials/": "",
    "broken/sweep.db": "no database " * 100,
}


@pytest.mark.slow
def test_bad_recipes_of_a_sweep_are_named(refuse_each):
    start = "sweep --trials 1 --workdir new --config"
    refuse_each({f"{start} {name}": message for name, (_, message) in BAD_RECIPES.items()})


def test_bad_arguments_of_a_sweep_are_named(refuse_each):
    refuse_each(ARGUMENTS)


def test_without_optuna_one_line_says_what_to_install(refuse, monkeypatch):
    find = importlib.util.find_spec
    without = lambda name: None if name == "optuna" else find(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    message = refuse(START)
    assert "a sweep needs optuna: `pip install optuna`, or the extra `sweep`" in message
