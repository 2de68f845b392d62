"""Checkpoints on disk: the only file that knows Orbax."""

import contextlib
import functools
import hashlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax.training.train_state import TrainState
from jax.sharding import Sharding
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

SUMS = "SHA256SUMS"


def _val_accuracy(metrics: dict[str, float]) -> float:
    return metrics["val_accuracy"]


@contextlib.contextmanager
def open_checkpoints(
    directory: Path, *, read_only: bool = False
) -> Iterator[ocp.CheckpointManager]:
    """Opens a directory of checkpoints that keeps the newest and the best by validation accuracy.

    Saves run in the background; leaving the `with` block waits for them. Opening for writing
    removes what a save that was killed has left.

    Raises:
        ValueError: a checkpoint is damaged.
        NotADirectoryError: `directory` is a file.
    """
    directory = directory.absolute()
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file; a directory of checkpoints goes there")
    # Before Orbax reads any of it: what it says of a damaged file is long, and not always an error.
    for checkpoint in directory.glob("*"):
        if checkpoint.name.isdecimal() and checkpoint.is_dir():
            _check_sums(checkpoint)
    if not read_only:
        for leftover in directory.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
            shutil.rmtree(leftover)
    # Orbax warns of settings that `read_only` overrules, its own defaults among them.
    only_reading: dict[str, Any] = {"read_only": True, "create": False, "save_interval_steps": 0}
    options = ocp.CheckpointManagerOptions(
        # `best_fn` with `max_to_keep` would delete the newest checkpoint when an older one is
        # better, and a resumed run would go back.
        preservation_policy=AnyPreservationPolicy(
            [LatestN(1), BestN(get_metric_fn=_val_accuracy, n=1)]
        ),
        best_fn=_val_accuracy,  # for `best_step`
        async_options=ocp.AsyncOptions(
            post_finalization_callback=functools.partial(_record_sums, directory),
            # A directory that cannot be made in the background leaves Orbax's threads waiting.
            create_directories_asynchronously=False,
        ),
        **(only_reading if read_only else {}),
    )
    # Without handlers a manager cannot tell the shapes of what another one has saved.
    handlers = {
        "params": ocp.StandardCheckpointHandler(),
        "optimizer": ocp.StandardCheckpointHandler(),
        "history": ocp.JsonCheckpointHandler(),
    }
    absl, level = logging.getLogger("absl"), logging.getLogger("absl").level
    absl.setLevel(logging.CRITICAL)  # Orbax logs what it also raises, and warns of `read_only`
    try:
        with ocp.CheckpointManager(directory, options=options, item_handlers=handlers) as manager:
            yield manager
    finally:
        absl.setLevel(level)


def save_state(
    manager: ocp.CheckpointManager, state: TrainState, history: list[dict[str, Any]]
) -> None:
    """Starts saving a state and the rows of its epochs, under its step.

    The state may be donated at once: the values are copied before this returns.

    Raises:
        ValueError: the step was not saved, because a newer one is there.
    """
    step = int(state.step)
    items = {name: ocp.args.StandardSave(item) for name, item in _arrays(state).items()}
    saved = manager.save(
        step,
        args=ocp.args.Composite(**items, history=ocp.args.JsonSave({"epochs": history})),
        metrics={"val_accuracy": history[-1]["val_accuracy"]},
    )
    if not saved:
        raise ValueError(f"step {step} was not saved: {manager.directory} holds a newer one")


