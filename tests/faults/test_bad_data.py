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
# Arguments with a part of the message.
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


@pytest.mark.parametrize(
    "command",
    [
        TRAIN,
        pytest.param("evaluate --workdir run", marks=pytest.mark.slow),
        pytest.param("predict --output new.npz --workdir run", marks=pytest.mark.slow),
    ],
    ids=["train", "evaluate", "predict"],
)
def test_bad_data_directories_are_named(command, refuse, monkeypatch, subtests):
    for directory, message in DATA_DIRECTORIES.items():
        monkeypatch.setenv("TFDS_DATA_DIR", directory)
        with subtests.test(directory):
            assert message in refuse(command)
