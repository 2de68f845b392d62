"""Bad arguments and data of every command: exit code 2, one line that names it, nothing written.

The tables map arguments to a part of the message; conftest.py has the files that they name.
"""

import pytest
from helpers import some_slow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnist_jax.cli.commands import COMMANDS

LONG = "x" * 200
MANY_DIGITS = "9" * 5000
HUGE = 10**30
TRAIN = "train --config tiny.json --workdir new"
FILES = {"loop": "@loop", "dangling": "@nothing", "directory.npz/": "", "full.npz/precious": ""}
ARGUMENTS = {
    "--": "a command is missing; expected one of train, evaluate, predict",
    "''": "a command is missing; expected one of train, evaluate, predict",
    "train --model.lowering gpu": "--model.lowering",
    "train --optimizer.schedule one_cycle --optimizer.warmup 0.1": "warmup must be 0 with",
    "train --watch.patience 2 --checkpoint.every-epochs 2": "every_epochs must be 1 with",
    "train --config tiny.json --init-from run --model.hidden-size 2": "[2] here, but [1]",
    f"train --epochs {MANY_DIGITS}": "--epochs",
    "train --optimizer.learning-rate 0,001": "--optimizer.learning-rate",
    "train --config ''": "--config must be a path, got ''",
    f"train --config {LONG}{LONG}": LONG,
    "train --config tiny.json --workdir ''": "--workdir",
    "evaluate": "there is no trained network in runs/default",
    "evaluate missing": "there is no trained network in missing",
    "evaluate ''": "workdir must be a path, got ''",
    "evaluate missing --workdir run": "--workdir and 'missing' are both given; leave one out",
    "evaluate --workdir run --workdir run": "--workdir is given twice; give it once, with all its",
    "verify run missing": "verify takes one workdir, got 'missing' too",
    "evaluate --workdir run --split tset": "tset",
    "evaluate --workdir run --split ''": "--split",
    f"evaluate --workdir run --step {MANY_DIGITS}": "holds no step 999",
    "predict": "give image files, or --output FILE.npz",
    "predict --workdir run a.png --output p.npz": "--output must end in .csv for the given files",
    "predict --workdir run missing.png": "missing.png does not exist; expected an image file",
    "predict --workdir run ''": "images must be a path, got ''",
    "predict --workdir run a-file": "a-file is not a readable image",
    "predict --model missing.onnx a.png": "there is no trained network in missing.onnx",
    "predict --model a-file a.png": "there is no a-file.json, the card",
    "predict --model run --output p.npz": "--model has no effect without images",
    "predict --output p.npz --pixel-range 0 1": "--pixel-range has no effect without images",
    "predict a.png --split train": "--split has no effect with images; leave it out",
    "predict --model a-file a.png --step best": "--step has no effect with --model; leave it out",
    "predict --workdir run --output new.npz --.x0=": "unknown option --.x0 (see",
    "report": "there is no trained network in runs/default",
    "report --workdir": "--workdir: expected at least one argument; type --workdir PATH...",
    "report --workdir a-file": "a-file is a file",
    "report --workdir run --output tiny.json": "--output must end in .html, got 'tiny.json'",
    "export --workdir run --output new.onnx": "--format",
    "export --workdir run --output new.onnx --format pb": "pb",
    "import letters": "import needs SOURCE... (see",
    "import letters missing": "there is no file or folder 'missing'",
    "import letters a-file": "a-file is of an unknown kind",
    "import Letters a-file": "the name of a dataset must be",
    "import letters a-file --size 28": "expected 2 arguments; type --size HEIGHT WIDTH",
    "serve --workdir run --port 65536": "--port must be 0 to 65535, got 65536",
    "serve --workdir run --port http": "--port must be a whole number, got 'http'",
    "serve --workdir run --host nowhere.invalid": "cannot listen at 'nowhere.invalid'",
    "summary --image-shape 28 28 0": "--image-shape must be 1 to",
    "summary --num-classes 0": "--num-classes must be 1 to",
    "train --model.no_batch_norm=3": "--model.no-batch-norm takes no value",
    "train -- --seed": "unexpected argument '--seed'",
    "report --workdir run --output ''": "--output must be a path, got ''",
    "import letters ''": "source must be a path, got ''",
    "summary --model.kernel-size 30": "images of 28x28 pixels are too small",
}
ARGUMENTS |= {
    f"train --config {file}": f"there is no config file '{file}'"
    for file in ("a-file/x.py", "missing.py", "run", "loop", "dangling", "/dev/null")
}
ARGUMENTS |= {
    f"export --workdir run --format onnx --output {output}": "--output must be a"
    for output in (".", "''", "directory.npz", "no/such")
}
ARGUMENTS |= {
    f"{command} --workdir run --output {directory}/{file}": f"there is no directory {directory}"
    for command, file in (("report", "p.html"), ("predict", "p.npz"))
    for directory in ("no/such", "a-file", "loop")
}
ARGUMENTS |= {
    f"evaluate --workdir run --step {step}": f"holds no step {step}; expected latest,"
    for step in ("3", "8.0", "-8", "newest")
}
VARIATIONS = {
    "train --config tiny.json --init-from missing": "no trained network in missing",
    "train --config tiny.json --workdir new --freeze 'conf*'": "freeze: 'conf*' fits no parameter",
    "train --config tiny.json --workdir new --freeze '*'": "freeze: '*' leaves nothing to train",
    "train --no-overwrite": "--no-overwrite; did you mean --overwrite?",
    "predict --workdir run --output directory.npz": "directory.npz",
    "predict --workdir run --output full.npz": "full.npz",
    f"predict --workdir run --output {LONG}{LONG}.npz": LONG,
    "---": "---",
    "train —epochs 3": "unexpected argument '—epochs'",
    "train --precision float16": "--precision",
    "train --config tiny.json --workdir new --init-from a-file": "a-file is a file",
    "train --config tiny.json --workdir new --init-from new": "init_from is new, inside",
    "evaluate --workdir": "expected at least one argument",
}


