"""The files of a run's progress: written whole, read strictly."""

import itertools
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
from helpers import contents

from mnist_jax.workdir.files import atomic_file, read_json, write_json
from mnist_jax.workdir.history import read_history, write_history


def write_forever(path: str) -> None:
    for n in itertools.count():
        row: Any = {"n": n, "filler": "x" * 10_000}
        write_history(Path(path), [row] * 20)


@pytest.mark.slow
def test_a_reader_never_sees_a_part_even_when_the_writer_is_killed(tmp_path):
    context = multiprocessing.get_context("spawn")
    writer = context.Process(target=write_forever, args=(str(tmp_path),), daemon=True)
    writer.start()
    file = tmp_path / "metrics.jsonl"
    while not file.exists():
        assert writer.is_alive()
    for _ in range(100):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        assert len(rows) == 20
        assert len({row["n"] for row in rows}) == 1
    writer.kill()
    writer.join()
    assert len(file.read_text(encoding="utf-8").splitlines()) == 20


def test_a_failed_write_leaves_the_old_text_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old", encoding="utf-8")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"), atomic_file(tmp_path / "a") as file:
        file.write(b"new")
    assert contents(tmp_path) == {tmp_path / "a": b"old"}


def test_json_files_are_strict_and_named_where_they_cannot_be_read(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(ValueError, match=r"a.json is not JSON: .*No such file"):
        read_json(path)
    write_json(path, {"a": [1, 0.1]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert read_json(path) == {"a": [1, 0.1]}


def test_a_line_that_is_not_json_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for text in ("{", "[" * 100_000, '{"epoch": 3} 4'):
        path.write_text('{"epoch": 1}\n{"epoch": 2}\n' + text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"metrics\.jsonl cannot be read: line 3 is not JSON"):
            read_history(tmp_path)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"metrics\.jsonl cannot be read: .*utf-8"):
        read_history(tmp_path)
