"""Bad data: exit code 2, one line on standard error that names it, and nothing written."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LONG = "x" * 200
MANY_DIGITS = "9" * 5000
TRAIN = "train --config tiny.json --workdir new"
FILES = {
    "loop": "@loop",
    "dangling": "@nothing",
    "data-file/mnist_idx": "precious",
    "data-lock/mnist_idx/.lock/": "",
    "data-junk/mnist_idx/1.0.0/dataset_info.json": "junk",
}
SPLITS = ("", "Train", "../train", "train[", "train[]", "train[:0]", "train[::2]", "train[a:b]")
SPLITS += ("train[1.5:]", "train[:-1]x", "train[:101%]", "train[60000:]", "train+")
SPLITS += ("train+test junk", "train[:9]+valid")
# Arguments with a part of the message.
DATA = {
    f"{TRAIN} --data.dataset nothing_here": "dataset 'nothing_here' is not prepared",
    f"{TRAIN} --data.dataset mnist:9.9.9": "dataset 'mnist:9.9.9' is not prepared",
    f"{TRAIN} --data.dataset mnist/..": "dataset 'mnist/..' is not prepared",
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


def test_bad_data_are_named(refuse_each):
    refuse_each(DATA)


text = st.text(st.characters(exclude_characters="\0"))
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
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bad_splits)
def test_bad_splits_are_named(refuse, split):
    error = refuse([*TRAIN.split(), f"--data.train-split={split}"])
    assert error.startswith("error: dataset 'mnist' ")


UNUSABLE = (
    "a-file",
    "a-file/below",
    "loop",
    "dangling",
    "/dev/null",
    "/proc/none",
    "data-file",
    "data-lock",
)
DATA_DIRECTORIES = {
    **{directory: f"cannot be prepared in {directory}" for directory in UNUSABLE},
    "~nobody-of-this-name": "~nobody-of-this-name",
    "data-junk": "delete data-junk/mnist_idx/1.0.0 to prepare it again",
}


@pytest.mark.parametrize(
    "command", [TRAIN, pytest.param("evaluate --workdir run", marks=pytest.mark.slow)]
)
def test_bad_data_directories_are_named(command, refuse, monkeypatch, subtests):
    for directory, message in DATA_DIRECTORIES.items():
        monkeypatch.setenv("TFDS_DATA_DIR", directory)
        with subtests.test(directory):
            assert message in refuse(command)
