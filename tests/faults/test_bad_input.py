"""Bad arguments of every command: exit code 2, one line that names it, and nothing written.

The tables map arguments to a part of the message; conftest.py has the files that they name.
"""

import pytest
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
    "trane": "unknown command 'trane'; did you mean train? (see mnist-jax --help)",
    "train evaluate": "unexpected argument 'evaluate'; did you mean --workdir evaluate? (see",
    "train fast": "unexpected argument 'fast'; did you mean --config fast? (see mnist-jax train",
    "train --epoch 3": "unknown option --epoch; did you mean --epochs 3? (see mnist-jax train",
    "train --model.batch-norm true": "'true': --model.batch-norm takes no value",
    "train --model.name cnm": "model.name is 'cnm'; expected one of cnn",
    "train --model.name mlp --model.pool-size 3": "model.pool_size has no effect on mlp",
    "train --model.lowering gpu": "--model.lowering",
    "train --optimizer.momentum 0.5": "optimizer.momentum has no effect with adam (it uses",
    "train --optimizer.schedule one_cycle --optimizer.warmup 0.1": "warmup must be 0 with",
    "train --watch.patience 2 --checkpoint.every-epochs 2": "every_epochs must be 1 with",
    "train --config tiny.json --init-from run --model.hidden-size 2": "[2] here, but [1]",
    "train --epochs": "--epochs",
    "train --epochs 0": "epochs must be at least 1, got 0",
    f"train --epochs {MANY_DIGITS}": "--epochs",
    "train --seed 4294967296": "seed must be 0 to 2**32 - 1",
    "train --optimizer.learning-rate nan": "optimizer.learning_rate must be above 0 and finite",
    "train --optimizer.learning-rate 0,001": "--optimizer.learning-rate",
    "train --model.dropout-rate 1": "model.dropout_rate must be at least 0 and below 1",
    "train --data.dataset ../x": "data.dataset must be a tfds name",
    "train --config": "--config",
    "train --config ''": "there is no config file ''",
    f"train --config {LONG}{LONG}": LONG,
    "train --config tiny.json --workdir ''": "--workdir",
    "evaluate": "there is no trained network in runs/default",
    "evaluate missing": "there is no trained network in missing",
    "evaluate ''": "workdir must be a path, got ''",
    "evaluate missing --workdir run": "--workdir and 'missing' are both given; leave one out",
    "evaluate --workdir run --workdir run": "--workdir is given twice; give it once, with all its",
    "verify": "there is no trained network in runs/default",
    "verify run missing": "unexpected argument 'missing'",
    "evaluate --workdir run missing": "there is no trained network in missing",
    "evaluate --workdir run --split tset": "tset",
    "evaluate --workdir run --split ''": "--split",
    "evaluate --workdir run --step": "--step",
    "evaluate --workdir run --step ''": "holds no step",
    f"evaluate --workdir run --step {MANY_DIGITS}": "holds no step 999",
    "predict": "give image files, or --output FILE.npz",
    "predict --workdir run a.png --output p.npz": "--output must end in .csv for the given files",
    "predict --output p.npz": "there is no trained network in runs/default",
    "predict a.png": "there is no trained network in runs/default",
    "predict --workdir run missing.png": "there is no image 'missing.png'",
    "predict --workdir run ''": "images must be a path, got ''",
    "predict --workdir run a-file": "a-file is not a readable image",
    "predict --model missing.onnx a.png": "there is no trained network in missing.onnx",
    "predict --model a-file a.png": "there is no a-file.json, the card",
    "predict --model run --output p.npz": "--output needs --workdir",
    "predict --workdir run --output new.npz --.x0=": "unknown option --.x0 (see",
    "predict --workdir run --1.png": "unknown option --1.png (see mnist-jax predict --help)",
    "report": "there is no trained network in runs/default",
    "report --workdir": "--workdir: expected at least one argument; type --workdir PATH...",
    "report --workdir a-file": "a-file is a file",
    "report --workdir run --output": "--output",
    "report --workdir run --output ''": "--output must end in .html",
    "report --workdir run --output tiny.json": "--output must end in .html, got 'tiny.json'",
    "export --workdir run --output new.onnx": "--format",
    "export --workdir run --output new.onnx --format pb": "pb",
    "export --workdir run --format onnx --output new --step 3": "holds no step 3",
    "export --format onnx --output new": "there is no trained network in runs/default",
    "import": "mnist-jax import --help",
    "import letters": "there is no source; expected the IDX files",
    "import letters missing": "there is no file or folder 'missing'",
    "import letters a-file": "a-file is of an unknown kind",
    "import Letters a-file": "the name of a dataset must be",
    "import letters a-file --size 28": "expected 2 arguments; type --size HEIGHT WIDTH",
    "import letters a-file --channels 2": "--channels",
    "import letters a-file --test-fraction 1": "test_fraction must be between",
    "predict --workdir run --output ''": "--output must end in .npz",
    "predict --workdir run --output p.txt": "--output must end in .npz, got p.txt",
    "predict --workdir run --output p.npz --step 3": "holds no step 3",
    "serve --port 0": "there is no trained network in runs/default",
    "serve --workdir run --step 3": "holds no step 3",
    "serve --workdir run --port 65536": "--port must be 0 to 65535, got 65536",
    "serve --workdir run --port http": "--port: invalid int value: 'http'",
    "serve --workdir run --host ''": "cannot listen at ''",
    "serve --workdir run --host nowhere.invalid": "cannot listen at 'nowhere.invalid'",
    "summary --image-shape 28 28": "--image-shape",
    "summary --image-shape 28 28 0": "--image-shape must be 1 to",
    "summary --num-classes 0": "--num-classes must be 1 to",
    "summary --model.kernel-size 30": "images of 28x28 pixels are too small",
}
ARGUMENTS |= {
    f"train --config {file}": f"there is no config file '{file}'"
    for file in ("a-file/x.py", "missing.py", "run", "loop", "dangling", "/dev/null")
}
ARGUMENTS |= {
    f"export --workdir run --format onnx --output {output}": "--output must be a file"
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
    "train -": "unexpected argument '-'",
    "train --optimizer.lr 1": "--optimizer.lr",
    "train --model cnn": "; did you mean --model.name cnn?",
    "train --model.name ''": "model.name is ''; expected one of cnn",
    "train --config tiny.json --init-from missing": "no trained network in missing",
    "train --config tiny.json --workdir new --freeze 'conf*'": "freeze: 'conf*' fits no parameter",
    "train --config tiny.json --workdir new --freeze '*'": "freeze: '*' leaves nothing to train",
    "train --no-overwrite": "--no-overwrite; did you mean --overwrite?",
    "predict --workdir run --output directory.npz": "directory.npz",
    "predict --workdir run --output full.npz": "full.npz",
    f"predict --workdir run --output {LONG}{LONG}.npz": LONG,
    "summary --image-shape 2.5 28 1": "--image-shape",
    "summary --model.depth 9": "pixels are too small",
    "---": "---",
    "train —epochs 3": "unexpected argument '—epochs'",
    "train --model.batch-norm=yes": "yes",  # it takes no value
    "train --precision float16": "--precision",
    "train --augment.flip 1": "--augment.flip",
    "train --config tiny.json --workdir new --init-from a-file": "a-file is a file",
    "train --config tiny.json --workdir new --init-from new": "new, in the workdir itself",
    "train --epochs 3 4": "unexpected argument '4'",
    "train --optimizer.learning-rate 1e400": "optimizer.learning_rate must be above 0 and finite",
    "evaluate --workdir": "expected at least one argument",
    f"report --workdir run --output {LONG}{LONG}.html": LONG,
    "summary --image-shape": "--image-shape",
}


def test_bad_arguments_are_named(table, refuse_each):
    refuse_each(table)


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


def test_huge_values_are_named(refuse_each):
    refuse_each(HUGE_VALUES)


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
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: there is no trained network in")
    assert len(done.stderr.splitlines()) == 1, done.stderr
