"""Trained networks, loaded from work directories."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from flax import linen as nn

from mnist_jax.config import Config, completed, config_differences
from mnist_jax.datasets import Split, load_splits
from mnist_jax.datasets.info import DataInfo
from mnist_jax.forward import Forward
from mnist_jax.models import create_model
from mnist_jax.parts import OwnModel, Parts, own_model, own_sha256
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.state import Variables
from mnist_jax.workdir.checkpoint import check_checkpoints, read_progress, restore_variables
from mnist_jax.workdir.hashing import data_sha256
from mnist_jax.workdir.history import best_row
from mnist_jax.workdir.origin import Origin, check_own, is_here
from mnist_jax.workdir.run import MEMBERS, read_config


class Trained(NamedTuple):
    """A trained network."""

    config: Config
    model: nn.Module
    variables: Variables
    step: int  # updates
    origin: Origin
    workdir: Path = Path()
    splits: Any = None  # the user's own data; None if the config names a dataset

    @property
    def apply_fn(self) -> Forward:
        """The function (variables, images float [B, H, W, C] in [0, 1]) -> logits."""
        return Forward(self.model)

    @property
    def architecture(self) -> str:
        """The name of the model, or the class of the user's own."""
        return type(self.model).__name__ if "model" in self.origin.own else self.config.model.name

    @property
    def dataset(self) -> str:
        """The name of the dataset, or words for the user's own data."""
        return "its own data" if "splits" in self.origin.own else self.config.data.dataset

    @property
    def info(self) -> DataInfo:
        """Facts about the network's data."""
        return self.origin.data


def trained_config(workdir: str | Path) -> Config:
    """Returns the config of the run in `workdir`; FileNotFoundError if it holds no network."""
    members = Path(workdir) / MEMBERS
    if members.is_dir():
        what = " that is not complete"
        if first := min(members.iterdir(), default=None):
            what = f", not a network; name a member of it, such as {first}"
        raise FileNotFoundError(f"{workdir} holds a population{what}")
    config = read_config(Path(workdir))
    if config is None or not (Path(workdir) / "checkpoints").is_dir():
        raise FileNotFoundError(f"there is no trained network in {workdir}; train one there first")
    return config


def load_trained(
    workdir: str | Path,
    step: int | str = "latest",
    *,
    model: OwnModel = None,
    splits: Any = None,
    one_of_several: bool = False,
) -> Trained:
    """Loads a trained network, with its variables whole on every device; writes nothing.

    `step` is a saved one, "latest", or "best" by `watch.monitor` (the newest of equal ones). With
    early stopping, "latest" means "best". `model` and `splits` are the user's own, as in `Parts`;
    `one_of_several` ignores those that this network was trained without.

    Raises FileNotFoundError without a trained network, and ValueError if the step is missing or
    unreadable, or the model is not the trained one.
    """
    config, variables, number, origin = load_variables(workdir, step)
    _check_model(config, origin, Path(workdir))
    if one_of_several:
        model = model if "model" in origin.own else None
        splits = splits if "splits" in origin.own else None
    parts = Parts(model=model)
    classes = len(origin.data.label_names)
    module = own_model(parts, origin.data) or create_model(
        num_classes=classes, **vars(config.model)
    )
    saved = {name: sha256 for name, sha256 in origin.own.items() if name == "model"}
    own = own_sha256(parts, module, origin.data)
    check_own(saved, own, Path(workdir), compare=is_here(origin))
    return Trained(config, module, variables, number, origin, Path(workdir), splits)


def load_variables(
    workdir: str | Path, step: int | str = "latest"
) -> tuple[Config, Variables, int, Origin]:
    """Loads a trained network's config, variables, number of updates and origin."""
    config = trained_config(workdir)
    checkpoints = Path(workdir) / "checkpoints"
    steps, damaged = check_checkpoints(checkpoints)
    if not steps:
        raise ValueError("; ".join(damaged.values()) or f"{checkpoints} holds no checkpoint yet")
    for line in damaged.values():
        warnings.warn(line, stacklevel=2)
    by_name = {str(number): number for number in steps} | {"latest": steps[-1]}
    try:
        if step == "best" or (step == "latest" and config.watch.patience):
            rows = read_progress(checkpoints, steps[-1]).history
            measured = [row for row in rows if row["step"] in steps]
            best = best_row(measured, config.watch.monitor)["step"] if measured else steps[-1]
            by_name[str(step)] = best
        if str(step) not in by_name:
            raise ValueError(
                f"{checkpoints} holds no step {step}; expected latest, best or one of "
                f"{', '.join(map(str, steps))}"
            )
        number = by_name[str(step)]
        variables = restore_variables(checkpoints, number, replicated(create_mesh()))
        return config, variables, number, read_progress(checkpoints, number).origin
    except FileNotFoundError:
        if all((checkpoints / str(number)).exists() for number in steps):
            raise
        return load_variables(workdir, step)  # an active run has pruned one


def _check_model(config: Config, origin: Origin, workdir: Path) -> None:
    """Raises ValueError if config.json does not describe the trained model."""
    written, trained = (completed(values) for values in (dataclasses.asdict(config), origin.config))
    fields = [name for name in written if name.startswith("model.") and "dropout" not in name]
    both = ({name: values.get(name) for name in fields} for values in (trained, written))
    if differences := config_differences(*both):
        raise ValueError(
            f"{workdir / 'config.json'} is not the trained network's ({'; '.join(differences)}); "
            "restore it, or train in another --workdir"
        )


def own_splits(trained: Trained) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Loads the splits and class names of a trained network's data, like `load_splits`.

    Raises ValueError if the data have changed or are missing.
    """
    saved = {name: sha256 for name, sha256 in trained.origin.own.items() if name == "splits"}
    given = {} if trained.splits is None else {"splits": ""}
    check_own(saved, given, trained.workdir, compare=False)
    own: Any = {"own": trained.splits, "num_classes": len(trained.info.label_names)}
    splits, label_names = load_splits(**vars(trained.config.data), **own)
    same = label_names == trained.info.label_names
    if not same or data_sha256(splits) != trained.origin.data_sha256:
        raise ValueError(
            f"the {'images' if same else 'classes'} of {trained.dataset} have changed since the "
            "network was trained on them; retrain in another --workdir"
        )
    return splits, label_names
