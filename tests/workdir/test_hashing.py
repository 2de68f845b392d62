"""Hashes of arrays, computed by hand, and of files, and the detection of damage."""

import hashlib
import os
import shutil
import struct
import subprocess
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_files

from mnist_jax.datasets import Split
from mnist_jax.workdir import hashing
from mnist_jax.workdir.files import sync

FILES: dict[str, Any] = {"items/a": b"alpha", "items/deep/b": b"beta"}
FILES |= {"more/a": b"gamma", "more/empty": b""}


SPLITS = (b"test/", b"train/")


def by_hand(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_a_tree_hash_covers_paths_types_shapes_and_bytes():
    weights = np.array([[1.5, -2.0]], np.float32)
    tree = {"b": {"w": weights}, "a": np.int32(7), "B": np.array([True])}
    expected = by_hand(
        b"B bool (1,) \x01",
        b"a int32 () " + struct.pack("<i", 7),
        b"b/w float32 (1, 2) " + struct.pack("<ff", 1.5, -2.0),
    )
    assert hashing.tree_sha256(tree) == expected
    assert hashing.tree_sha256(tree | {"b": {"w": jnp.asarray(weights)}}) == expected


def test_the_sum_does_not_depend_on_the_layout_or_the_order_of_a_dict():
    x = np.arange(6.0).reshape(2, 3)
    expected = hashing.tree_sha256({"a": x, "b": x})
    assert hashing.tree_sha256({"b": x, "a": np.asfortranarray(x)}) == expected
    assert hashing.tree_sha256({"a": np.repeat(x, 2, axis=1)[:, ::2], "b": x}) == expected


def test_an_array_that_gives_its_rows_in_pieces_has_the_same_sum():
    class Pieces:
        dtype, shape = np.dtype(np.uint8), (3, 2)

        def pieces(self):
            yield np.array([[1, 2]], np.uint8)
            yield np.array([[3, 4], [5, 6]], np.uint8)

    rows = np.array([[1, 2], [3, 4], [5, 6]], np.uint8)
    assert hashing.tree_sha256([Pieces()]) == hashing.tree_sha256([rows])


def test_the_sum_of_the_data_covers_images_and_labels_of_every_split():
    images, labels = np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 1], np.int32)
    arrays = [(b"images uint8 (2, 1, 1, 1) ", images), (b"labels int32 (2,) ", labels)]
    parts = [name + head + array.tobytes() for name in SPLITS for head, array in arrays]
    split = Split(images, labels)
    assert hashing.data_sha256({"train": split, "test": split}) == by_hand(*parts)


def test_the_sum_of_a_network_covers_batch_statistics_where_it_has_them():
    params, stats = {"w": np.ones(2)}, {"mean": np.zeros(2)}
    assert hashing.network_sha256({"params": params}) == hashing.tree_sha256(params)
    whole = {"params": params, "batch_stats": stats}
    assert hashing.network_sha256(whole) == hashing.tree_sha256(whole)


@pytest.fixture
def summed(tmp_path):
    make_files(tmp_path, FILES)
    hashing.write_sums(tmp_path)
    return tmp_path


def test_the_file_of_sums_lists_the_files_in_subdirectories(summed):
    text = (summed / "SHA256SUMS").read_text(encoding="utf-8")
    assert text == "".join(f"{by_hand(content)}  {name}\n" for name, content in FILES.items())
    assert hashing.find_damage(summed) is None
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=summed, check=True)
    make_files(summed, {"_NOTES": "of Orbax, not summed", "items/directory/": ""})
    assert hashing.find_damage(summed) is None


DAMAGE: dict[str, tuple[str, dict[str, bytes | None]]] = {
    "changed": ("items/a", {"items/a": b"alphA"}),
    "shorter": ("items/a", {"items/a": b"alph"}),
    "longer": ("more/empty", {"more/empty": b"\n"}),
    "missing": ("items/deep/b", {"items/deep/b": None}),
    "an empty one missing": ("more/empty", {"more/empty": None}),
    "too many": ("more/new", {"more/new": b"x"}),
    "an empty one too many": ("items/new", {"items/new": b""}),
    "renamed": ("items/a", {"items/a": None, "items/c": b"alpha"}),
    "moved": ("items/deep/a", {"more/a": None, "items/deep/a": b"gamma"}),
    "swapped": ("items/a", {"items/a": b"gamma", "more/a": b"alpha"}),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_any_change_of_the_files_is_damage(summed, what):
    named, changes = DAMAGE[what]
    for name, content in changes.items():
        (summed / name).unlink() if content is None else (summed / name).write_bytes(content)
    assert hashing.find_damage(summed) == f"its file {named} does not match SHA256SUMS"


def test_any_change_of_the_sums_is_damage(summed):
    sums = summed / "SHA256SUMS"
    text = sums.read_bytes()
    lines = text.splitlines(keepends=True)
    changed = [b"", text[:-1], text[:-40], b"".join(lines[1:]), b"".join(lines[:-1])]
    changed += [text + b"0" * 64 + b"  items/no\n", b"\xff" + text]  # one too many; not UTF-8
    changed += [(b"1" if text[:1] == b"0" else b"0") + text[1:]]
    for end in ("\v", "\f", "\r", "\r\n", "\x1c", "\x85", ""):
        changed += [text.replace(line, line[:-1] + end.encode()) for line in lines]
    for content in changed:
        sums.write_bytes(content)
        assert hashing.find_damage(summed), content
    sums.unlink()
    assert hashing.find_damage(summed) == "its SHA256SUMS cannot be read"


def test_every_directory_and_file_is_synced_after_the_sums_are_written(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(hashing, "sync", synced.append)
    make_files(tmp_path, FILES)
    hashing.write_sums(tmp_path)
    assert {*synced} == {tmp_path, *tmp_path.rglob("*")}
    assert tmp_path / "SHA256SUMS" in synced


def test_syncing_waits_for_the_file_and_closes_it(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((file, os.fstat(file).st_ino)))
    sync(tmp_path)
    ((file, inode),) = synced
    assert inode == tmp_path.stat().st_ino
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)
