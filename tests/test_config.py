import dataclasses
import json
import math
import pickle
import py_compile
import re
from collections.abc import Callable
from typing import Any

import docstring_parser
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import RECIPES, ROOT, python
from hypothesis import given
from hypothesis import strategies as st

from mnist_jax.cli.main import main
from mnist_jax.config import (
    AugmentConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    WatchConfig,
    config_differences,
    config_from_dict,
    load_config,
    replace_fields,
)
from mnist_jax.laboratory.members import create_members
from mnist_jax.laboratory.sweep import sweep


def test_the_default_recipe_is_the_reference_recipe():
    config = load_config(RECIPES / "default.py")
    assert config == Config()
    assert (config.epochs, config.batch_size, config.precision) == (10, 128, "float32")
    assert repr(config.optimizer) == (
        "OptimizerConfig(name='adam', learning_rate=0.001, schedule='constant', warmup=0.0, "
        "b1=0.9, b2=0.999, eps=1e-07, momentum=0.9, weight_decay=0.0, decay='kernels', "
        "clip_norm=0.0)"
    )
    assert repr(config.model) == (
        "ModelConfig(name='cnn', features=32, depth=1, kernel_size=3, stride=1, padding='VALID', "
        "pool='max', pool_size=2, batch_norm=False, hidden_size=64, dropout_rate=0.2, "
        "lowering='auto')"
    )
    others = [config.label_smoothing, config.ema_decay, config.init_from, config.freeze]
    others += [config.watch.patience, config.watch.plateau_patience, *vars(config.augment).values()]
    assert not any(others)


def test_every_recipe_is_valid_and_says_how_to_run_it(subtests):
    for path in sorted(RECIPES.glob("*.py")):
        with subtests.test(path.name):
            assert isinstance(load_config(path), Config)
            command = "sweep" if path.name == "sweep.py" else "train"
            told = f"mnist-jax {command} --config {path.stem}"
            assert told in path.read_text(encoding="utf-8")


@given(
    st.builds(
        Config,
        seed=st.integers(0, 2**32 - 1),
        epochs=st.integers(1, 1000),
        data=st.builds(DataConfig, validation_fraction=st.floats(0.01, 0.99)),
        optimizer=st.builds(OptimizerConfig, learning_rate=st.floats(1e-30, 1e30)),
    )
)
def test_json_gives_the_same_config_back(config):
    assert config_from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_a_field_that_an_older_file_does_not_have_gets_its_default():
    older = dataclasses.asdict(Config(epochs=3))
    del older["precision"], older["model"]["lowering"]
    assert config_from_dict(older) == Config(epochs=3)


# tests/faults/test_bad_recipes.py has the range of every field.
REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: Config(epochs=2.5), "Config.epochs must be of type int, got 2.5"),  # type: ignore
    (lambda: Config(epochs=True), "Config.epochs must be of type int, got True"),
    (lambda: Config(batch_size=-3), "batch_size must be at least 1, got -3"),
    (lambda: Config(precision="float16"), "Config.precision must be one of ('float32', 'tens"),  # type: ignore
    (lambda: Config(model={}), "Config.model must be of type ModelConfig"),  # type: ignore
    (lambda: DataConfig(dataset="../mnist"), "data.dataset must be a tfds name"),
    (lambda: OptimizerConfig(eps=math.inf), "optimizer.eps must be above 0 and finite"),
    (lambda: OptimizerConfig(b1=True), "OptimizerConfig.b1 must be of type float, got True"),
    (lambda: config_from_dict({"optimizer": 3}), "optimizer must be an object, got 3"),
    (lambda: Config(foo=1), "Config has no field foo; expected some of seed, epochs"),  # type: ignore
    (lambda: Config(learning_rate=1), "learning_rate (did you mean optimizer.learning_rate?)"),  # type: ignore
    (lambda: OptimizerConfig(lr=1), "OptimizerConfig has no field lr (did you mean learning_rate"),  # type: ignore
    (lambda: dataclasses.replace(Config(), epoch=1), "epoch (did you mean epochs?)"),  # type: ignore
    (lambda: replace_fields(Config(), {"lr": 1}), "field lr (did you mean optimizer.learning_rat"),
    (lambda: replace_fields(Config(), {"watch": {}}), "watch; expected some of watch.monitor, w"),
    (lambda: config_from_dict({"epoch": 3}), "unknown config field epoch (did you mean epochs?)"),
    (lambda: config_from_dict({"a": 3, 1: 2}), "unknown config field 1"),
    (lambda: config_from_dict({"optimizer": {"lr": 1}}), "optimizer.lr (did you mean optimizer.l"),
    (lambda: create_members(Config(), 1, {"lr": [1]}), "(did you mean optimizer.learning_rate?)"),
    (lambda: create_members(Config(), 1, {"ema_decay": 0.1}), "must be a list of numbers, got 0.1"),  # type: ignore
    (lambda: create_members(Config(), 1, {"ema_decay": "12"}), "distinct values, got '12'"),  # type: ignore
    (lambda: create_members(Config(), [0, 1], {}), "seeds must be a whole number"),  # type: ignore
    (lambda: sweep(Config(), {"epochs": [1, 2]}, "x", trials=1), "Optuna's distributions, such"),  # type: ignore
]


