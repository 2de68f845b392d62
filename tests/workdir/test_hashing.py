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
from mnist_jax.workdir.files import sync
from mnist_jax.workdir.hashing import (
    data_sha256,
    find_damage,
    network_sha256,
    tree_sha256,
    write_sums,
)

FILES: dict[str, Any] = {"items/a": b"alpha", "items/deep/b": b"beta"}
FILES |= {"more/a": b"gamma", "more/empty": b""}


def by_hand(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_a_tree_hash_covers_paths_types_shapes_and_bytes():
    tree = {
        "b": {"w": np.array([[1.5, -2.0]], np.float32)},
        "a": np.int32(7),
        "B": np.array([True]),
    }
    expected = by_hand(
        b"B bool (1,) \x01",
        b"a int32 () " + struct.pack("<i", 7),
        b"b/w float32 (1, 2) " + struct.pack("<ff", 1.5, -2.0),
    )
    assert tree_sha256(tree) == expected
    assert tree_sha256({"b": {"w": jnp.asarray(tree["b"]["w"])}, **tree}) == expected


def test_the_sum_of_a_tree_depends_on_every_detail():
    x = np.arange(6, dtype=np.int32)
    others = (x.astype(np.uint32), x.astype(np.int64), x.reshape(2, 3), x.reshape(3, 2))
    trees = [{"x": each} for each in (x, *others, x[::-1], x[:5], {"x": x})]
    trees += [{"y": x}, {"x": x, "y": x}, {"x": x[:3], "y": x[3:]}, {"x": x[3:], "y": x[:3]}, {}]
    assert len({tree_sha256(tree) for tree in trees}) == len(trees)


def test_the_sum_does_not_depend_on_the_layout_or_the_order_of_a_dict():
    x = np.arange(6.0).reshape(2, 3)
    expected = tree_sha256({"a": x, "b": x})
    assert tree_sha256({"b": x, "a": np.asfortranarray(x)}) == expected
    assert tree_sha256({"a": np.repeat(x, 2, axis=1)[:, ::2], "b": x}) == expected


def test_an_array_that_gives_its_rows_in_pieces_has_the_same_sum():
    class Pieces:
        dtype, shape = np.dtype(np.uint8), (3, 2)

        def pieces(self):
            yield np.array([[1, 2]], np.uint8)
            yield np.array([[3, 4], [5, 6]], np.uint8)

    assert tree_sha256([Pieces()]) == tree_sha256([np.arange(1, 7, dtype=np.uint8).reshape(3, 2)])


def test_the_sum_of_the_data_covers_images_and_labels_of_every_split():
    images, labels = np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 1], np.int32)
    expected = by_hand(
        *(
            f"{name}/images uint8 (2, 1, 1, 1) ".encode()
            + images.tobytes()
            + f"{name}/labels int32 (2,) ".encode()
            + labels.tobytes()
            for name in ("test", "train")
        )
    )
    split = Split(images, labels)
    assert data_sha256({"train": split, "test": split}) == expected
    for other in (Split(images + 1, labels), Split(images, labels[::-1])):
        assert data_sha256({"train": split, "test": other}) != expected


def test_the_sum_of_a_network_covers_batch_statistics_where_it_has_them():
    params, stats = {"w": np.ones(2)}, {"mean": np.zeros(2)}
    assert network_sha256({"params": params}) == tree_sha256(params)
    whole = {"params": params, "batch_stats": stats}
    assert network_sha256(whole) == tree_sha256(whole)


@pytest.fixture
def summed(tmp_path):
    make_files(tmp_path, FILES)
    write_sums(tmp_path)
    return tmp_path


def test_the_file_of_sums_lists_what_lies_in_subdirectories(summed):
    text = (summed / "SHA256SUMS").read_text(encoding="utf-8")
    assert text == "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in FILES.items()
    )
    assert find_damage(summed) is None
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=summed, check=True)


def test_files_beside_the_sums_are_not_summed(summed):
    (summed / "_NOTES").write_text("of Orbax", encoding="utf-8")
    (summed / "items" / "directory").mkdir()
    assert find_damage(summed) is None


def test_any_change_of_the_files_is_damage(summed, subtests):
    def swap(one: str, other: str) -> None:
        for path, content in ((one, FILES[other]), (other, FILES[one])):
            (summed / path).write_bytes(content)

    for what, damage, named in (
        ("changed", lambda: (summed / "items/a").write_bytes(b"alphA"), "items/a"),
        ("shorter", lambda: (summed / "items/a").write_bytes(b"alph"), "items/a"),
        ("longer", lambda: (summed / "more/empty").write_bytes(b"\n"), "more/empty"),
        ("missing", lambda: (summed / "items/deep/b").unlink(), "items/deep/b"),
        ("no empty one", lambda: (summed / "more/empty").unlink(), "more/empty"),
        ("too many", lambda: (summed / "more/new").write_bytes(b"x"), "more/new"),
        ("an empty one too many", lambda: (summed / "items/new").touch(), "items/new"),
        ("renamed", lambda: (summed / "items/a").rename(summed / "items/c"), "items/a"),
        ("moved", lambda: (summed / "more/a").rename(summed / "items/deep/a"), "items/deep/a"),
        ("swapped", lambda: swap("items/a", "more/a"), "items/a"),
        ("a directory gone", lambda: shutil.rmtree(summed / "more"), "more/a"),
    ):
        with subtests.test(msg=what):
            damage()
            assert find_damage(summed) == f"its file {named} does not match SHA256SUMS"
            for path in (summed / "items", summed / "more"):
                shutil.rmtree(path, ignore_errors=True)
            make_files(summed, FILES)
            assert find_damage(summed) is None


def test_any_change_of_the_sums_is_damage(summed, subtests):
    sums = summed / "SHA256SUMS"
    text = sums.read_bytes()
    lines = text.splitlines(keepends=True)
    for what, content in (
        ("empty", b""),
        ("no last line end", text[:-1]),
        ("half a line", text[:-40]),
        ("a line less", b"".join(lines[1:])),
        ("no last line", b"".join(lines[:-1])),
        ("a line more", text + b"0" * 64 + b"  items/no\n"),
        ("another digit", (b"1" if text[:1] == b"0" else b"0") + text[1:]),
        ("not UTF-8", b"\xff" + text),
        *(
            (f"{end!r} after {line[66:]!r}", text.replace(line, line[:-1] + end.encode()))
            for end in ("\v", "\f", "\r", "\r\n", "\x1c", "\x85", "")
            for line in lines
        ),
    ):
        with subtests.test(msg=what):
            sums.write_bytes(content)
            assert find_damage(summed)
    sums.unlink()
    assert find_damage(summed) == "its SHA256SUMS cannot be read"


def test_every_directory_and_file_is_synced_after_the_sums_are_written(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("mnist_jax.workdir.hashing.sync", synced.append)
    make_files(tmp_path, FILES)
    write_sums(tmp_path)
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
