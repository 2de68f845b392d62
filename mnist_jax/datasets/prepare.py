"""Datasets in tfds's data directory, prepared on first use."""

import contextlib
import difflib
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

# The package's own datasets, in tfds's layout: NAME/NAME_dataset_builder.py has a class `Builder`.
ALIASES = {"mnist": "mnist_idx"}
MADE_BY = "mnist_jax import"  # in the metadata of imported datasets
DOWNLOAD_TIMEOUT = 1800  # seconds; without a network, tfds tries for very long


def prepared_dir(name: str, data_dir: str | Path | None) -> Path:
    """Returns the directory of a dataset's newest version, prepared if necessary.

    Arguments and errors are those of `load_dataset`.
    """
    root = data_root(data_dir)
    name = ALIASES.get(name, name)
    prepare = _prepare_own if is_own(name) else _prepare_with_tensorflow
    return find(root, name) or prepare(root, name)


def data_root(data_dir: str | Path | None) -> Path:
    """Returns tfds's data directory; ValueError if its home directory is unknown."""
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    try:
        return root.expanduser()
    except RuntimeError as error:
        raise ValueError(f"the data directory {root} cannot be found: {error}") from error


def is_own(name: str) -> bool:
    """Tells whether the package has a dataset of this name."""
    return (Path(__file__).parent / name / f"{name}_dataset_builder.py").is_file()


def find(root: Path, name: str) -> Path | None:
    """Returns the directory of a dataset's newest prepared version, if any."""
    name, _, version = name.partition(":")
    infos = root.glob(f"{name}/{version or '*'}/dataset_info.json")
    versions = [path.parent for path in infos if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)]
    return max(versions, key=_version, default=None)


def _version(path: Path) -> tuple[int, ...]:
    return tuple(map(int, path.name.split(".")))


def imported_versions(directory: Path, overwrite: bool) -> tuple[list[Path], str]:
    """Returns a dataset's versions, oldest first, and the next version's number.

    Raises ValueError if a version was not imported, or may not be overwritten.
    """
    inside = directory.iterdir() if directory.exists() else ()
    versions = [path for path in inside if not re.match(r"\.lock$|incomplete\.", path.name)]
    for path in versions:
        if not (was_imported(path) and re.fullmatch(r"\d+(\.\d+)*", path.name)):
            raise ValueError(f"{path} exists and was not imported; choose another name")
    if versions and not overwrite:
        found = f"the dataset {directory.name} exists already, in {directory}"
        raise ValueError(f"{found}; choose another name, or use --overwrite")
    versions.sort(key=_version)
    *first, last = _version(versions[-1]) if versions else (1, 0, -1)
    return versions, ".".join(map(str, [*first, last + 1]))


def has_imported_validation(prepared: Path) -> bool:
    """Tells whether a prepared dataset was imported with a validation part."""
    if not was_imported(prepared):
        return False
    info = json.loads((prepared / "dataset_info.json").read_text("utf-8"))
    return any(split.get("name") == "validation" for split in info.get("splits", ()))


def was_imported(prepared: Path) -> bool:
    """Tells whether `import` made a prepared version."""
    try:
        return json.loads((prepared / "metadata.json").read_text("utf-8"))["made_by"] == MADE_BY
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def _prepare_own(root: Path, name: str) -> Path:
    with locked(root, name):
        if prepared := find(root, name):  # by the process that held the lock
            return prepared
        module = importlib.import_module(f"mnist_jax.datasets.{name}.{name}_dataset_builder")
        builder = module.Builder(data_dir=root, file_format="array_record")
        print(printable(f"preparing the dataset {name} in {root}"), file=sys.stderr)
        prepared = write(builder)
        # The builder has decoded its arrays already.
        for split, (images, labels) in getattr(builder, "arrays", {}).items():
            names = builder.info.features["label"].names
            cache.save(prepared, split, images.shape, [(images, labels)], names)
        return prepared


@contextlib.contextmanager
def locked(root: Path, name: str) -> Iterator[None]:
    """Lets one process at a time write a dataset, and removes leftovers of killed ones.

    Errors before anything was written leave no directory. Raises ValueError if it cannot be
    written.
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
            "writable directory with free space"
        ) from error


def write(builder: Any) -> Path:
    """Lets a tfds builder write its dataset, renamed when complete; OSError if it cannot.

    Hides tfds's messages, which do not fit local files, except the progress bar.
    """
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    beside = Path(builder.data_dir).parent
    try:
        with (
            tempfile.TemporaryDirectory(prefix="incomplete.", dir=beside) as downloads,  # unused
            contextlib.redirect_stdout(None),
        ):
            builder.download_and_prepare(download_dir=downloads)
    except RuntimeError as error:  # array_record's, if the disk is full
        raise OSError(" ".join(str(error).split())) from error
    except OSError as error:
        if error.errno or "disk space" not in str(error):
            raise
        # tfds's own message estimates the needed space wrongly.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(beside)) from error
    return Path(builder.data_dir)


def check_dataset_name(name: str, data_dir: str | Path | None = None) -> None:
    """Raises ValueError if no dataset of this name is prepared, nor can be."""
    root = data_root(data_dir)
    own = ALIASES.get(name, name)
    if is_own(own) or find(root, own) or importlib.util.find_spec("tensorflow"):
        return
    prepared = {path.parents[1].name for path in root.glob("*/*/dataset_info.json")}
    names = sorted(prepared - {*ALIASES.values()} | {*ALIASES})
    near = difflib.get_close_matches(name.lower(), names, 1)
    raise ValueError(
        f"there is no dataset {name!r}{f' (did you mean {near[0]}?)' if near else ''} in {root}; "
        f"expected one of {', '.join(names)}. For your own images: mnist-jax import NAME FOLDER; "
        "for others of tfds: `pip install tensorflow`"
    )


def _prepare_with_tensorflow(root: Path, name: str) -> Path:
    check_dataset_name(name, root)
    # A process can have a time limit, and frees the GPU memory that TensorFlow takes.
    code = """
import sys, tensorflow_datasets as tfds
try:
    builder = tfds.builder(sys.argv[1], data_dir=sys.argv[2], file_format="array_record")
    builder.download_and_prepare()
except Exception as error:
    sys.exit(print(f"{type(error).__name__}: {error}".replace(chr(10), " ")) or 1)
"""
    print(
        printable(f"preparing the dataset {name} in {root}, which may download it"), file=sys.stderr
    )
    try:
        child = subprocess.run(
            [sys.executable, "-c", code, name, str(root)],
            timeout=DOWNLOAD_TIMEOUT,
            stdout=subprocess.PIPE,  # its last line is the error
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
    """Reads examples from tfrecord files; ValueError without TensorFlow."""
    if not importlib.util.find_spec("tensorflow"):
        stored = f"in {builder.data_dir} is stored as {builder.info.file_format.value}"
        raise ValueError(
            f"dataset {name!r} {stored}, which only TensorFlow reads: `pip install tensorflow`, or "
            "prepare it again with file_format='array_record'"
        )
    import tensorflow_datasets as tfds

    return tfds.as_numpy(builder.as_dataset(split=split))