def restore_state(
    manager: ocp.CheckpointManager, state: TrainState, sharding: Sharding
) -> tuple[TrainState, list[dict[str, Any]]]:
    """Returns the newest saved state and its history, or `state` and none if nothing is saved.

    Args:
        manager: see `open_checkpoints`.
        state: gives structure, shapes and dtypes.
        sharding: where the arrays go; they may have been saved from other devices.

    Raises:
        ValueError: it is the state of another model.
    """
    step = manager.latest_step()
    if step is None:
        return jax.device_put(state, sharding), []
    saved = _saved_arrays(manager, step)
    expected = _arrays(state)
    # Orbax casts a leaf of another dtype without a word.
    if _spelled(saved) != _spelled(expected):
        difference = sorted(_spelled(saved) ^ _spelled(expected))
        reason = f"it is of another model: {', '.join(difference)}"
        raise _unusable(Path(manager.directory, str(step)), reason)
    restored = _restore(manager, step, expected, sharding, history=ocp.args.JsonRestore())
    state = state.replace(params=restored["params"], **restored["optimizer"])
    return state, restored["history"]["epochs"]


def restore_params(
    manager: ocp.CheckpointManager, step: int | str, sharding: Sharding
) -> tuple[int, Any]:
    """Returns a saved step and its parameters.

    Args:
        manager: see `open_checkpoints`.
        step: a step, "latest" or "best" (by validation accuracy; of equal ones the newest).
        sharding: where the arrays go.

    Raises:
        ValueError: there is no such checkpoint.
    """
    steps = sorted(manager.all_steps())
    named = {"latest": manager.latest_step(), "best": manager.best_step()}
    found = ({str(number): number for number in steps} | named).get(str(step))
    if found is None:
        saved = f"the steps {', '.join(map(str, steps))}; latest and best name one of them"
        raise ValueError(
            f"{manager.directory} holds no step {step}, but {saved if steps else 'nothing yet'}"
        )
    target = {"params": _saved_arrays(manager, found)["params"]}
    return found, _restore(manager, found, target, sharding)["params"]


def _arrays(state: TrainState) -> dict[str, Any]:
    """A state as it is saved: an evaluation reads only the parameters."""
    return {
        "params": state.params,
        "optimizer": {"step": state.step, "opt_state": state.opt_state},
    }


def _saved_arrays(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """The shapes and dtypes of a checkpoint, in the structure of `_arrays`."""
    metadata = manager.item_metadata(step)
    return {name: metadata[name] for name in ("params", "optimizer")}


def _spelled(arrays: dict[str, Any]) -> set[str]:
    """The leaves as text: what is read back has other containers, with the same names."""
    return {
        f"{jax.tree_util.keystr(path, simple=True, separator='/')} {leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(arrays)
    }


def _restore(
    manager: ocp.CheckpointManager,
    step: int,
    target: dict[str, Any],
    sharding: Sharding,
    **other_items: Any,
) -> Any:
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), target
    )
    items = {name: ocp.args.StandardRestore(item) for name, item in abstract.items()}
    return manager.restore(step, args=ocp.args.Composite(**items, **other_items))


def _record_sums(directory: Path) -> None:
    """Writes the sums of a checkpoint that is being saved.

    Orbax calls this when all items of the checkpoint are written, just before it renames their
    directory: a checkpoint that is visible has its sums. The file of its own beside the items, with
    the time of the rename, is not needed to read them.
    """
    for saving in directory.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
        lines = [f"{_sha256(saving / name)}  {name}\n" for name in _item_files(saving)]
        (saving / SUMS).write_text("".join(lines))


def _check_sums(checkpoint: Path) -> None:
    try:
        lines = (checkpoint / SUMS).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        raise _unusable(checkpoint, f"its {SUMS} cannot be read") from None
    sums = {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}
    for name in sorted(sums.keys() | set(_item_files(checkpoint))):
        if not (checkpoint / name).is_file() or _sha256(checkpoint / name) != sums.get(name):
            raise _unusable(checkpoint, f"its file {name} is not as {SUMS} says")


def _item_files(directory: Path) -> list[str]:
    """The files of a checkpoint's items, relative to it, in order."""
    files = (path for path in directory.glob("*/**/*") if path.is_file())
    return sorted(str(path.relative_to(directory)) for path in files)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _unusable(checkpoint: Path, reason: str) -> ValueError:
    return ValueError(
        f"the checkpoint {checkpoint} cannot be used: {reason}; delete that directory to go back "
        "to the one before, or start anew with --overwrite"
    )
