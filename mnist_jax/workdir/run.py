"""A work directory: what `train` leaves there, and the network that it holds."""

import contextlib
import dataclasses
import errno
import fcntl
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from mnist_jax.config import Config, config_differences, config_from_dict
from mnist_jax.datasets import DataInfo, Split, load_splits
from mnist_jax.models import create_model
from mnist_jax.processes.distributed import by_first_process, from_first, is_first
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.state import Variables
from mnist_jax.workdir.checkpoint import (
    check_checkpoints,
    delete_checkpoints,
    read_progress,
    restore_variables,
)
from mnist_jax.workdir.hashing import data_sha256
from mnist_jax.workdir.history import best_row, read_json
from mnist_jax.workdir.origin import Origin


class Trained(NamedTuple):
    """What a training gave.

    Attributes:
        config: the recipe.
        model: `model.apply` takes the variables.
        variables: what it computes with.
        step: the updates it was trained with.
        origin: what it was made of.
    """

    config: Config
    model: nn.Module
    variables: Variables
    step: int
    origin: Origin

    @property
    def info(self) -> DataInfo:
        """What the network has to know of its data."""
        return self.origin.data


MEMBERS = "members"  # a directory that only a population has


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
    if not path.exists():
        return None
    try:
        return config_from_dict(read_json(path))
    except ValueError as error:
        raise ValueError(
            f"{path} is not a config of this version: {error}; choose another --workdir, or delete "
            f"{workdir}"
        ) from error


def read_result(workdir: Path) -> dict[str, Any] | None:
    """Returns what result.json holds, or None where there is none; ValueError if it is damaged."""
    path = workdir / "result.json"
    if not path.exists():
        return None
    result = read_json(path)
    expected: dict[str, Any] = {
        "steps": int,
        "test_loss": float,
        "test_accuracy": float,
        "params_sha256": str,
        "seconds": dict,
    }
    if (
        not isinstance(result, dict)
        or any(not isinstance(result.get(name), kind) for name, kind in expected.items())
        or not all(isinstance(value, int | float) for value in result["seconds"].values())
    ):
        raise ValueError(f"{path} is not a result of a training")
    return result


def holds_run(
    workdir: Path, config: Config, overwrite: bool, *, of_population: bool = False
) -> bool:
    """Tells whether `workdir` holds a run with this config that is not to be overwritten.

    Args:
        workdir: it may be missing.
        config: the recipe.
        overwrite: any run of its kind may be overwritten.
        of_population: the kind: one of `population`, or of `train`.

    Raises:
        ValueError: the directory belongs to something else, or to a run of the other kind, or to
            one with another config that is not to be overwritten.
        NotADirectoryError: it is a file.
    """
    previous = read_config(workdir)
    if previous is None:
        names = ["checkpoints", "metrics.jsonl", "result.json", "population.json"]
        names += ["sweep.db", "trials"]  # of a sweep
        if any((workdir / MEMBERS).glob("*")):  # empty, it is of a population that was killed
            names.append(MEMBERS)
        for name in names:
            if os.path.lexists(workdir / name):
                raise ValueError(
                    f"{workdir} holds {name} but no config.json, so it is not of this program: "
                    f"choose another --workdir, or delete {name}"
                )
        return False
    if (workdir / MEMBERS).exists() != of_population:
        kinds = ("a population", "a single run")
        raise ValueError(f"{workdir} holds {kinds[of_population]}: choose another --workdir")
    if overwrite:
        return False
    differences = config_differences(dataclasses.asdict(previous), dataclasses.asdict(config))
    if differences:
        raise ValueError(
            f"{workdir} holds a run with another config ({'; '.join(differences)}): choose another "
            "--workdir, or start anew with --overwrite"
        )
    return True


def previous_result(workdir: Path, config: Config, overwrite: bool) -> dict[str, Any] | None:
    """Returns the result of the run in `workdir` if it is complete and not to be overwritten.

    A run whose result, last or best checkpoint is damaged is not complete. Raises as `holds_run`.
    """
    if not holds_run(workdir, config, overwrite):
        return None
    try:
        result = read_result(workdir)
    except ValueError as error:
        warnings.warn(f"{error}; it is made anew", stacklevel=2)
        return None
    if not result:
        return None
    sound, _ = check_checkpoints(workdir / "checkpoints")
    return result if {result["steps"], result.get("best_step")} <= {*sound} else None


@contextlib.contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
    """Makes the directory where there is none, and keeps other writers out of it.

    Of several processes, the first one has it for all. The lock is the kernel's, on an open file:
    it ends with the process, however that ends. Directories made here are removed again where
    nothing was written into them.

    Raises:
        BlockingIOError: another process is training there.
        OSError: the directory cannot be made or written to.
    """
    if not is_first():
        yield
        return
    made = [path for path in (workdir, *workdir.parents) if not path.exists()]
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / ".lock"
    with contextlib.ExitStack() as stack:
        while True:
            file = stack.enter_context(path.open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BlockingIOError(
                    f"{workdir} is in use by another process; wait for it, or choose another "
                    "--workdir"
                ) from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
                    raise
                warnings.warn(
                    f"{workdir} cannot be locked ({error.strerror}): see to it that no other "
                    "process writes there",
                    stacklevel=4,
                )
            # The owner before may have removed the file between our opening and locking it.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    break
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # not empty, or the disk is in trouble: no harm
                path.unlink()
                for directory in made:
                    directory.rmdir()


def check_shared(workdir: Path) -> None:
    """Raises FileNotFoundError where not all processes see the config.json of the first one."""
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
    for name in ("config.json", "metrics.jsonl", "result.json", "population.json"):
        for leftover in workdir.glob(f".{name}.*.tmp"):
            leftover.unlink()


@by_first_process
def delete_run(workdir: Path) -> None:
    """Deletes a run but for config.json, which the next run replaces and which marks it as ours.

    The order never leaves a result without its checkpoint.
    """
    for name in ("report.html", "result.json", "metrics.jsonl"):
        (workdir / name).unlink(missing_ok=True)
    delete_checkpoints(workdir / "checkpoints")
    shutil.rmtree(workdir / "tensorboard", ignore_errors=True)


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
    found = {str(number): number for number in steps} | {"latest": steps[-1]}
    if step == "latest" and config.watch.patience:
        step = "best"
    try:
        if step == "best":
            rows = read_progress(checkpoints, steps[-1]).history
            measured = [row for row in rows if row["step"] in steps]
            found["best"] = best_row(measured)["step"] if measured else steps[-1]
        if str(step) not in found:
            raise ValueError(
                f"{checkpoints} holds no step {step}, but the steps {', '.join(map(str, steps))}; "
                "latest and best name one of them"
            )
        variables = restore_variables(checkpoints, found[str(step)], replicated(create_mesh()))
        origin = read_progress(checkpoints, found[str(step)]).origin
    except FileNotFoundError:
        if all((checkpoints / str(number)).exists() for number in steps):
            raise
        return load_trained(workdir, step)  # a run that is under way has pruned one
    model = create_model(num_classes=len(origin.data.label_names), **vars(config.model))
    return Trained(config, model, variables, found[str(step)], origin)


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
