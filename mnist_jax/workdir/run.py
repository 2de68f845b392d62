"""A work directory's owner and files."""

import dataclasses
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import jax

from mnist_jax.config import Config, config_differences, config_from_dict
from mnist_jax.processes.distributed import by_first_process, from_first
from mnist_jax.state import Variables
from mnist_jax.workdir.checkpoint import check_checkpoints, delete_checkpoints, read_progress
from mnist_jax.workdir.files import json_number, read_json
from mnist_jax.workdir.hashing import network_sha256
from mnist_jax.workdir.origin import CHOICES, Origin, length_dependence

MEMBERS = "members"  # a directory that only a population has
FILES = ("config.json", "metrics.jsonl", "result.json", "population.json")


class Made(TypedDict):
    """A result's environment and times."""

    steps: int
    data_sha256: str
    seconds: dict[str, float]
    platform: str
    device_kind: str
    device_count: int
    process_count: int
    cpu_count: int | None
    settings: NotRequired[list[str]]
    versions: dict[str, str]


class Result(Made):
    """The content of result.json: the measured network, and its origin.

    Without a test, `test_loss` and `test_accuracy` are None, and `guessing` (from
    `metrics.guessing`) is absent. Own metrics are `test_NAME` and `val_NAME`. `steps` counts the
    updates, `best_step` is the best saved one by `watch.monitor`, `seconds` are the durations of
    the run's phases.
    """

    test_loss: float | None
    test_accuracy: float | None
    val_accuracy: float
    guessing: NotRequired[dict[str, float]]
    best_step: int | None
    params_sha256: str
    init_sha256: NotRequired[str]


def create_result(
    variables: Variables,
    test: Mapping[str, float | None] | None,
    measured: Mapping[str, Any],
    *,
    guessing: dict[str, float] | None,
    best_step: int | None,
    steps: int,
    origin: Origin,
    seconds: dict[str, float],
) -> Result:
    """Creates the `Result` of a network from its test metrics, if any, and its epoch's row."""
    own = sorted({name[4:] for name in measured if name.startswith("val_")} - {"loss", "accuracy"})
    names = ["loss", "accuracy", *own]
    tested = {**test, "loss": json_number(test["loss"])} if test else dict.fromkeys(names)
    values: Any = {
        **{f"test_{name}": tested[name] for name in names},
        **{f"val_{name}": measured[f"val_{name}"] for name in names[1:]},
        **({"guessing": guessing} if test else {}),
        "best_step": best_step,
        "steps": steps,
        "params_sha256": network_sha256(variables),
        **origin.hashes(),
        "seconds": seconds,
        **origin.environment,
    }
    return values


def is_tested(result: Mapping[str, Any] | None) -> bool:
    """Tells whether a result includes the test split."""
    return bool(result) and result["test_accuracy"] is not None


def checked_workdir(config: Config, workdir: str | Path) -> Path:
    """Checks the types of a config and a workdir; returns the workdir."""
    if not isinstance(config, Config):
        raise ValueError(
            f"config must be a Config, such as Config(epochs=3), got {type(config).__name__}; "
            "mnist_jax.config.config_from_dict makes one from nested dicts"
        )
    if not isinstance(workdir, str | os.PathLike) or not str(workdir):
        raise ValueError(f"workdir must be the name of a directory, got {workdir!r}")
    return Path(workdir)


def read_config(workdir: Path) -> Config | None:
    """Reads the config of the run in `workdir`; None if there is none.

    Raises NotADirectoryError for a file, and ValueError for a config.json of another version.
    """
    if workdir.exists() and not workdir.is_dir():
        raise NotADirectoryError(f"the workdir {workdir} is a file; give a directory")
    path = workdir / "config.json"
    if not path.exists():
        return None
    try:
        return config_from_dict(read_json(path))
    except ValueError as error:
        raise ValueError(
            f"{path} is not a config of this version: {error}; choose another --workdir, or delete "
            f"{workdir}"
        ) from error


def read_result(workdir: Path) -> Result | None:
    """Reads result.json; None if there is none, ValueError if it is damaged."""
    path = workdir / "result.json"
    if not path.exists():
        return None
    result: Any = read_json(path)
    values = result if isinstance(result, dict) else {}
    kinds: dict[str, Any] = {"steps": int, "params_sha256": str, "seconds": dict}
    if [values.get(name, 0) for name in ("test_loss", "test_accuracy")] == [None, None]:
        accuracy = "val_accuracy"
    else:
        accuracy, kinds["test_loss"] = "test_accuracy", float | None
    if (
        any(not isinstance(values.get(name, ()), kind) for name, kind in kinds.items())
        or not isinstance(values.get(accuracy), float)
        or not all(isinstance(value, int | float) for value in values["seconds"].values())
        or not (0 <= values[accuracy] <= 1 and values["steps"] >= 1)
        or values["steps"] is True
    ):
        raise ValueError(f"{path} is not the result of a run")
    return cast("Result", result)


