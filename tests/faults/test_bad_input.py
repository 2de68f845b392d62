"""Bad input: exit code 2, one line on standard error that names it, and nothing written.

The tables map what is wrong to a part of the message. `tree` has the files that they name.
"""

import contextlib
import dataclasses
import json
import shlex
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mnist_jax import Config, train
from mnist_jax.cli import main
from mnist_jax.commands import COMMANDS
from mnist_jax.config import config_from_dict

TINY = {
    "epochs": 1,
    "data": {"train_split": "train[:1280]", "test_split": "test[:500]"},
    "model": {"features": 1, "hidden_size": 1},
}
TINY_JSON = json.dumps(TINY)  # not laid out as `train` does: writing it again would be seen
TRAIN = "train --config tiny.json --workdir new"

# The commands that read a workdir, up to its name.
READERS = {
    "evaluate": "evaluate --workdir",
    "export": "export --format stablehlo --output new.stablehlo --workdir",
    "predict": "predict --output new.npz --workdir",
    "report": "report --output new.html --workdir",
    "serve": "serve --port 0 --workdir",
    "verify": "verify --workdir",
}
WRITERS = {
    "train": "train --config tiny.json --workdir",
    "overwrite": "train --config tiny.json --overwrite --workdir",
}


def contents(root: Path) -> dict[Path, str | bytes | None]:
    """What lies below a directory: files with their bytes, links with their targets."""
    found: dict[Path, str | bytes | None] = {}
    for path in root.rglob("*"):
        if path.is_symlink():
            found[path] = str(path.readlink())
        else:
            found[path] = path.read_bytes() if path.is_file() else None
    return found


