"""A work directory: what `train` leaves there, and the network that it holds."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Sharding

from mnist_jax.checkpoint import open_checkpoints, restore_params
from mnist_jax.config import Config, config_differences, config_from_dict
from mnist_jax.history import read_json


class Trained(NamedTuple):
    """What a training gave: `create_model(**vars(config.model))` takes the parameters."""

    config: Config
    params: Any
    step: int


def read_config(workdir: Path) -> Config | None:
    """Returns the config of the run in `workdir`, or None where there is none.

    Raises:
        NotADirectoryError: `workdir` is something else than a directory.
        ValueError: its config.json is not one of this version.
    """
    if workdir.exists() and not workdir.is_dir():
        raise NotADirectoryError(
            f"the workdir {workdir} is a file; give a directory, or a new name"
        )
    path = workdir / "config.json"
    values = read_json(path)
    try:
        return None if values is None else config_from_dict(values)
    except ValueError as error:
        raise ValueError(f"{path} is not a config of this version: {error}") from error


def previous_result(workdir: Path, config: Config, overwrite: bool) -> dict[str, Any] | None:
    """Returns the result of the run in `workdir` if it is complete and not to be overwritten.

    Raises:
        ValueError: the directory belongs to something else, or to a run with another config that
            is not to be overwritten.
        NotADirectoryError: it is a file.
    """
    previous = read_config(workdir)
    if previous is None and (workdir / "checkpoints").exists():
        raise ValueError(
            f"{workdir} holds checkpoints/ but no config.json: choose another --workdir, or delete "
            "checkpoints/"
        )
    if previous is None or overwrite:
        return None
    differences = config_differences(previous, config)
    if differences:
        raise ValueError(
            f"{workdir} holds a run with another config ({'; '.join(differences)}): choose another "
            "--workdir, or start anew with --overwrite"
        )
    result = read_json(workdir / "result.json")
    if result is not None and not {"steps", "test_accuracy"} <= set(result):
        raise ValueError(f"{workdir / 'result.json'} is not a result: start anew with --overwrite")
    return result


def delete_run(workdir: Path) -> None:
    """Deletes a run but for config.json, which the next run replaces and which marks it as ours.

    The order never leaves a result without its checkpoint.
    """
    for name in ("result.json", "metrics.jsonl"):
        (workdir / name).unlink(missing_ok=True)
    checkpoints, deleted = workdir / "checkpoints", workdir / ".deleted"
    shutil.rmtree(deleted, ignore_errors=True)
    if checkpoints.exists():
        checkpoints.rename(deleted)  # in one go: a kill leaves no part of a checkpoint
        shutil.rmtree(deleted)


def trained_config(workdir: str | Path) -> Config:
    """Returns the config of the run in `workdir`; FileNotFoundError where nothing was trained."""
    config = read_config(Path(workdir))
    if config is None or not (Path(workdir) / "checkpoints").is_dir():
        raise FileNotFoundError(f"there is no trained network in {workdir}; train one there first")
    return config


def load_trained(workdir: str | Path, step: int | str, sharding: Sharding) -> Trained:
    """Loads a trained network; nothing is written.

    Args:
        workdir: a directory that `train` has written.
        step: a saved step, "latest", or "best" by validation accuracy.
        sharding: where the parameters go.

    Raises:
        FileNotFoundError: there is no trained network.
        ValueError: it has no such step, or it cannot be read.
    """
    config = trained_config(workdir)
    with open_checkpoints(Path(workdir) / "checkpoints", read_only=True) as manager:
        found, params = restore_params(manager, step, sharding)
    return Trained(config, params, found)