def holds_run(
    workdir: Path,
    config: Config,
    overwrite: bool,
    extend: bool = False,
    *,
    of_population: bool = False,
) -> bool:
    """Tells whether `workdir` holds a run with this config that is not to be overwritten.

    With `extend`, the run must exist and may have fewer epochs. Raises NotADirectoryError for a
    file; ValueError if another program or kind of run wrote there, or with another config.
    """
    previous = read_config(workdir)
    if previous is None:
        names = ["checkpoints", *FILES[1:], "sweep.db", "trials"]  # the last two are a sweep's
        if any((workdir / MEMBERS).glob("*")):  # a killed population leaves it empty
            names.append(MEMBERS)
        for name in names:
            if os.path.lexists(workdir / name):
                raise ValueError(
                    f"{workdir} holds {name} but no config.json, so it is not this program's; "
                    f"choose another --workdir, or delete {name}"
                )
        if extend:
            raise ValueError(
                f"there is no run in {workdir} to extend: leave out --extend, or give its --workdir"
            )
        return False
    if (workdir / MEMBERS).exists() != of_population:
        kinds = ("a population", "a single run")
        raise ValueError(f"{workdir} holds {kinds[of_population]}: choose another --workdir")
    if overwrite:
        return False
    differences = config_differences(dataclasses.asdict(previous), dataclasses.asdict(config))
    if not differences:
        return True
    another = f"{workdir} holds a run with another config ({'; '.join(differences)}): "
    choices = CHOICES
    if of_population:
        raise ValueError(another + choices)
    problem = _extension_problem(workdir, previous, config)
    if extend:
        if problem:
            raise ValueError(f"{workdir} cannot be extended: {problem}; {choices}")
        return True
    if not problem:
        choices = f"add --extend to train on to {config.epochs} epochs, {choices}"
    elif not re.search(r"\b(model|data|init_from)\b", " ".join(differences)):
        begun = f"--workdir (with --init-from {workdir} to begin with its parameters)"
        choices = choices.replace("--workdir", begun)
    if len(differences) == 1 and config.epochs > previous.epochs and problem:
        choices = f"it cannot be extended, as {problem}; {choices}"
    raise ValueError(another + choices)


def _extension_problem(workdir: Path, previous: Config, config: Config) -> str | None:
    """Explains why a run cannot be extended to another config; None if it can."""
    same_length = dataclasses.replace(config, epochs=previous.epochs)
    old, new = dataclasses.asdict(previous), dataclasses.asdict(same_length)
    if differences := config_differences(old, new):
        return f"only epochs may change, but {'; '.join(differences)}"
    if config.epochs < previous.epochs:
        return f"epochs must be more than {previous.epochs}, got {config.epochs}"
    members = workdir.absolute().parent
    if members.name == MEMBERS and (members.parent / "population.json").exists():
        return "it is a member of a population"
    dependence = length_dependence(old)
    return dependence and f"{dependence}, so every step depends on the number of epochs"


def previous_result(
    workdir: Path, config: Config, overwrite: bool, extend: bool = False, test: bool = False
) -> Result | None:
    """Returns the result of the run in `workdir` if it is complete and not to be overwritten.

    It is incomplete if its result, last or best checkpoint is damaged, if it is to be extended, or,
    with `test`, was not tested. Raises the errors of `holds_run`.
    """
    if not holds_run(workdir, config, overwrite, extend) or read_config(workdir) != config:
        return None
    try:
        result = read_result(workdir)
    except ValueError as error:
        warnings.warn(f"{error}; it is written again", stacklevel=2)
        return None
    if not result:
        return None
    sound, _ = check_checkpoints(workdir / "checkpoints")
    if not {result["steps"], result.get("best_step")} <= {*sound}:
        return None
    if test and not is_tested(result):
        origin = read_progress(workdir / "checkpoints", result["steps"]).origin
        return None if "test" in origin.examples else result
    return result


def check_shared(workdir: Path) -> None:
    """Raises FileNotFoundError if a process does not see the first one's config.json."""
    path = workdir / "config.json"
    written = from_first(lambda: _time_of_writing(path))
    if not path.exists() or _time_of_writing(path) != written:  # it may be another file
        raise FileNotFoundError(
            f"process {jax.process_index()} does not see the workdir {workdir} of process 0; put "
            "it on a file system that all machines share"
        )


def _time_of_writing(path: Path) -> int:
    with path.open("rb") as file:  # network file systems may cache the time of a closed one
        return os.fstat(file.fileno()).st_mtime_ns


@by_first_process
def delete_leftovers(workdir: Path) -> None:
    """Deletes leftovers of killed writes; only for the owner of the lock."""
    for name in FILES:
        for leftover in workdir.glob(f".{name}.*.tmp"):
            leftover.unlink()


@by_first_process
def delete_result(workdir: Path) -> None:
    """Deletes a run's result and pictures, which its last checkpoint can give again."""
    for name in ("tensorboard", "profile"):
        shutil.rmtree(workdir / name, ignore_errors=True)
    for name in ("report.html", "result.json"):
        (workdir / name).unlink(missing_ok=True)


@by_first_process
def delete_run(workdir: Path) -> None:
    """Deletes a run except config.json: the result first, so it never lacks its checkpoint."""
    delete_result(workdir)
    (workdir / "metrics.jsonl").unlink(missing_ok=True)
    delete_checkpoints(workdir / "checkpoints")
