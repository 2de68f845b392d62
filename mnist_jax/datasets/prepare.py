"""Prepared datasets in tfds's data directory: finding them, and making them once."""

import contextlib
import errno
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnist_jax.datasets import cache
from mnist_jax.messages import printable
from mnist_jax.processes.file_lock import open_locked

# What the package calls by a shorter name than tfds does. A dataset of the package is a folder here
# in tfds's own layout: datasets/NAME/NAME_dataset_builder.py with a class `Builder`.
ALIASES = {"mnist": "mnist_idx"}
MADE_BY = "mnist_jax import"  # in the metadata of a dataset that was imported
DOWNLOAD_TIMEOUT = 1800  # seconds: where there is no network, tfds goes on trying for very long


def prepared_dir(name: str, data_dir: str | Path | None) -> Path:
    """Returns the directory of a dataset's newest version, preparing it where there is none.

    Args and errors: see `load_dataset`.
    """
    root = data_root(data_dir)
    name = ALIASES.get(name, name)
    prepare = _prepare_own if is_own(name) else _prepare_with_tensorflow
    return find(root, name) or prepare(root, name)


def data_root(data_dir: str | Path | None) -> Path:
    """Returns where tfds keeps datasets; ValueError if that is in an unknown home directory."""
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    try:
        return root.expanduser()
    except RuntimeError as error:
        raise ValueError(f"the data directory {root} cannot be found: {error}") from error


def is_own(name: str) -> bool:
    """Tells whether the package itself can prepare a dataset of this name."""
    return (Path(__file__).parent / name / f"{name}_dataset_builder.py").is_file()


def find(root: Path, name: str) -> Path | None:
    """Returns the directory of the newest version that is prepared in a data directory, or None."""
    name, _, version = name.partition(":")
    infos = root.glob(f"{name}/{version or '*'}/dataset_info.json")
    versions = [path.parent for path in infos if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)]
    return max(versions, key=_version, default=None)


def _version(path: Path) -> tuple[int, ...]:
    return tuple(map(int, path.name.split(".")))


def imported_versions(directory: Path, overwrite: bool) -> tuple[list[Path], str]:
    """Returns the versions of a dataset, oldest first, and the one that comes next.

    Raises ValueError unless there are none, or they were imported and are to be overwritten.
    """
    inside = directory.iterdir() if directory.exists() else ()
    versions = [path for path in inside if not re.match(r"\.lock$|incomplete\.", path.name)]
    for path in versions:
        if not (was_imported(path) and re.fullmatch(r"\d+(\.\d+)*", path.name)):
            raise ValueError(f"{path} is there already, and was not imported: choose another name")
    if versions and not overwrite:
        found = f"the dataset {directory.name} is in {directory} already"
        raise ValueError(f"{found}: choose another name, or overwrite it")
    versions.sort(key=_version)
    *first, last = _version(versions[-1]) if versions else (1, 0, -1)
    return versions, ".".join(map(str, [*first, last + 1]))


def has_imported_validation(prepared: Path) -> bool:
    """Tells whether a prepared dataset was imported, with a validation part of its own."""
    info = was_imported(prepared) and json.loads(
        (prepared / "dataset_info.json").read_text("utf-8")
    )
    return any(split.get("name") == "validation" for split in (info or {}).get("splits", ()))


def was_imported(prepared: Path) -> bool:
    """Tells whether the package's `import` made a dataset, of which this is a version."""
    try:
        return json.loads((prepared / "metadata.json").read_text("utf-8"))["made_by"] == MADE_BY
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def _prepare_own(root: Path, name: str) -> Path:
    with locked(root, name):
        if prepared := find(root, name):  # by the process that we have waited for
            return prepared
        module = importlib.import_module(f"mnist_jax.datasets.{name}.{name}_dataset_builder")
        builder = module.Builder(data_dir=root, file_format="array_record")
        # Of tfds's messages only the progress bar, on standard error, is true of local files.
        print(printable(f"preparing the dataset {name} in {root}"), file=sys.stderr)
        prepared = write(builder)
        # What the builder has decoded already is kept as if it had been read from its dataset.
        for split, (images, labels) in getattr(builder, "arrays", {}).items():
            names = builder.info.features["label"].names
            cache.save(prepared, split, images.shape, [(images, labels)], names)
        return prepared


