"""SHA-256 of arrays, to compare runs, and of files, to detect damage."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax.workdir.files import sync

SUMS = "SHA256SUMS"


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns a pytree's leaves by path, such as "params/conv/kernel"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def tree_sha256(tree: Any) -> str:
    """Returns the hexadecimal SHA-256 of a tree of arrays: equal hashes mean equal bits.

    Hashes each leaf's path ("conv/kernel"), dtype, shape and bytes in C order, sorted by path.
    Leaves are copied to the host, whole unless they have `pieces`.
    """
    digest = hashlib.sha256()
    for path, array in sorted(named_leaves(tree).items()):
        digest.update(f"{path} {array.dtype} {array.shape} ".encode())
        for piece in array.pieces() if hasattr(array, "pieces") else [array]:
            plain = np.ascontiguousarray(jax.random.key_data(piece) if is_key(piece) else piece)
            digest.update(plain.reshape(-1).view(np.uint8).data)  # bfloat16 has no buffer
    return digest.hexdigest()


def is_key(leaf: Any) -> bool:
    """Tells whether an array, even abstract, holds keys like `jax.random.key`'s."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def data_sha256(splits: dict[str, Any]) -> str:
    """Returns the `tree_sha256` of all splits' images and labels."""
    return tree_sha256({name: split._asdict() for name, split in splits.items()})


def network_sha256(variables: dict[str, Any]) -> str:
    """Returns the `tree_sha256` of a network's parameters and other collections, if any."""
    return tree_sha256(variables if len(variables) > 1 else variables["params"])


def write_sums(directory: Path) -> None:
    """Writes SHA256SUMS of the files in subdirectories, for `sha256sum`, and flushes all files."""
    text = "".join(f"{_sha256(directory / name)}  {name}\n" for name in _files(directory))
    (directory / SUMS).write_text(text, encoding="utf-8")
    for path in [directory, *directory.rglob("*")]:
        sync(path)


def find_damage(directory: Path) -> str | None:
    """Describes the first file that differs from its recorded sum, if any.

    Raises PermissionError if a file is unreadable.
    """
    try:
        # splitlines would accept a vertical tab, which is a line end with a flipped bit.
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
        except OSError:  # missing, or unreadable on disk
            whole = False
        if not whole:
            return f"its file {name} does not match {SUMS}"
    return None


def _files(directory: Path) -> list[str]:
    """Lists the files in subdirectories, relative to the directory."""
    files = (path for path in directory.glob("*/**/*") if path.is_file())
    return sorted(str(path.relative_to(directory)) for path in files)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
