"""A trained network, loaded from its work directory."""

import dataclasses
import warnings
from pathlib import Path
from typing import NamedTuple

from flax import linen as nn

from mnist_jax.config import Config, completed, config_differences
from mnist_jax.datasets import Split, load_splits
from mnist_jax.datasets.info import DataInfo
from mnist_jax.models import create_model
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.state import Variables
from mnist_jax.workdir.checkpoint import check_checkpoints, read_progress, restore_variables
from mnist_jax.workdir.hashing import data_sha256
from mnist_jax.workdir.history import best_row
from mnist_jax.workdir.origin import Origin
from mnist_jax.workdir.run import MEMBERS, read_config


class Trained(NamedTuple):
    """A trained network, loaded.

    Attributes:
        config: the recipe.
        model: the module, whose `apply` takes the variables.
        variables: the parameters, and batch statistics where it has them.
        step: number of updates that it was trained with.
        origin: the record of what it was made of.
    """

    config: Config
    model: nn.Module
    variables: Variables
    step: int
    origin: Origin

    @property
    def info(self) -> DataInfo:
        """The facts about its data that the network has to know."""
        return self.origin.data


def trained_config(workdir: str | Path) -> Config:
    """Returns the config of the run in `workdir`.

    Raises:
        FileNotFoundError: nothing was trained there, or a population.
    """
    members = Path(workdir) / MEMBERS
    if members.is_dir():
        names = sorted(path.name for path in members.iterdir())
        raise FileNotFoundError(
            f"{workdir} holds a population, not a network; name a member of it, such as "
            f"{members / names[0]}"
            if names
            else f"{workdir} holds a population that is not finished"
        )
    config = read_config(Path(workdir))
    if config is None or not (Path(workdir) / "checkpoints").is_dir():
        raise FileNotFoundError(f"there is no trained network in {workdir}; train one there first")
    return config


def load_trained(workdir: str | Path, step: int | str = "latest") -> Trained:
    """Loads a trained network, its variables whole on every device; nothing is written.

    Args:
        workdir: a directory that `train` has written.
        step: a saved step, "latest", or "best" by validation accuracy (of equal ones the newest).
            With early stopping the latest is the best.

    Raises:
        FileNotFoundError: there is no trained network.
        ValueError: it has no such step, or it cannot be read.
    """
    config = trained_config(workdir)
    checkpoints = Path(workdir) / "checkpoints"
    steps, damaged = check_checkpoints(checkpoints)
    if not steps:
        nothing = f"{checkpoints} holds no step {step}, but nothing yet"
        raise ValueError("; ".join(damaged.values()) or nothing)
    for line in damaged.values():
        warnings.warn(line, stacklevel=2)
    by_name = {str(number): number for number in steps} | {"latest": steps[-1]}
    if step == "latest" and config.watch.patience:
        step = "best"
    try:
        if step == "best":
            rows = read_progress(checkpoints, steps[-1]).history
            measured = [row for row in rows if row["step"] in steps]
            by_name["best"] = best_row(measured)["step"] if measured else steps[-1]
        if str(step) not in by_name:
            raise ValueError(
                f"{checkpoints} holds no step {step}, but the steps {', '.join(map(str, steps))}; "
                "latest and best name one of them"
            )
        variables = restore_variables(checkpoints, by_name[str(step)], replicated(create_mesh()))
        origin = read_progress(checkpoints, by_name[str(step)]).origin
    except FileNotFoundError:
        if all((checkpoints / str(number)).exists() for number in steps):
            raise
        return load_trained(workdir, step)  # a run that is under way has pruned one
    _check_model(config, origin, Path(workdir))
    model = create_model(num_classes=len(origin.data.label_names), **vars(config.model))
    return Trained(config, model, variables, by_name[str(step)], origin)


def _check_model(config: Config, origin: Origin, workdir: Path) -> None:
    """Raises ValueError where config.json describes another model than the one that was trained."""
    written, trained = (completed(values) for values in (dataclasses.asdict(config), origin.config))
    fields = [
        name for name in written if name.startswith("model.") and name != "model.dropout_rate"
    ]
    differences = config_differences(*({n: v.get(n) for n in fields} for v in (trained, written)))
    if differences:
        raise ValueError(
            f"{workdir / 'config.json'} is not that of the trained network ("
            f"{'; '.join(differences)}): put back what it held, or train in another --workdir"
        )


def own_splits(trained: Trained) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Loads the splits that a network was trained, validated and tested on, see `load_splits`.

    Raises ValueError where the dataset is no longer what it was.
    """
    splits, label_names = load_splits(**vars(trained.config.data))
    same = label_names == trained.info.label_names
    if not same or data_sha256(splits) != trained.origin.data_sha256:
        raise ValueError(
            f"the {'images' if same else 'classes'} of dataset {trained.config.data.dataset!r} are "
            "no longer those that the network was trained on: train anew, in another --workdir"
        )
    return splits, label_names
