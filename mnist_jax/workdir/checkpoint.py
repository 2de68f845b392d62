"""Checkpoints on disk: the only file that uses Orbax.

A checkpoint is a directory named by its step. Renames create and remove it, so every listed one is
complete, whenever the process is killed.
"""

import contextlib
import copy
import errno
import functools
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath  # Orbax's handlers take no other paths
from jax.sharding import Sharding

from mnist_jax.processes.distributed import by_first_process
from mnist_jax.state import TrainState, Variables
from mnist_jax.workdir.files import sync
from mnist_jax.workdir.hashing import find_damage, is_key, named_leaves, write_sums
from mnist_jax.workdir.history import Progress

SAVING = ocp.utils.TMP_DIR_SUFFIX  # while Orbax writes
STEP = re.compile("0|[1-9][0-9]{0,9}")  # an int32
ASIDE, DELETED = ".aside", ".deleted"


def check_checkpoints(directory: Path) -> tuple[list[int], dict[int, str]]:
    """Compares the files of every checkpoint with their recorded sums.

    Returns the steps of intact ones, in order, and by step a line about each damaged one. Raises
    OSError if `directory` is unreadable or not a directory.
    """
    if os.path.lexists(directory) and not directory.is_dir():
        raise NotADirectoryError(f"{directory} must be a directory, for checkpoints")
    sound, damaged = [], {}
    for checkpoint in listed(directory):
        damage = find_damage(checkpoint)
        if not damage:
            sound.append(int(checkpoint.name))
        elif checkpoint.exists():  # not just pruned by an active run
            line = f"the checkpoint {checkpoint} is damaged and left out: {damage}"
            damaged[int(checkpoint.name)] = line
    return sound, damaged


class Saver:
    """Saves training states in the background, one at a time; created by `open_saver`.

    All processes must make the same calls; each writes its own shards.
    """

    def __init__(self, directory: Path):
        self._directory = directory.absolute()  # Orbax takes no other
        self._checkpointer = ocp.AsyncCheckpointer(
            _handlers(),
            async_options=ocp.AsyncOptions(
                post_finalization_callback=functools.partial(_finalize, self._directory),
                # Orbax's threads hang if a directory cannot be made in the background.
                create_directories_asynchronously=False,
            ),
        )

    def save(self, state: TrainState, progress: Progress) -> None:
        """Starts saving a state under its step, after the previous save.

        All values are copied, so the state may then be donated, and the progress extended. Raises
        OSError if this or the previous save failed.
        """
        items = {name: ocp.args.StandardSave(item) for name, item in _arrays(state).items()}
        values = copy.deepcopy(progress.to_json())  # Orbax copies only arrays at once
        args = ocp.args.Composite(**items, progress=ocp.args.JsonSave(values))
        with _one_os_error(self._directory):
            self._checkpointer.save(self._directory / str(int(state.step)), args=args)

    def wait(self) -> None:
        """Waits until the checkpoint is complete; OSError if it cannot be written."""
        with _one_os_error(self._directory):
            self._checkpointer.wait_until_finished()
            sync(self._directory)

    def close(self) -> None:
        """Waits for the save, ends its threads, and deletes pruned checkpoints."""
        with _one_os_error(self._directory):
            self._checkpointer.close()
        _remove(self._directory, DELETED)


@contextlib.contextmanager
def open_saver(directory: Path, sound: Iterable[int]) -> Iterator[Saver]:
    """Opens a directory of checkpoints for writing; leaving the `with` block waits for saves.

    Removes leftovers of killed processes. Checkpoints of other than `sound` steps are set aside,
    until `remove_set_aside`.
    """
    _tidy(directory, sound)
    saver = Saver(directory)
    try:
        yield saver
        saver.close()
    except BaseException:
        for tidy in (saver.close, functools.partial(_remove, directory, SAVING)):
            with contextlib.suppress(OSError):  # the first error matters
                tidy()
        raise


