"""SHA-256: of arrays, to compare two runs; of files, to see that they are whole."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax.workdir.files import sync

SUMS = "SHA256SUMS"


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a pytree by their paths, such as "params/conv/kernel"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def tree_sha256(tree: Any) -> str:
    """Returns the SHA-256 of a tree of arrays, in hexadecimal: equal sums mean equal bits.

    For each leaf, in sorted order of its path ("conv/kernel"), the path, the dtype, the shape and
    the bytes in C order. Each is brought to the host as a whole, but for those with a method
    `pieces`, which gives their rows some at a time.
    """
    digest = hashlib.sha256()
    for path, array in sorted(named_leaves(tree).items()):
        digest.update(f"{path} {array.dtype} {array.shape} ".encode())
        for piece in array.pieces() if hasattr(array, "pieces") else [array]:
            plain = np.ascontiguousarray(jax.random.key_data(piece) if is_key(piece) else piece)
            digest.update(plain.reshape(-1).view(np.uint8).data)  # bfloat16 has no buffer
    return digest.hexdigest()


def is_key(leaf: Any) -> bool:
    """Tells whether an array, or its shape, is of typed random keys, such as `jax.random.key`'s."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def data_sha256(splits: dict[str, Any]) -> str:
    """SHA-256 of the images and labels of all splits, see `tree_sha256`."""
    return tree_sha256({name: split._asdict() for name, split in splits.items()})


def network_sha256(variables: dict[str, Any]) -> str:
    """SHA-256 of a network's parameters, and of its other collections if any, see `tree_sha256`."""
    return tree_sha256(variables if len(variables) > 1 else variables["params"])


def write_sums(directory: Path) -> None:
    """Writes the sums of the files in a directory's subdirectories beside these, for `sha256sum`.

    All of it is on the disk when this returns.
    """
    text = "".join(f"{_sha256(directory / name)}  {name}\n" for name in _files(directory))
    (directory / SUMS).write_text(text, encoding="utf-8")
    for path in [directory, *directory.rglob("*")]:
        sync(path)


def find_damage(directory: Path) -> str | None:
    """Describes the first file that differs from its recorded sum; None if there is none.

    Raises PermissionError if a file is unreadable: it may still be intact.
    """
    try:
        # Not splitlines: a line end with a flipped bit is a vertical tab, which ends lines there.
        *lines, rest = (directory / SUMS).read_bytes().decode().split("\n")
    except PermissionError:
        raise
    except (OSError, UnicodeDecodeError):
        lines, rest = [], ""
    if not lines or rest:
        return f"its {SUMS} cannot be read"
    sums = {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}
    for name in sorted(sums.keys() | set(_files(directory))):
        try:
            whole = _sha256(directory / name) == sums.get(name)
        except PermissionError:
            raise
        except OSError:  # it is missing, or the disk gives no more of it
            whole = False
        if not whole:
            return f"its file {name} is not as {SUMS} says"
    return None


def _files(directory: Path) -> list[str]:
    """The files in the subdirectories, relative to the directory, in order."""
    files = (path for path in directory.glob("*/**/*") if path.is_file())
    return sorted(str(path.relative_to(directory)) for path in files)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