@contextlib.contextmanager
def locked(root: Path, name: str) -> Iterator[None]:
    """Lets one process at a time write a dataset, and removes what killed ones have left of it.

    Where an error ends the `with` block before there is anything of the dataset, nothing is left.
    Raises ValueError if the directory cannot be written.
    """
    directory = root / name
    try:
        with open_locked(directory / ".lock", wait=True):
            try:
                for leftover in directory.glob("incomplete.*"):
                    shutil.rmtree(leftover, ignore_errors=True)
                yield
            except BaseException:
                if [path.name for path in directory.glob("*")] == [".lock"]:
                    shutil.rmtree(directory, ignore_errors=True)
                raise
    except OSError as error:
        raise ValueError(
            f"the dataset {name} cannot be prepared in {root}: {error}; set TFDS_DATA_DIR to a "
            "directory with room that can be written"
        ) from error


def write(builder: Any) -> Path:
    """Lets a builder of tfds write its dataset: beside, and renamed when it is done.

    Raises OSError if there is no room, or it cannot be written.
    """
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    beside = Path(builder.data_dir).parent
    try:
        with (
            tempfile.TemporaryDirectory(prefix="incomplete.", dir=beside) as downloads,  # none
            contextlib.redirect_stdout(None),
        ):
            builder.download_and_prepare(download_dir=downloads)
    except RuntimeError as error:  # array_record's, of a full disk
        raise OSError(" ".join(str(error).split())) from error
    except OSError as error:
        if error.errno or "disk space" not in str(error):
            raise
        # tfds's own, which tells how much is needed, but does not know.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(beside)) from error
    return Path(builder.data_dir)


def _prepare_with_tensorflow(root: Path, name: str) -> Path:
    if not importlib.util.find_spec("tensorflow"):
        raise ValueError(
            f"dataset {name!r} is not prepared in {root}. mnist comes with this package; tfds "
            "needs TensorFlow to prepare others: `pip install tensorflow`, or copy one there"
        )
    # In a process of its own: it can be given a time limit, and TensorFlow, which takes the memory
    # of every GPU that it sees, is gone when it ends.
    code = """
import sys, tensorflow_datasets as tfds
try:
    builder = tfds.builder(sys.argv[1], data_dir=sys.argv[2], file_format="array_record")
    builder.download_and_prepare()
except Exception as error:
    sys.exit(print(f"{type(error).__name__}: {error}".replace(chr(10), " ")) or 1)
"""
    print(
        printable(f"tfds prepares the dataset {name} in {root}; it may download"), file=sys.stderr
    )
    try:
        child = subprocess.run(
            [sys.executable, "-c", code, name, str(root)],
            timeout=DOWNLOAD_TIMEOUT,
            stdout=subprocess.PIPE,  # its last line is the error; the progress goes past it
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"dataset {name!r} was not ready within {DOWNLOAD_TIMEOUT} s; is there a network?"
        ) from None
    if child.returncode:
        reason = (child.stdout.splitlines() or ["it was killed"])[-1]
        raise ValueError(f"tfds could not prepare dataset {name!r}: {reason:.300}")
    if prepared := find(root, name):
        return prepared
    raise ValueError(f"dataset {name!r} has several configs: name one, as in {name}/CONFIG")


def read_with_tensorflow(builder: Any, name: str, split: str) -> Any:
    """Returns the examples of a dataset whose files only TensorFlow can read (tfrecord).

    Raises ValueError if TensorFlow is not installed.
    """
    if not importlib.util.find_spec("tensorflow"):
        stored = f"in {builder.data_dir} is stored as {builder.info.file_format.value}"
        raise ValueError(
            f"dataset {name!r} {stored}, which only TensorFlow reads: `pip install tensorflow`, or "
            "prepare it again with file_format='array_record'"
        )
    import tensorflow_datasets as tfds

    return tfds.as_numpy(builder.as_dataset(split=split))
