"""A work directory: what `train` leaves there, and the network that it holds."""

from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Sharding

from mnist_jax.checkpoint import open_checkpoints, restore_params
from mnist_jax.config import Config, config_from_dict
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
    config = read_config(Path(workdir))
    checkpoints = Path(workdir) / "checkpoints"
    if config is None or not checkpoints.is_dir():
        raise FileNotFoundError(f"there is no trained network in {workdir}; train one there first")
    with open_checkpoints(checkpoints, read_only=True) as manager:
        found, params = restore_params(manager, step, sharding)
    return Trained(config, params, found)