def test_invalid_values_are_refused_and_unknown_fields_named_with_the_nearest_one(subtests):
    for use, message in REFUSED:
        match = re.escape(message)
        with subtests.test(message), pytest.raises((TypeError, ValueError), match=match):
            use()


def test_scalars_of_numpy_and_jax_become_numbers_of_python():
    rates = np.array([0.25, 0.5], np.float32)
    scalars: dict[str, Any] = {"epochs": np.int64(3), "batch_size": jnp.array(64)}
    scalars |= {"model.name": np.str_("mlp"), "model.batch_norm": np.bool_(False)}
    config = replace_fields(Config(), scalars | {"optimizer.learning_rate": rates[0]})
    values = {"epochs": 3, "batch_size": 64, "model.name": "mlp", "optimizer.learning_rate": 0.25}
    plain = replace_fields(Config(), values)
    assert (config, hash(config), repr(config)) == (plain, hash(plain), repr(plain))
    assert config_from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == plain
    assert pickle.loads(pickle.dumps(config)) == plain
    members = create_members(plain, np.int64(1), {"optimizer.learning_rate": rates})  # type: ignore[arg-type]
    assert [member.values["optimizer.learning_rate"] for member in members] == [0.25, 0.5]
    with pytest.raises(ValueError, match=r"Config.epochs must be of type int, got 3.0"):
        Config(epochs=np.float64(3))  # type: ignore[arg-type]


def test_differences_name_fields_and_values():
    old, new = dataclasses.asdict(Config()), dataclasses.asdict(Config(epochs=3))
    new["optimizer"]["learning_rate"] = 0.01
    changed = "optimizer.learning_rate is 0.001, not 0.01"
    assert config_differences(old, new) == ["epochs is 10, not 3", changed]
    assert config_differences(new, new) == []
    del new["epochs"]
    assert config_differences(old, new) == ["epochs is 10, not None", changed]


def test_the_docstring_of_each_part_says_what_its_fields_mean(capsys, subtests):
    assert main(["train", "--help-all"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    parts: list[Any] = [DataConfig, ModelConfig, OptimizerConfig, AugmentConfig, WatchConfig]
    for cls in (Config, CheckpointConfig, *parts):
        with subtests.test(cls.__name__):
            parsed = docstring_parser.parse(cls.__doc__ or "")
            own = [f for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING]
            assert [param.arg_name for param in parsed.params] == [field.name for field in own]
            for param in parsed.params:
                assert " ".join((param.description or "").split()).rstrip(".") in told
            assert told.count(parsed.short_description or "") == (cls is not Config)


@pytest.mark.parametrize("option", ["-O", "-OO"])
def test_a_config_without_its_source_is_the_same(option, tmp_path):
    source = ROOT / "mnist_jax" / "config.py"
    py_compile.compile(str(source), str(tmp_path / "alone.pyc"), optimize=len(option) - 1)
    done = python(option, "-c", "import alone; print(alone.Config())", cwd=tmp_path)
    assert done.stdout == f"{Config()}\n", done.stderr