@pytest.mark.parametrize("name", some_slow(["ARGUMENTS"], ["ARGUMENTS", "VARIATIONS"]))
def test_bad_arguments_are_named(name, refuse_each):
    refuse_each(globals()[name])


def test_huge_values_and_bad_data_are_named(refuse_each):
    refuse_each(HUGE_VALUES | DATA)


HUGE_VALUES = {
    "summary --model.depth 100 --model.kernel-size 1 --model.pool-size 1": "depth",
    f"summary --image-shape {HUGE} 28 1": "image",
    f"summary --num-classes {HUGE}": "--num-classes",
    f"summary --image-shape 28 28 {HUGE}": "image",
    f"{TRAIN} --batch-size {HUGE}": "batch_size",
    f"{TRAIN} --epochs {HUGE} --optimizer.schedule one_cycle": "epochs",
    f"{TRAIN} --optimizer.learning-rate 1e300": "optimizer.learning_rate",
}
HUGE_VALUES |= {
    f"{command} --model.{name}-size {HUGE}": name
    for command in ("summary", TRAIN)
    for name in ("hidden", "kernel", "pool")
}
HUGE_VALUES |= {f"{command} --model.features {HUGE}": "features" for command in ("summary", TRAIN)}


# What a shell can hand over: everything but NUL. Bytes that are not UTF-8 come as surrogates.
text = st.text(st.characters(exclude_characters="\0"))
# The fixtures are made once a test; that suits examples that leave nothing behind.
examples = settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
no_option = text.filter(lambda argument: not argument.startswith("-"))  # --help is not bad


@examples
@given(
    st.sampled_from(["", *COMMANDS]),
    no_option.filter(lambda argument: argument not in COMMANDS),
    st.lists(no_option, max_size=2),
)
def test_arbitrary_arguments_are_refused(refuse, command, argument, others):
    error = refuse([command, argument, *others] if command else [argument, *others])
    assert "--help)" in error or COMMANDS[command].plain  # which take files or directories


@pytest.mark.slow
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
@given(text.filter(lambda step: step not in ("8", "latest", "best")))
def test_unknown_steps_are_refused(refuse, step):
    assert "holds no step" in refuse(["evaluate", "--workdir", "run", f"--step={step}"])


def test_a_process_ends_with_exit_code_2_even_where_a_name_is_not_utf_8(command):
    done = command("evaluate", "--workdir", "\udcff\udcfe")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("error: there is no trained network in")


FILES |= {
    "data-file/mnist_idx": "precious",
    "data-lock/mnist_idx/.lock/": "",
    "data-junk/mnist_idx/1.0.0/dataset_info.json": "junk",
}
SPLITS = ("", "Train", "../train", "train[", "train[]", "train[:0]", "train[::2]", "train[a:b]")
SPLITS += ("train[1.5:]", "train[:-1]x", "train[:101%]", "train[60000:]", "train+")
SPLITS += ("train+test junk", "train[:9]+valid")
# Arguments with a part of the message.
DATA = {
    f"{TRAIN} --data.dataset nothing_here": "there is no dataset 'nothing_here'",
    f"{TRAIN} --data.dataset mnist:9.9.9": "there is no dataset 'mnist:9.9.9'",
    f"{TRAIN} --data.dataset mnist/..": "there is no dataset 'mnist/..'",
    f"{TRAIN} --data.dataset {LONG}{LONG}": LONG,
    f"{TRAIN} --data.train-split valid": "has no split 'valid', only train, test",
    f"{TRAIN} --data.train-split train[5:2]": "'train[5:2]'",
    "train --config tiny.json --workdir back --data.train-split train[10:9]": "'train[10:9]'",
    f"{TRAIN} --data.train-split train[:{MANY_DIGITS}]": "has no split 'train[:999",
    f"{TRAIN} --data.train-split train[:1]": "leave none for train",
    f"{TRAIN} --data.validation-fraction 0.9999": "leave none for train",
    f"{TRAIN} --data.test-split tset": "has no split 'tset', only train, test",
    f"{TRAIN} --model.kernel-size 40": "images of 28x28 pixels are too small for a kernel of 40",
}
DATA |= {f"{TRAIN} --data.train-split '{split}'": f"has no split '{split}'" for split in SPLITS}


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


@pytest.mark.slow
@examples
@given(bad_splits)
def test_bad_splits_are_named(refuse, split):
    error = refuse([*TRAIN.split(), f"--data.train-split={split}"])
    assert error.startswith("error: dataset 'mnist' ")


UNUSABLE = ("a-file", "a-file/below", "loop", "dangling", "/dev/null", "/proc/none")
UNUSABLE += ("data-file", "data-lock")
DATA_DIRECTORIES = {directory: f"cannot be prepared in {directory}" for directory in UNUSABLE} | {
    "~nobody-of-this-name": "~nobody-of-this-name",
    "data-junk": "delete data-junk/mnist_idx/1.0.0 to prepare it again",
}


@pytest.mark.parametrize("command", some_slow([TRAIN], [TRAIN, "evaluate --workdir run"]))
def test_bad_data_directories_are_named(command, refuse, monkeypatch, subtests):
    for directory, message in DATA_DIRECTORIES.items():
        monkeypatch.setenv("TFDS_DATA_DIR", directory)
        with subtests.test(directory):
            assert message in refuse(command)