def make(root: Path, files: dict[str, str | bytes]) -> None:
    """Makes files; a name with a slash at its end is a directory, "@TARGET" is a link."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif content.startswith("@"):
            path.symlink_to(content[1:])
        else:
            path.write_text(content)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Iterator[Path]:
    """The current directory of all cases: files of every kind, and a finished run in run/."""
    root = tmp_path_factory.mktemp("bad-input") / "tree"
    make(root, FILES | RECIPES)
    with contextlib.chdir(root):
        train(config_from_dict(TINY), "run")
        yield root


@pytest.fixture(scope="module")
def seen(tree) -> list[dict[Path, str | bytes | None]]:
    """What the test before has left: a test that fails does not take the next ones with it."""
    return [contents(tree)]


@pytest.fixture(autouse=True)
def nothing_changes(tree, seen) -> Iterator[None]:
    yield
    before, seen[0] = seen[0], contents(tree)
    assert seen[0] == before


@pytest.fixture
def refuse(capfd, tree) -> Callable[..., str]:  # noqa: ARG001
    """Runs a command that has to be refused; returns the message."""

    def run(arguments: list[str], code: int = 2) -> str:
        found = main(arguments)
        out, err = capfd.readouterr()
        assert (found, out) == (code, ""), err
        assert err.startswith("error: ")
        assert err.endswith("\n")
        assert len(err.splitlines()) == 1, err
        return err

    return run


def cases(table: dict[str, str]):
    """The parameters (arguments, message) of each line of a table."""
    return [
        pytest.param(shlex.split(arguments), message, id=arguments[:80] or "nothing")
        for arguments, message in table.items()
    ]


def option(field: str) -> str:
    return "--" + field.replace("_", "-")


LONG = "x" * 200
MANY_DIGITS = "9" * 5000
ARGUMENTS = {
    "": "Expected one of {train, evaluate, predict, report, serve, import",
    "--": "Expected one of {train, evaluate, predict, report, serve, import",
    "trane": "Unrecognized options: trane (see mnist-jax --help)",
    "Train": "Unrecognized options: Train",
    "'train evaluate'": "Unrecognized options: train evaluate",
    "train evaluate": "Unrecognized options: evaluate (see mnist-jax train --help)",
    "--epochs 3": "--epochs",
    "--version now": "--version",
    "---": "---",
    "train -": "Unrecognized options: -",
    "train x": "Unrecognized options: x",
    "train ''": "Unrecognized options:",
    "train ───": "───",
    "train 'Perhaps you meant:'": "Perhaps you meant:",
    "train —epochs 3": "Unrecognized options: —epochs, 3",
    "train [bold]x[/bold]": "[bold]x[/bold]",
    "train --epoch 3": "Unrecognized options: --epoch, 3; perhaps you meant",
    "train --optimizer.lr 1": "--optimizer.lr",
    "train --model cnn": "; perhaps you meant --model.",
    "train --model.name": "--model.name",
    "train --model.name ''": "model.name is ''; expected one of cnn",
    "train --model.name cnm": "model.name is 'cnm'; expected one of cnn",
    "train --model.name mlp --model.pool-size 3": "model.pool_size is no choice of mlp",
    "train --model.batch-norm=yes": "yes",  # it takes no value
    "train --model.lowering gpu": "--model.lowering",
    "train --precision float16": "--precision",
    "train --optimizer.schedule ''": "--optimizer.schedule",
    "train --optimizer.name adamm": "--optimizer.name",
    "train --optimizer.momentum 0.5": "optimizer.momentum must stay at 0.9 with adam",
    "train --optimizer.schedule one_cycle --optimizer.warmup 0.1": "warmup must be 0 with",
    "train --watch.patience 2 --checkpoint.every-epochs 2": "every_epochs must be 1 with",
    "train --augment.flip 1": "--augment.flip",
    "train --config tiny.json --init-from missing": "no trained network in missing",
    "train --config tiny.json --workdir new --init-from a-file": "a-file is a file",
    "train --config tiny.json --workdir new --init-from new": "new, in the workdir itself",
    "train --config tiny.json --workdir new --freeze 'conf*'": "freeze: 'conf*' fits no parameter",
    "train --config tiny.json --workdir new --freeze '*'": "freeze: '*' leaves nothing to train",
    "train --config tiny.json --init-from run --model.hidden-size 2": "[2] here, but [1]",
    "train --overwrite yes": "Unrecognized options: yes",
    "train --no-overwrite": "--no-overwrite; perhaps you meant --overwrite",
    "train --epochs": "--epochs",
    "train --epochs=": "--epochs: invalid literal for int()",
    "train --epochs ''": "--epochs: invalid literal for int()",
    "train --epochs three": "--epochs: invalid literal for int()",
    "train --epochs 1e3": "--epochs: invalid literal for int()",
    "train --epochs 3 4": "Unrecognized options: 4",
    "train --epochs 3 --epochs": "--epochs",
    "train --epochs 0": "epochs must be at least 1, got 0",
    "train --epochs -3": "epochs must be at least 1, got -3",
    f"train --epochs {MANY_DIGITS}": "--epochs",
    "train --seed 4294967296": "seed must be 0 to 2**32 - 1",
    "train --optimizer.learning-rate nan": "optimizer.learning_rate must be above 0 and finite",
    "train --optimizer.learning-rate -1": "optimizer.learning_rate must be above 0 and finite",
    "train --optimizer.learning-rate -inf": "optimizer.learning_rate must be above 0 and finite",
    "train --optimizer.learning-rate 1e400": "optimizer.learning_rate must be above 0 and finite",
    "train --optimizer.learning-rate 0,001": "--optimizer.learning-rate",
    "train --model.dropout-rate 1": "model.dropout_rate must be at least 0 and below 1",
    "train --data.dataset ../x": "data.dataset must be a tfds name",
    "train --data.dataset 'mnist '": "data.dataset must be a tfds name",
    "train --config": "--config",
    "train --config tiny.json --config": "--config",
    "train --config=": "there is no config file ''",
    "train --config ''": "there is no config file ''",
    "train --config a-file/x.py": "there is no config file 'a-file/x.py'",
    "train --config missing.py": "there is no config file 'missing.py'",
    "train --config run": "there is no config file 'run'",
    "train --config loop": "there is no config file 'loop'",
    "train --config dangling": "there is no config file 'dangling'",
    "train --config /dev/null": "there is no config file '/dev/null'",
    f"train --config {LONG}{LONG}": LONG,
    "train --config tiny.json --workdir": "--workdir",
    "train --config tiny.json --workdir ''": "--workdir",
    "evaluate": "--workdir",
    "evaluate run": "--workdir",
    "evaluate --workdir": "workdir must be a directory, or several",
    "evaluate --workdir run --workdir run": "--workdir must be given once",
    "evaluate --workdir run missing": "there is no trained network in missing",
    "evaluate --workdir run --split tset": "tset",
    "evaluate --workdir run --split TEST": "TEST",
    "evaluate --workdir run --split ''": "--split",
    "evaluate --workdir run --step": "--step",
    "evaluate --workdir run --step 3": "holds no step 3, but the steps 8",
    "evaluate --workdir run --step 8.0": "holds no step 8.0",
    "evaluate --workdir run --step -8": "holds no step -8",
    "evaluate --workdir run --step newest": "holds no step newest",
    "evaluate --workdir run --step ''": "holds no step",
    f"evaluate --workdir run --step {MANY_DIGITS}": "holds no step 999",
    "evaluate --workdir run --epochs 3": "--epochs",
    "evaluate --workdir run --output p.npz": "--output",
    "predict": "give image files, or --output FILE.npz",
    "predict --workdir run": "give image files, or --output FILE.npz",
    "predict --workdir run a.png --output p.npz": "give image files, or --output FILE.npz",
    "predict --output p.npz": "there is no trained network in runs/default",
    "predict a.png": "there is no trained network in runs/default",
    "predict --workdir run missing.png": "there is no image 'missing.png'",
    "predict --workdir run .": ". is no file; expected an image",
    "predict --workdir run ''": "is no file; expected an image",
    "predict --workdir run a-file": "a-file is no image that can be read",
    "predict --workdir run a-file --show --json": "a-file is no image that can be read",
    "predict --model missing.onnx a.png": "there is no trained network in missing.onnx",
    "predict --model a-file a.png": "there is no a-file.json, the card",
    "predict --model run --output p.npz": "--output needs --workdir",
    "predict --workdir run --output new.npz --.x0=": "Unrecognized options: --.x0= (see",
    "predict --workdir run --1.png": "Unrecognized options: --1.png (see mnist-jax predict --help)",
    "report": "there is no trained network in runs/default",
    "report run": "Unrecognized options: run",
    "report --workdir": "workdir must be a directory, or several",
    "report --workdir run --workdir run": "--workdir must be given once",
    "report --workdir run missing": "there is no trained network in missing",
    "report --workdir a-file": "a-file is a file",
    "report --workdir run --output": "--output",
    "report --workdir run --output ''": "--output must end in .html",
    "report --workdir run --output .": "--output must end in .html",
    "report --workdir run --output tiny.json": "--output must end in .html, got 'tiny.json'",
    "report --workdir run --output no/such/p.html": "there is no directory no/such",
    "report --workdir run --output a-file/p.html": "there is no directory a-file",
    "report --workdir run --output loop/p.html": "there is no directory loop",
    f"report --workdir run --output {LONG}{LONG}.html": LONG,
    "export --workdir run --format onnx": "--output",
    "export --workdir run --output new.onnx": "--format",
    "export --workdir run --output new.onnx --format pb": "pb",
    "export --workdir run --format onnx --output .": "--output must be a file",
    "export --workdir run --format onnx --output ''": "--output must be a file",
    "export --workdir run --format onnx --output directory.npz": "--output must be a file",
    "export --workdir run --format onnx --output no/such": "--output must be a file",
    "export --workdir run --format onnx --output new --step 3": "holds no step 3",
    "export --format onnx --output new": "there is no trained network in runs/default",
    "import": "mnist-jax import --help",
    "import letters": "there is no source; expected the IDX files",
    "import letters missing": "there is no file or folder 'missing'",
    "import letters a-file": "a-file is of no kind that can be imported",
    "import letters ''": "",
    "import Letters a-file": "the name of a dataset must be",
    "import ../letters a-file": "the name of a dataset must be",
    "import mnist a-file": "'mnist' has a meaning already",
    "import letters a-file --size 28": "--size",
    "import letters a-file --size 0 28": "size must be",
    "import letters a-file --channels 2": "--channels",
    "import letters a-file --pixel-range 1 0": "pixel_range must be",
    "import letters a-file --test-fraction 1": "test_fraction must be between",
    "import letters a-file --seed -1": "seed must be",
    "predict --workdir run --output ''": "--output must end in .npz",
    "predict --workdir run --output .": "--output must end in .npz",
    "predict --workdir run --output p.txt": "--output must end in .npz, got p.txt",
    "predict --workdir run --output no/such/p.npz": "there is no directory no/such",
    "predict --workdir run --output a-file/p.npz": "there is no directory a-file",
    "predict --workdir run --output loop/p.npz": "there is no directory loop",
    "predict --workdir run --output directory.npz": "directory.npz",
    "predict --workdir run --output full.npz": "full.npz",
    f"predict --workdir run --output {LONG}{LONG}.npz": LONG,
    "predict --workdir run --output p.npz --step 3": "holds no step 3",
    "serve --port 0": "there is no trained network in runs/default",
    "serve --workdir run --step 3": "holds no step 3",
    "serve --workdir run --port 65536": "--port must be 0 to 65535, got 65536",
    "serve --workdir run --port http": "--port: invalid literal for int()",
    "serve --workdir run --host ''": "cannot listen at ''",
    "serve --workdir run --host nowhere.invalid": "cannot listen at 'nowhere.invalid'",
    "serve --workdir run run": "Unrecognized options: run",
    "doctor run": "Unrecognized options: run",
    "doctor --workdir run": "--workdir",
    "doctor --json yes": "Unrecognized options: yes",
    "summary --workdir run": "--workdir",
    "summary --image-shape": "--image-shape",
    "summary --image-shape 28 28": "--image-shape",
    "summary --image-shape 28 28 1 1": "--image-shape",
    "summary --image-shape 28 28 0": "--image-shape must be 1 to",
    "summary --image-shape 28 -28 1": "--image-shape must be 1 to",
    "summary --image-shape 2.5 28 1": "--image-shape",
    "summary --num-classes 0": "--num-classes must be 1 to",
    "summary --image-shape 1 1 1": "images of 1x1 pixels are too small",
    "summary --model.kernel-size 30": "images of 28x28 pixels are too small",
    "summary --model.depth 9": "pixels are too small",
}


@pytest.mark.parametrize(("arguments", "message"), cases(ARGUMENTS))
def test_arguments(arguments, message, refuse):
    assert message in refuse(arguments)


# What a shell can hand over: everything but NUL. Bytes that are not UTF-8 come as surrogates.
text = st.text(st.characters(exclude_characters="\0"))
# The fixtures are made once a test; that suits examples that leave nothing behind.
examples = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
few_examples = settings(examples, max_examples=5)  # of each field


@examples
@given(st.sampled_from(["", *COMMANDS]), st.lists(text, min_size=1, max_size=3))
def test_arbitrary_arguments(refuse, command, arguments):
    assume(arguments[0] not in COMMANDS)
    assume(not any(argument.startswith("-") for argument in arguments))  # --help is not bad
    error = refuse([command, *arguments] if command else arguments)
    assert "--help)" in error or command in ("import", "predict")  # which take files


@examples
@given(st.sampled_from([*COMMANDS]), st.from_regex("--[a-z.]{1,30}x[0-9]", fullmatch=True), text)
def test_unknown_options_are_named(refuse, command, name, value):
    workdir = ["--workdir", "run"] if command in ("evaluate", "predict", "report", "verify") else []
    others = {
        "predict": ["--output", "new.npz"],
        "import": ["letters", "a-file"],
        "export": ["--format", "onnx", "--output", "new"],
        "population": ["--seeds", "2"],
        "sweep": ["--config", "tiny.json", "--trials", "1"],
    }
    assert name in refuse([command, *workdir, *others.get(command, []), f"{name}={value}"])


@examples
@given(text)
def test_unknown_steps(refuse, step):
    assume(step not in ("8", "latest", "best"))
    assert "holds no step" in refuse(["evaluate", "--workdir", "run", f"--step={step}"])


not_positive = st.integers(max_value=0)
not_uint32 = st.integers(max_value=-1) | st.integers(min_value=2**32)
not_above_0 = st.floats(max_value=0) | st.sampled_from([float("nan"), float("inf")])
negative = st.integers(max_value=-1)
not_from_0 = st.floats(max_value=0, exclude_max=True) | st.sampled_from(
    [float("nan"), float("inf")]
)
not_below_1 = st.floats(max_value=0, exclude_max=True) | st.floats(min_value=1) | st.just("nan")
OUT_OF_RANGE = {
    "seed": not_uint32,
    "epochs": not_positive,
    "batch_size": not_positive,
    "chunk_steps": not_positive,
    "data.dataset": text.map("../{}".format),
    "data.validation_fraction": not_above_0 | st.floats(min_value=1),
    "data.split_seed": not_uint32,
    "model.features": not_positive,
    "model.depth": not_positive,
    "model.kernel_size": not_positive,
    "model.stride": not_positive,
    "model.pool_size": not_positive,
    "model.hidden_size": not_positive,
    "model.dropout_rate": not_below_1,
    "optimizer.learning_rate": not_above_0,
    "optimizer.b1": not_below_1,
    "optimizer.b2": not_below_1,
    "optimizer.eps": not_above_0,
    "optimizer.warmup": not_below_1,
    "optimizer.momentum": not_below_1,
    "optimizer.weight_decay": not_from_0,
    "optimizer.clip_norm": not_from_0,
    "augment.shift": not_from_0,
    "augment.rotation": not_from_0 | st.floats(min_value=180),
    "augment.scale": not_below_1,
    "augment.shear": not_from_0 | st.floats(min_value=90),
    "augment.elastic": not_from_0,
    "augment.cutout": negative,
    "augment.mixup_alpha": not_from_0,
    "watch.patience": negative,
    "watch.plateau_patience": negative,
    "watch.plateau_factor": not_above_0 | st.floats(min_value=1),
    "label_smoothing": not_below_1,
    "ema_decay": not_below_1,
    "checkpoint.every_epochs": not_positive,
    "checkpoint.every_steps": negative,
}


def types(config: type = Config, prefix: str = "") -> dict[str, type]:
    """The fields of the recipe with their types: {"seed": int, "data.dataset": str, ...}."""
    found: dict[str, type] = {}
    for name, kind in typing.get_type_hints(config).items():
        if dataclasses.is_dataclass(kind):
            found |= types(typing.cast(type, kind), f"{prefix}{name}.")
        else:
            found[prefix + name] = str if typing.get_origin(kind) is typing.Literal else kind
    return found


TYPES = types()


@pytest.mark.parametrize("field", OUT_OF_RANGE)
@few_examples
@given(data=st.data())
def test_values_out_of_range(refuse, field, data):
    value = data.draw(OUT_OF_RANGE[field])
    command = data.draw(st.sampled_from(["train", "summary"]))
    error = refuse([command, "--config", "tiny.json", f"{option(field)}={value}"])
    assert f"{field} must be" in error or f"{field} must stay at" in error


@pytest.mark.parametrize("field", [name for name, kind in TYPES.items() if kind not in (str, bool)])
@few_examples
@given(value=text)
def test_options_that_are_no_numbers(refuse, field, value):
    with contextlib.suppress(ValueError):
        TYPES[field](value)
        assume(False)
    assert option(field) in refuse(["train", "--config", "tiny.json", f"{option(field)}={value}"])


def recipe(tree: Path, field: str, value: object) -> str:
    """Writes a recipe with one field beside the tree, and returns its path."""
    values = value
    for name in reversed(field.split(".")):
        values = {name: values}
    path = tree.parent / "recipe.json"
    path.write_text(json.dumps(values))
    return str(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("field", [*TYPES, "data", "model", "optimizer", "checkpoint"])
@few_examples
@given(value=json_values)
def test_json_values_of_another_type(tree, refuse, field, value):
    kind = TYPES.get(field, dict)
    fits = isinstance(value, (int, float) if kind is float else kind)
    assume(not fits or isinstance(value, bool) != (kind is bool))  # a bool is an int to Python
    error = refuse(["train", "--config", recipe(tree, field, value)])
    assert "recipe.json: " in error
    assert f"{field.split('.')[-1]} must be" in error


@examples
@given(st.binary())
def test_json_that_is_none(tree, refuse, content):
    with contextlib.suppress(ValueError):
        assume(not isinstance(json.loads(content), dict))
    (tree.parent / "recipe.json").write_bytes(content)
    assert "recipe.json" in refuse(["summary", "--config", str(tree.parent / "recipe.json")])


HUGE = 10**30
HUGE_MODELS = ("features", "hidden_size", "kernel_size", "pool_size")


@pytest.mark.parametrize("name", HUGE_MODELS)
@pytest.mark.parametrize("command", ["summary", TRAIN])
def test_huge_networks(command, name, refuse):
    error = refuse([*shlex.split(command), option(f"model.{name}"), str(HUGE)])
    assert name.removesuffix("_size") in error


HUGE_VALUES = {
    "summary --model.depth 100 --model.kernel-size 1 --model.pool-size 1": "depth",
    f"summary --image-shape {HUGE} 28 1": "image",
    f"summary --num-classes {HUGE}": "--num-classes",
    f"summary --image-shape 28 28 {HUGE}": "image",
    f"{TRAIN} --batch-size {HUGE}": "batch_size",
    f"{TRAIN} --epochs {HUGE} --optimizer.schedule one_cycle": "epochs",
    f"{TRAIN} --optimizer.learning-rate 1e300": "optimizer.learning_rate",
    "train --config huge-learning-rate.json --workdir new": "optimizer.learning_rate",
    "train --config huge-eps.json --workdir new": "optimizer.eps",
}


@pytest.mark.parametrize(("arguments", "message"), cases(HUGE_VALUES))
def test_huge_values(arguments, message, refuse):
    assert message in refuse(arguments)


ANYTHING = bytes(range(256))
IMPORT = "from mnist_jax import Config\n"
ZEROS = "0" * 400
BAD_RECIPES: dict[str, tuple[str | bytes, str]] = {
    "raises.py": ("1 / 0", "raises.py: ZeroDivisionError: division by zero"),
    "raises-lines.py": (
        "raise ValueError('a\\nb\\r\\n\\nc')",
        "raises-lines.py: ValueError: a b c",
    ),
    "raises-text.py": ("raise 'x'", "raises-text.py: TypeError"),
    "raises-all.py": ("class E(BaseException): pass\nraise E('x')", "raises-all.py: E: x"),
    "exits.py": ("import sys; sys.exit(0)", "exits.py: SystemExit: 0"),
    "exits-none.py": ("raise SystemExit", "exits-none.py: SystemExit"),
    "exits-late.py": ("def get_config(): raise SystemExit(3)", "exits-late.py: SystemExit: 3"),
    "empty.py": ("", "empty.py must define get_config() -> Config"),
    "no-function.py": ("get_config = 3", "no-function.py must define get_config() -> Config"),
    "none.py": ("def get_config(): pass", "none.py must define get_config() -> Config"),
    "dict.py": ("def get_config(): return {}", "dict.py must define get_config() -> Config"),
    "class.py": (IMPORT + "def get_config(): return Config", "class.py must define get_config()"),
    "argument.py": ("def get_config(x): pass", "argument.py: TypeError: get_config() missing"),
    "value.py": (IMPORT + "def get_config(): return Config(epochs='3')", "value.py: ValueError"),
    "forever.py": ("def get_config(): return get_config()", "forever.py: RecursionError"),
    "imports.py": ("import nothing_there", "imports.py: ModuleNotFoundError"),
    "relative.py": ("from . import x", "relative.py: ImportError"),
    "syntax.py": ("x = (", "syntax.py: SyntaxError"),
    "nested.py": ("x = " + "(" * 1000, "nested.py: SyntaxError"),
    "latin.py": (b"x = '\xff'", "latin.py: SyntaxError"),
    "binary.py": (ANYTHING, "binary.py: "),
    "directory.py/": ("", "there is no config file 'directory.py/'"),
    "unreadable.py": ("@/proc/self/mem", "unreadable.py: OSError"),
    "recipe.toml": ("epochs = 3", "recipe.toml must define get_config() -> Config"),
    "no-suffix": ("epochs", "no-suffix: NameError"),
    "empty.json": ("", "empty.json: JSONDecodeError"),
    "open.json": ("{", "open.json: JSONDecodeError"),
    "two.json": ("{} {}", "two.json: JSONDecodeError: Extra data"),
    "comma.json": ('{"epochs": 3,}', "comma.json: JSONDecodeError"),
    "quotes.json": ("{'epochs': 3}", "quotes.json: JSONDecodeError"),
    "bom.json": ("\ufeff{}", "bom.json: JSONDecodeError"),
    "binary.json": (b"\xff" + ANYTHING, "binary.json: UnicodeDecodeError"),
    "utf16.json": ("{}".encode("utf-16"), "utf16.json: UnicodeDecodeError"),
    "directory.json/": ("", "there is no config file 'directory.json/'"),
    "unreadable.json": ("@/proc/self/mem", "unreadable.json: OSError"),
    "deep.json": ("[" * 100_000, "deep.json: RecursionError"),
    "deep-object.json": ('{"data":' * 3000 + "1" + "}" * 3000, "deep-object.json: Recursion"),
    "null.json": ("null", "a config must be an object, got None"),
    "list.json": ("[]", "a config must be an object, got []"),
    "number.json": ("3", "a config must be an object, got 3"),
    "unknown.json": ('{"epoch": 3}', "unknown config field epoch"),
    "unknown-inside.json": ('{"model": {"x": 3}}', "unknown config field model.x"),
    "unknown-lines.json": ('{"a\\nb": 1}', "unknown config field a b"),
    "unknown-surrogate.json": ('{"\\ud800": 1}', "unknown config field"),
    "nan.json": ('{"optimizer": {"eps": NaN}}', "optimizer.eps must be above 0 and finite"),
    "infinity.json": ('{"optimizer": {"eps": Infinity}}', "optimizer.eps must be above 0"),
    "overflow.json": ('{"epochs": 1e999}', "Config.epochs must be of type int, got inf"),
    "huge-seed.json": (f'{{"seed": 1{ZEROS}}}', "seed must be 0 to 2**32 - 1"),
    "digits.json": (f'{{"seed": {MANY_DIGITS}}}', "digits.json: ValueError"),
}
RECIPES = {name: content for name, (content, _) in BAD_RECIPES.items()}


@pytest.mark.parametrize("command", ["train", "summary"])
@pytest.mark.parametrize("name", BAD_RECIPES)
def test_config_files(command, name, refuse):
    _, message = BAD_RECIPES[name]
    assert message in refuse([command, "--config", name])


DEEP = "[" * 100_000
FILES: dict[str, str | bytes] = {
    "tiny.json": TINY_JSON,
    "huge-learning-rate.json": f'{{"optimizer": {{"learning_rate": 1{ZEROS}}}}}',
    "huge-eps.json": f'{{"optimizer": {{"eps": 1{ZEROS}}}}}',
    "a-file": "precious",
    "loop": "@loop",
    "dangling": "@nothing",
    "directory.npz/": "",
    "full.npz/precious": "",
    # Configs of another kind.
    "null-config/config.json": "null",
    "null-config-of-run/config.json": "null",
    "null-config-of-run/checkpoints/": "",
    "list-config/config.json": "[]",
    "number-config/config.json": "3",
    "empty-config/config.json": "",
    "open-config/config.json": "{",
    "deep-config/config.json": DEEP,
    "binary-config/config.json": ANYTHING,
    "directory-config/config.json/": "",
    "unreadable-config/config.json": "@/proc/self/mem",
    "wrong-config/config.json": '{"epochs": -1}',
    "foreign-config/config.json": '{"architectures": ["Bert"]}',
    # Of other tools.
    "foreign-checkpoints/checkpoints/model.pt": "precious",
    "foreign-checkpoints-file/checkpoints": "precious",
    "foreign-metrics/metrics.jsonl": "precious",
    "foreign-metrics-directory/metrics.jsonl/precious": "",
    "foreign-result/result.json": "precious",
    "foreign-result-directory/result.json/": "",
    # Runs with something wrong.
    "not-started/config.json": TINY_JSON,
    "no-checkpoints/config.json": TINY_JSON,
    "no-checkpoints/result.json": '{"steps": 8, "test_accuracy": 0.1}',
    "no-step/config.json": TINY_JSON,
    "no-step/checkpoints/": "",
    "checkpoints-file/config.json": TINY_JSON,
    "checkpoints-file/checkpoints": "precious",
    "checkpoints-dangling/config.json": TINY_JSON,
    "checkpoints-dangling/checkpoints": "@nothing",
    "checkpoints-loop/config.json": TINY_JSON,
    "checkpoints-loop/checkpoints": "@checkpoints",
    "metrics-directory/config.json": TINY_JSON,
    "metrics-directory/metrics.jsonl/": "",
    "metrics-directory-of-run/config.json": TINY_JSON,
    "metrics-directory-of-run/checkpoints": "@../run/checkpoints",
    "metrics-directory-of-run/metrics.jsonl/": "",
    "file-step/config.json": TINY_JSON,
    "file-step/checkpoints/8": "precious",
    "negative-step/config.json": TINY_JSON,
    "negative-step/checkpoints/-8/": "",
    "empty-step/config.json": TINY_JSON,
    "empty-step/checkpoints/8/": "",
    "step-0/config.json": TINY_JSON,
    "step-0/checkpoints/0/": "",
    "padded-step/config.json": TINY_JSON,
    "padded-step/checkpoints/0008/": "",
    "arabic-step/config.json": TINY_JSON,
    "arabic-step/checkpoints/٩/": "",
    "huge-step/config.json": TINY_JSON,
    f"huge-step/checkpoints/{LONG.replace('x', '9')}/": "",
    # Data directories.
    "data-file/mnist_idx": "precious",
    "data-lock/mnist_idx/.lock/": "",
    "data-junk/mnist_idx/1.0.0/dataset_info.json": "junk",
}
UNUSABLE = {
    "a-file": "the workdir a-file is a file",
    "a-file/below": "a-file/below",
    "/dev/null": "the workdir /dev/null is a file",
    "/proc/none": "/proc/none",
    "loop": "loop",
    "loop/below": "loop/below",
    "dangling": "dangling",
    LONG + LONG: LONG,
    "null-config": "null-config",
    "null-config-of-run": "null-config-of-run",
    "list-config": "list-config/config.json is not a config of this version",
    "number-config": "number-config/config.json is not a config of this version",
    "wrong-config": "wrong-config/config.json is not a config of this version: epochs must be",
    "foreign-config": "foreign-config/config.json is not a config of this version: unknown",
    "empty-config": "empty-config/config.json is not JSON",
    "open-config": "open-config/config.json is not JSON",
    "binary-config": "binary-config/config.json is not JSON",
    "deep-config": "deep-config/config.json",
    "directory-config": "directory-config/config.json",
    "unreadable-config": "unreadable-config/config.json",
    "foreign-checkpoints": "foreign-checkpoints",
    "foreign-checkpoints-file": "foreign-checkpoints-file",
    "foreign-metrics": "foreign-metrics",
    "foreign-metrics-directory": "foreign-metrics-directory",
    "foreign-result": "foreign-result",
    "foreign-result-directory": "foreign-result-directory",
}


@pytest.mark.parametrize("command", [*READERS, *WRITERS])
@pytest.mark.parametrize("workdir", UNUSABLE)
def test_workdirs_that_no_command_can_use(command, workdir, refuse):
    assert UNUSABLE[workdir] in refuse([*shlex.split((READERS | WRITERS)[command]), workdir])


NO_NETWORK = {
    "nowhere": "there is no trained network in nowhere",
    "not-started": "there is no trained network in not-started",
    "no-checkpoints": "there is no trained network in no-checkpoints",
    "checkpoints-file": "there is no trained network in checkpoints-file",
    "checkpoints-dangling": "there is no trained network in checkpoints-dangling",
    "checkpoints-loop": "there is no trained network in checkpoints-loop",
    "no-step": "no-step/checkpoints holds no step latest, but nothing yet",
    "file-step": "file-step/checkpoints/8 is damaged and left out: its SHA256SUMS cannot be read",
    "negative-step": "negative-step/checkpoints holds no step latest, but nothing yet",
}
DAMAGED = {
    "empty-step": "empty-step/checkpoints/8 is damaged and left out: its SHA256SUMS cannot be read",
    "step-0": "step-0/checkpoints/0 is damaged",
    "padded-step": "holds no step latest",
    "arabic-step": "holds no step latest",
    "huge-step": "holds no step latest",
}


@pytest.mark.parametrize("command", ["evaluate", "predict"])
@pytest.mark.parametrize("workdir", NO_NETWORK | DAMAGED)
def test_workdirs_without_a_network(command, workdir, refuse):
    message = (NO_NETWORK | DAMAGED)[workdir]
    assert message in refuse([*shlex.split(READERS[command]), workdir])


CANNOT_CONTINUE = {
    "checkpoints-file": "checkpoints-file/checkpoints must be a directory",
    "checkpoints-dangling": "checkpoints-dangling/checkpoints",
    "checkpoints-loop": "checkpoints-loop/checkpoints",
    "metrics-directory": "metrics-directory/metrics.jsonl",
    "metrics-directory-of-run": "metrics-directory-of-run/metrics.jsonl",
}


@pytest.mark.parametrize("workdir", CANNOT_CONTINUE)
def test_workdirs_that_cannot_be_continued(workdir, refuse):
    assert CANNOT_CONTINUE[workdir] in refuse([*shlex.split(WRITERS["train"]), workdir])


@pytest.mark.parametrize("changed", ["--epochs 3", "--seed 1", "--optimizer.b1 0.5"])
def test_a_run_with_another_config(changed, refuse):
    field = shlex.split(changed)[0].removeprefix("--")
    assert f"run holds a run with another config ({field} is " in refuse(
        [*shlex.split(WRITERS["train"]), "run", *shlex.split(changed)]
    )


DATA = {
    f"{TRAIN} --data.dataset nothing_here": "dataset 'nothing_here' is not prepared",
    f"{TRAIN} --data.dataset cache": "dataset 'cache' is not prepared",
    f"{TRAIN} --data.dataset MNIST": "dataset 'MNIST' is not prepared",
    f"{TRAIN} --data.dataset mnist:9.9.9": "dataset 'mnist:9.9.9' is not prepared",
    f"{TRAIN} --data.dataset mnist/..": "dataset 'mnist/..' is not prepared",
    f"{TRAIN} --data.dataset {LONG}{LONG}": LONG,
    f"{TRAIN} --data.train-split valid": "cannot give the split 'valid' (it has train, test)",
    f"{TRAIN} --data.train-split ''": "cannot give the split ''",
    f"{TRAIN} --data.train-split Train": "cannot give the split 'Train'",
    f"{TRAIN} --data.train-split ../train": "cannot give the split '../train'",
    f"{TRAIN} --data.train-split train[": "cannot give the split 'train['",
    f"{TRAIN} --data.train-split train[]": "cannot give the split 'train[]'",
    f"{TRAIN} --data.train-split train[:0]": "cannot give the split 'train[:0]'",
    f"{TRAIN} --data.train-split train[5:2]": "'train[5:2]'",
    "train --config tiny.json --workdir back --data.train-split train[10:9]": "'train[10:9]'",
    f"{TRAIN} --data.train-split train[::2]": "cannot give the split 'train[::2]'",
    f"{TRAIN} --data.train-split train[a:b]": "cannot give the split 'train[a:b]'",
    f"{TRAIN} --data.train-split train[1.5:]": "cannot give the split 'train[1.5:]'",
    f"{TRAIN} --data.train-split train[:-1]x": "cannot give the split 'train[:-1]x'",
    f"{TRAIN} --data.train-split train[:101%]": "cannot give the split 'train[:101%]'",
    f"{TRAIN} --data.train-split train[60000:]": "cannot give the split 'train[60000:]'",
    f"{TRAIN} --data.train-split train+": "cannot give the split 'train+'",
    f"{TRAIN} --data.train-split 'train+test junk'": "cannot give the split 'train+test junk'",
    f"{TRAIN} --data.train-split train[:9]+valid": "cannot give the split 'train[:9]+valid'",
    f"{TRAIN} --data.train-split train[:{MANY_DIGITS}]": "cannot give the split 'train[:999",
    f"{TRAIN} --data.train-split train[:1]": "leave none for train",
    f"{TRAIN} --data.validation-fraction 0.9999": "leave none for train",
    f"{TRAIN} --data.test-split tset": "cannot give the split 'tset' (it has train, test)",
    f"{TRAIN} --data.test-split test[5:5]": "cannot give the split 'test[5:5]'",
    f"{TRAIN} --data.test-split test[:1]junk": "cannot give the split 'test[:1]junk'",
    f"{TRAIN} --model.kernel-size 40": "images of 28x28 pixels are too small for a kernel of 40",
    f"{TRAIN} --model.depth 9": "pixels are too small",
}


@pytest.mark.parametrize(("arguments", "message"), cases(DATA))
def test_data(arguments, message, refuse):
    assert message in refuse(arguments)


beyond = st.integers(101, 10**9)
bad_splits = st.one_of(
    beyond.map("train[:{}%]".format),
    beyond.map("train[-{}%:]".format),
    st.integers(60001, 10**9).map("train[:{}]".format),
    st.integers(60000, 10**9).map("train[{}:]".format),
    st.tuples(st.integers(1, 9), st.integers(10, 60000)).map(lambda ab: f"train[{ab[1]}:{ab[0]}]"),
    st.from_regex(r"(train|test)\[:[0-9]+\][a-z]+", fullmatch=True),
    text.filter(lambda split: not split.startswith(("train", "test", "all"))),
)


@examples
@given(bad_splits)
def test_splits(refuse, split):
    error = refuse([*shlex.split(WRITERS["train"]), "splits", f"--data.train-split={split}"])
    assert error.startswith("error: dataset 'mnist' ")


DATA_DIRECTORIES = {
    "a-file": "cannot be prepared in a-file",
    "a-file/below": "cannot be prepared in a-file/below",
    "loop": "cannot be prepared in loop",
    "dangling": "cannot be prepared in dangling",
    "/dev/null": "cannot be prepared in /dev/null",
    "/proc/none": "cannot be prepared in /proc/none",
    "~nobody-of-this-name": "~nobody-of-this-name",
    "data-file": "cannot be prepared in data-file",
    "data-lock": "cannot be prepared in data-lock",
    "data-junk": "delete data-junk/mnist_idx/1.0.0, and it is prepared anew",
}


@pytest.mark.parametrize("command", [TRAIN, "evaluate --workdir run", READERS["predict"] + " run"])
@pytest.mark.parametrize("directory", DATA_DIRECTORIES)
def test_data_directories(command, directory, refuse, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", directory)
    assert DATA_DIRECTORIES[directory] in refuse(shlex.split(command))


@pytest.mark.parametrize("values", ["--optimizer.learning-rate 1e30", "--optimizer.eps 1e-300"])
def test_divergence_has_an_exit_code_of_its_own(values, refuse, tmp_path):
    run = tmp_path / "run"
    command = [*shlex.split(WRITERS["train"]), str(run), *shlex.split(values)]
    assert "training diverged in epoch 1" in refuse(command, code=3)
    assert not (run / "result.json").exists()
    assert not list((run / "checkpoints").iterdir())


PROCESSES = {
    "evaluate --workdir \udcff\udcfe": "there is no trained network in",
    f"{TRAIN} --model.features {10**15}": "features",
}


@pytest.mark.parametrize(("arguments", "message"), cases(PROCESSES))
def test_a_process(arguments, message, command):
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr
