"""Bad recipes: exit code 2, one line on standard error that names it, and nothing written."""

import dataclasses
import json
import typing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mnist_jax import Config

MANY_DIGITS = "9" * 5000
ANYTHING = bytes(range(256))
IMPORT = "from mnist_jax import Config\n"
GOOD = IMPORT + "def get_config(): return Config()\n"
ZEROS = "0" * 400
# Files with a part of the message.
BAD_RECIPES: dict[str, tuple[str | bytes, str]] = {
    "raises.py": ("1 / 0", "raises.py: ZeroDivisionError: division by zero"),
    "raises-lines.py": ("raise ValueError('a\\nb\\r\\n\\nc')", "lines.py: ValueError: a b c"),
    "raises-all.py": ("class E(BaseException): pass\nraise E('x')", "raises-all.py: E: x"),
    "exits.py": ("import sys; sys.exit(0)", "exits.py: SystemExit: 0"),
    "empty.py": ("", "empty.py must define get_config() -> Config"),
    "argument.py": ("def get_config(x): pass", "argument.py: TypeError: get_config() missing"),
    "keyword.py": (IMPORT + "def get_config(): return Config(epoch=3)", "no field epoch (did"),
    "value.py": (IMPORT + "def get_config(): return Config(epochs='3')", "value.py: ValueError"),
    "forever.py": ("def get_config(): return get_config()", "forever.py: RecursionError"),
    "slip.py": (GOOD + "def get_modle(): pass", "get_modle, which has no effect; call it get_"),
    "plural.py": (GOOD + "def get_loss_fn(): pass", "plural.py defines get_loss_fn, which has"),
    "imports.py": ("import nothing_there", "imports.py: ModuleNotFoundError"),
    "syntax.py": ("x = (", "syntax.py: SyntaxError"),
    "nested.py": ("x = " + "(" * 1000, "nested.py: SyntaxError"),
    "latin.py": (b"x = '\xff'", "latin.py: SyntaxError"),
    "binary.py": (ANYTHING, "binary.py: "),
    "directory.py/": ("", "there is no config file 'directory.py'"),
    "unreadable.py": ("@/proc/self/mem", "unreadable.py: OSError"),
    "recipe.toml": ("epochs = 3", "recipe.toml is not a recipe; expected a .py file or"),
    "open.json": ("{", "open.json: JSONDecodeError"),
    "bom.json": ("\ufeff{}", "bom.json: JSONDecodeError"),
    "utf16.json": ("{}".encode("utf-16"), "utf16.json: UnicodeDecodeError"),
    "directory.json/": ("", "there is no config file 'directory.json'"),
    "unreadable.json": ("@/proc/self/mem", "unreadable.json: OSError"),
    "deep.json": ("[" * 100_000, "deep.json: RecursionError"),
    "null.json": ("null", "a config must be an object, got None"),
    "unknown.json": ('{"epoch": 3}', "unknown config field epoch (did you mean epochs?)"),
    "unknown-inside.json": ('{"model": {"x": 3}}', "unknown config field model.x"),
    "unknown-lines.json": ('{"a\\nb": 1}', "unknown config field a b"),
    "nan.json": ('{"optimizer": {"eps": NaN}}', "optimizer.eps must be above 0 and finite"),
    "overflow.json": ('{"epochs": 1e999}', "Config.epochs must be of type int, got inf"),
    "huge-seed.json": (f'{{"seed": 1{ZEROS}}}', "seed must be 0 to 2**32 - 1"),
    "digits.json": (f'{{"seed": {MANY_DIGITS}}}', "digits.json: ValueError"),
}
FILES = {name: content for name, (content, _) in BAD_RECIPES.items()}


@pytest.mark.parametrize("command", ["train", "summary"])
def test_bad_files_are_named(command, refuse_each):
    refuse_each({f"{command} --config {name}": told for name, (_, told) in BAD_RECIPES.items()})


def types(config: type = Config, prefix: str = "") -> dict[str, type]:
    """Returns the fields of a recipe with their types: {"seed": int, "data.dataset": str, ...}."""
    found: dict[str, type] = {}
    for name, kind in typing.get_type_hints(config).items():
        if dataclasses.is_dataclass(kind):
            found |= types(typing.cast(type, kind), f"{prefix}{name}.")
        else:
            found[prefix + name] = str if typing.get_origin(kind) is typing.Literal else kind
    return found


TYPES = types()
text = st.text(st.characters(exclude_characters="\0"))
not_finite = st.sampled_from([float("nan"), float("inf")])
below_0 = st.integers(max_value=-1)
not_above_0 = st.floats(max_value=0) | not_finite
not_from_0 = st.floats(max_value=0, exclude_max=True) | not_finite
RANGES = {
    "seed data.split_seed": below_0 | st.integers(min_value=2**32),
    "epochs batch_size chunk_steps checkpoint.every_epochs model.features model.depth "
    "model.kernel_size model.stride model.pool_size model.hidden_size": st.integers(max_value=0),
    "model.dropout_rate label_smoothing ema_decay optimizer.b1 optimizer.b2 optimizer.warmup "
    "optimizer.momentum augment.scale": not_from_0 | st.floats(min_value=1),
    "optimizer.learning_rate optimizer.eps": not_above_0,
    "optimizer.weight_decay optimizer.clip_norm augment.shift augment.elastic "
    "augment.mixup_alpha": not_from_0,
    "augment.cutout checkpoint.every_steps watch.patience watch.plateau_patience": below_0,
    "augment.rotation": not_from_0 | st.floats(min_value=180),
    "augment.shear": not_from_0 | st.floats(min_value=90),
    "data.dataset": text.map("../{}".format),
    "data.validation_fraction watch.plateau_factor": not_above_0 | st.floats(min_value=1),
}
OUT_OF_RANGE = {name: values for names, values in RANGES.items() for name in names.split()}


def recipe(tree: Path, field: str, value: object) -> str:
    for name in reversed(field.split(".")):
        value = {name: value}
    path = tree.parent / "recipe.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    return str(path)


# The fixtures are made once a test, which suits examples that leave nothing behind.
shared = [HealthCheck.function_scoped_fixture]
examples = settings(max_examples=5, suppress_health_check=shared)


@pytest.mark.parametrize("how", ["file", pytest.param("option", marks=pytest.mark.slow)])
@pytest.mark.parametrize("field", OUT_OF_RANGE)
@examples
@given(st.data(), st.sampled_from(["train", "summary"]))
def test_values_out_of_range_are_named(tree, refuse, how, field, data, command):
    value = data.draw(OUT_OF_RANGE[field])
    option = f"--{field.replace('_', '-')}={value}"
    more = [recipe(tree, field, value)] if how == "file" else ["tiny.json", option]
    error = refuse([command, "--config", *more])
    assert f"{field} must be" in error or f"{field} has no effect with" in error


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)


def is_of(kind: type, value: object) -> bool:
    fits = isinstance(value, (int, float) if kind is float else kind)
    return fits and isinstance(value, bool) == (kind is bool)  # to Python, it is an int


@pytest.mark.parametrize("field", [*TYPES, "data", "model", "optimizer", "checkpoint"])
@examples
@given(json_values)
def test_values_of_another_type_are_named(tree, refuse, field, value):
    assume(not is_of(TYPES.get(field, dict), value))
    error = refuse(["train", "--config", recipe(tree, field, value)])
    assert "recipe.json: " in error
    assert f"{field.split('.')[-1]} must be" in error


@settings(max_examples=15, suppress_health_check=shared)
@given(st.binary().filter(lambda content: content.strip() != b"{}"))
def test_arbitrary_bytes_are_no_recipe(tree, refuse, content):
    (tree.parent / "recipe.json").write_bytes(content)
    assert "recipe.json" in refuse(["summary", "--config", str(tree.parent / "recipe.json")])
