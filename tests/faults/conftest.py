"""Bad input to commands: exit code 2, one line on standard error that names it, nothing written."""

import contextlib
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers import contents, make_files

from mnist_jax import train
from mnist_jax.cli.main import main
from mnist_jax.config import config_from_dict
from mnist_jax.datasets.importing import import_dataset


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    return {
        "epochs": 1,
        "data": {"train_split": "train[:1280]", "test_split": "test[:500]"},
        "model": {"features": 1, "hidden_size": 1},
    }


@pytest.fixture(scope="session")
def tiny_run(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("tiny") / "run"
    train(config_from_dict(tiny), workdir)
    return workdir


@pytest.fixture(scope="module")
def tree(request: Any, tmp_path_factory: Any, tiny: dict[str, Any], tiny_run: Path) -> Any:
    """Fills the current directory: FILES of the module, tiny.json, and a finished run in run/."""
    root = tmp_path_factory.mktemp("bad-input") / "tree"
    shutil.copytree(tiny_run, root / "run")
    # tiny.json is not laid out as `train` does: writing it again would be seen.
    make_files(root, {"tiny.json": json.dumps(tiny), "a-file": "precious"} | request.module.FILES)
    with contextlib.chdir(root):
        yield root


@pytest.fixture
def refuse(capfd: pytest.CaptureFixture[str], tree: Path) -> Callable[..., str]:
    """Runs a command that must be refused; returns the message."""
    seen = [contents(tree)]  # a case that fails does not take the next ones with it

    def run(arguments: str | list[str]) -> str:
        found = main(shlex.split(arguments) if isinstance(arguments, str) else arguments)
        out, err = capfd.readouterr()
        before, seen[0] = seen[0], contents(tree)
        assert seen[0] == before
        assert (found, out) == (2, ""), err
        assert err.startswith("error: ")
        assert err.endswith("\n")
        assert len(err.splitlines()) == 1, err
        return err

    return run


@pytest.fixture
def refuse_each(refuse: Callable[..., str], subtests: pytest.Subtests) -> Any:
    """Runs commands, each of whose messages must contain a given part."""

    def run(messages: Mapping[str, str]) -> None:
        for arguments, message in messages.items():
            with subtests.test(arguments[:80] or "nothing"):
                assert message in refuse(arguments)

    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory, beside a data directory that contains a dataset."""
    make_files(tmp_path, {"here/": "", "data/cats/1.0.0/dataset_info.json": "{}"})
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    with contextlib.chdir(tmp_path / "here"):
        yield tmp_path / "here"


@pytest.fixture
def refuse_source(here: Path) -> Callable[..., str]:  # noqa: ARG001
    """Imports sources that must be refused; returns the message."""

    def run(sources: list[str], name: str = "mine", **options: Any) -> str:
        data = Path(os.environ["TFDS_DATA_DIR"])
        before = contents(data)
        with pytest.raises((ValueError, OSError)) as refused:
            import_dataset(name, sources, **options)
        assert contents(data) == before
        message = str(refused.value)
        assert len(message.splitlines()) == 1
        assert 10 < len(message) < 600
        return message

    return run


@pytest.fixture
def refuse_each_source(refuse_source: Callable[..., str], here: Path, subtests: Any) -> Any:
    """Imports sources, each of whose messages must contain a given part."""

    def run(cases: Mapping[str, tuple[Callable[[], list[str]], str]]) -> None:
        for number, (name, (make, message)) in enumerate(cases.items()):
            (here / str(number)).mkdir()
            with subtests.test(name), contextlib.chdir(here / str(number)):
                assert message in refuse_source(make())

    return run