@by_first_process
def _tidy(directory: Path, sound: Iterable[int]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    _remove(directory, SAVING, DELETED)
    prune(directory, sound, ASIDE)


@by_first_process
def prune(directory: Path, keep: Iterable[int], suffix: str = DELETED) -> None:
    """Removes all checkpoints except those of steps to `keep`. No save may be active.

    It renames them; the next save, or `Saver.close`, deletes them.
    """
    for checkpoint in listed(directory):
        if int(checkpoint.name) not in keep:
            renamed = checkpoint.with_name(checkpoint.name + suffix)
            shutil.rmtree(renamed, ignore_errors=True)  # an older one
            checkpoint.rename(renamed)


def remove_set_aside(directory: Path) -> None:
    """Deletes the checkpoints that `open_saver` set aside, once the run is complete."""
    _remove(directory, ASIDE)


def delete_checkpoints(directory: Path) -> None:
    """Deletes all checkpoints and leftovers."""
    prune(directory, ())
    _remove(directory, DELETED, SAVING, ASIDE)


def read_progress(directory: Path, step: int) -> Progress:
    """Reads the progress saved with a state; one process may do so alone."""
    path = _path(directory, step) / "progress"
    values = ocp.JsonCheckpointHandler().restore(path, args=ocp.args.JsonRestore())
    return Progress.from_json({**values})


def restore_state(directory: Path, step: int, state: TrainState, sharding: Sharding) -> TrainState:
    """Restores a sound step with the structure, shapes and dtypes of `state`.

    It may have been saved from other devices. Raises ValueError for the state of another model.
    """
    expected = _arrays(state)
    saved = {name: _saved_arrays(directory, step, name) for name in expected}
    # Orbax would cast leaves of another dtype.
    if differences := _spelled(saved) ^ _spelled(expected):
        raise ValueError(
            f"the checkpoint {directory / str(step)} is of another model: "
            f"{', '.join(sorted(differences))}"
        )
    restored = _restore(directory, step, expected, sharding)
    variables = dict(restored["optimizer"].pop("variables", restored["variables"]))
    return state.replace(
        params=variables.pop("params"),
        collections=variables,
        average=restored["variables"] if state.average else {},
        **restored["optimizer"],
    )


def restore_variables(directory: Path, step: int, sharding: Sharding) -> Variables:
    """Restores the variables of a saved step, in their saved structure."""
    target = {"variables": _saved_arrays(directory, step, "variables")}
    return _restore(directory, step, target, sharding)["variables"]


def _arrays(state: TrainState) -> dict[str, Any]:
    """Divides a state into saved items; an evaluation reads only the first."""
    optimizer = {"step": state.step, "opt_state": state.opt_state}
    if state.average:
        optimizer["variables"] = state.variables
    return {"variables": state.eval_variables, "optimizer": optimizer}


def _handlers() -> ocp.CompositeCheckpointHandler:
    return ocp.CompositeCheckpointHandler(
        variables=ocp.StandardCheckpointHandler(),
        optimizer=ocp.StandardCheckpointHandler(),
        progress=ocp.JsonCheckpointHandler(),
    )


def _saved_arrays(directory: Path, step: int, item: str) -> Any:
    """Reads an item's shapes and dtypes, in its saved structure."""
    return ocp.StandardCheckpointHandler().metadata(_path(directory, step) / item).tree


def _restore(directory: Path, step: int, items: dict[str, Any], sharding: Sharding) -> Any:
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), items
    )
    path = _path(directory, step)
    args = {name: ocp.args.StandardRestore(item) for name, item in abstract.items()}
    try:
        return ocp.Checkpointer(_handlers()).restore(path, args=ocp.args.Composite(**args))
    except KeyError as error:
        raise ValueError(
            f"the checkpoint {path} is of another version of this program; retrain with "
            "--overwrite, or in another --workdir"
        ) from error


def _path(directory: Path, step: int) -> epath.Path:
    return epath.Path(directory.absolute() / str(step))


def _spelled(arrays: dict[str, Any]) -> set[str]:
    """Describes leaves as text, because restored trees have other containers."""
    stored = {
        path: jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf
        for path, leaf in named_leaves(arrays).items()
    }
    return {f"{path} {leaf.dtype}{list(leaf.shape)}" for path, leaf in stored.items()}


def listed(directory: Path) -> list[Path]:
    """Returns a directory's checkpoints, damaged or not, in order of step."""
    checkpoints = [path for path in directory.glob("*") if STEP.fullmatch(path.name)]
    return sorted(checkpoints, key=lambda path: int(path.name))


@by_first_process
def _remove(directory: Path, *names: str) -> None:
    """Deletes entries whose names contain one of `names`."""
    for path in directory.glob("*"):
        if any(name in path.name for name in names):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _finalize(directory: Path) -> None:
    """Records the sums of the checkpoint being saved, and deletes pruned ones.

    Orbax calls this between writing all items and renaming their directory, so every listed
    checkpoint has sums.
    """
    (saving,) = directory.glob(f"*{SAVING}*")
    write_sums(saving)
    _remove(directory, DELETED)


@contextlib.contextmanager
def _one_os_error(directory: Path) -> Iterator[None]:
    """Turns Orbax's errors into OSError, with the system's error number."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # such as ValueError, with pages of text
        code = re.search(r"os_error_code='(\d+)'", str(error))
        number = int(code[1]) if code else errno.EIO
        reason = os.strerror(number) if code else str(error).partition("\n")[0]
        raise OSError(number, reason, str(directory)) from error
