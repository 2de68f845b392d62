"""A work directory: whose it is, what it says, and how it is deleted."""

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
from mnist_jax.workdir.files import read_json
from mnist_jax.workdir.hashing import network_sha256
from mnist_jax.workdir.origin import CHOICES, Origin, length_dependence

MEMBERS = "members"  # a directory that only a population has
FILES = ("config.json", "metrics.jsonl", "result.json", "population.json")


class Made(TypedDict):
    """The part of a result that says what its bits depend on, and how long they took."""

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
    """The content of result.json: the measured network, and what its bits depend on.

    `test_loss` and `test_accuracy` are None while the test split is not measured, and `guessing`,
    what `metrics.guessing` gives for it, is then absent. Each own metric has `test_NAME` and
    `val_NAME`. `steps` counts the updates made, `best_step` is the saved step that is best by
    `watch.monitor`; `seconds` maps the phases of the run to seconds. The environment follows.
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
    """Returns the result of a network with these variables, as described in `Result`.

    `test` has the mean loss, accuracy and own metrics over the test split, None if not measured;
    `measured` is the row of the network's epoch.
    """
    own = sorted({name[4:] for name in measured if name.startswith("val_")} - {"loss", "accuracy"})
    tested = test or dict.fromkeys(("loss", "accuracy", *own))
    values: Any = {
        **{f"test_{name}": tested[name] for name in ("loss", "accuracy")},
        "val_accuracy": measured["val_accuracy"],
        **{f"test_{name}": tested[name] for name in own},
        **{f"val_{name}": measured[f"val_{name}"] for name in own},
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
    """Tells whether a training has a result, and the test split is measured in it."""
    return bool(result) and result["test_accuracy"] is not None


def checked_workdir(config: Config, workdir: str | Path) -> Path:
    """Returns the workdir as a Path; ValueError if it or the config is something else."""
    if not isinstance(config, Config):
        raise ValueError(
            f"config must be a Config, such as Config(epochs=3), got {type(config).__name__}; "
            "mnist_jax.config.config_from_dict makes one of nested dicts"
        )
    if not isinstance(workdir, str | os.PathLike) or not str(workdir):
        raise ValueError(f"workdir must be the name of a directory, got {workdir!r}")
    return Path(workdir)


def read_config(workdir: Path) -> Config | None:
    """Returns the config of the run in `workdir`, or None where there is none.

    Raises NotADirectoryError for a file, and ValueError for a config.json of another version.
    """
    if workdir.exists() and not workdir.is_dir():
        raise NotADirectoryError(
            f"the workdir {workdir} is a file; give a directory, or a new name"
        )
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
    """Reads result.json; returns None where there is none; ValueError if it is damaged."""
    path = workdir / "result.json"
    if not path.exists():
        return None
    result: Any = read_json(path)
    values = result if isinstance(result, dict) else {}
    kinds: dict[str, Any] = {"steps": int, "params_sha256": str, "seconds": dict}
    if [values.get(name, 0) for name in ("test_loss", "test_accuracy")] == [None, None]:
        accuracy = "val_accuracy"
    else:
        accuracy, kinds["test_loss"] = "test_accuracy", float
    if (
        any(not isinstance(values.get(name), kind) for name, kind in kinds.items())
        or not isinstance(values.get(accuracy), float)
        or not all(isinstance(value, int | float) for value in values["seconds"].values())
        or not (0 <= values[accuracy] <= 1 and values["steps"] >= 1)
        or values["steps"] is True
    ):
        raise ValueError(f"{path} is not a result of a training")
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

    With `extend`, the run must be there, and may have fewer epochs.

    Raises:
        ValueError: the directory belongs to something else, or to a run of the other kind, or to
            one with another config that is not to be overwritten, or cannot be extended.
        NotADirectoryError: it is a file.
    """
    previous = read_config(workdir)
    if previous is None:
        names = ["checkpoints", *FILES[1:], "sweep.db", "trials"]  # the last two of a sweep
        if any((workdir / MEMBERS).glob("*")):  # empty, it is of a population that was killed
            names.append(MEMBERS)
        for name in names:
            if os.path.lexists(workdir / name):
                raise ValueError(
                    f"{workdir} holds {name} but no config.json, so it is not of this program: "
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
    if extend and problem:
        raise ValueError(f"{workdir} cannot be extended: {problem}; {choices}")
    if extend:
        return True
    if not problem:
        choices = f"add --extend to train on to {config.epochs} epochs, {choices}"
    elif not re.search(r"\b(model|data|init_from)\b", " ".join(differences)):
        choices += f"; there --init-from {workdir} would begin with its parameters"
    if len(differences) == 1 and config.epochs > previous.epochs and problem:
        choices = f"it cannot be extended, as {problem}; {choices}"
    raise ValueError(another + choices)


def _extension_problem(workdir: Path, previous: Config, config: Config) -> str | None:
    """Says why a run of one config cannot become one of another by more epochs, if it cannot."""
    same_length = dataclasses.replace(config, epochs=previous.epochs)
    old, new = dataclasses.asdict(previous), dataclasses.asdict(same_length)
    if differences := config_differences(old, new):
        return f"only epochs may change, but {'; '.join(differences)}"
    if config.epochs < previous.epochs:
        return f"epochs must be more than {previous.epochs}, got {config.epochs}"
    members = workdir.absolute().parent
    if members.name == MEMBERS and (members.parent / "population.json").exists():
        return "it is a member of a population, which would no longer be whole"
    dependence = length_dependence(old)
    return dependence and f"{dependence}, so that every step depends on the number of epochs"


def previous_result(
    workdir: Path, config: Config, overwrite: bool, extend: bool = False, test: bool = False
) -> Result | None:
    """Returns the result of the run in `workdir` if it is complete and not to be overwritten.

    A run whose result, last or best checkpoint is damaged is not complete. Nor is one that is to be
    extended, or, with `test`, one that lacks the test of its data. Raises as `holds_run`.
    """
    if not holds_run(workdir, config, overwrite, extend) or read_config(workdir) != config:
        return None
    try:
        result = read_result(workdir)
    except ValueError as error:
        warnings.warn(f"{error}; it is made anew", stacklevel=2)
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
    """Raises FileNotFoundError if not all processes see the config.json of the first one."""
    path = workdir / "config.json"
    written = from_first(lambda: _time_of_writing(path))
    if not path.exists() or _time_of_writing(path) != written:  # it may have one of its own
        raise FileNotFoundError(
            f"process {jax.process_index()} does not see the workdir {workdir} of the first one: "
            "give a --workdir on a file system that all machines share"
        )


def _time_of_writing(path: Path) -> int:
    # Opened, as a network's file system may have old news otherwise.
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime_ns


@by_first_process
def delete_leftovers(workdir: Path) -> None:
    """Deletes what writes that were killed have left half-done. Only the owner of the lock may."""
    for name in FILES:
        for leftover in workdir.glob(f".{name}.*.tmp"):
            leftover.unlink()


@by_first_process
def delete_result(workdir: Path) -> None:
    """Deletes what describes a finished run: its last checkpoint can give it again."""
    for name in ("tensorboard", "profile"):
        shutil.rmtree(workdir / name, ignore_errors=True)
    for name in ("report.html", "result.json"):
        (workdir / name).unlink(missing_ok=True)


@by_first_process
def delete_run(workdir: Path) -> None:
    """Deletes a run but for config.json, which the next run replaces and which marks it as ours.

    The order never leaves a result without its checkpoint.
    """
    delete_result(workdir)
    (workdir / "metrics.jsonl").unlink(missing_ok=True)
    delete_checkpoints(workdir / "checkpoints")
