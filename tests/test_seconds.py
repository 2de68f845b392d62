"""Every clock of a run, by a clock that is known."""

import contextlib
import dataclasses
from typing import Any

import pytest
from helpers import stop_after
from scripted import LESSON, Clock, scripted

from mnist_jax import clock, population, train
from mnist_jax.history import read_history, read_json

# What each call takes; powers of two, so that sums are exact and tell what is in them.
SECONDS = {
    "import": 2048.0,
    "create_task": 1024.0,
    "compile": 512.0,
    "restore_state": 256.0,
    "data": 0.25,
    "run": 1.0,
    "eval": 16.0,
    "wait": 8.0,
    "prune": 32.0,
    "save": 4.0,
}
SAVE = 8 + 32 + 4


def test_a_stopwatch_gives_every_second_to_one_phase(monkeypatch):
    fake = Clock()
    monkeypatch.setattr(clock, "time", fake)
    watch = clock.Stopwatch(("a", "b", "c"))
    fake.now = 3.0
    assert watch.lap("a") == 3
    fake.now = 8.0
    assert watch.lap("b") == 5
    assert watch.lap("b") == 0
    fake.now = 10.0
    assert watch.lap("a") == 2
    assert watch.seconds == {"a": 5, "b": 5, "c": 0}


def test_the_seconds_of_a_result_are_those_of_its_phases(tmp_path):
    """Three epochs of three chunks, each with a validation and a save; and the test."""
    with scripted(train, seconds=SECONDS):
        run = train(LESSON, tmp_path)
    expected = {
        "import": 2048,
        "data": 1024 + 9 * 0.25,
        "compile": 512,
        "train": 9,
        "eval": 4 * 16,
        "checkpoint": 3 * SAVE + 8 + 32,
    }
    assert run.result["seconds"] == expected | {"total": sum(expected.values())}
    assert read_json(tmp_path / "result.json")["seconds"] == run.result["seconds"]


def test_the_seconds_of_an_epoch_are_those_since_the_validation_before(tmp_path):
    with scripted(train, seconds=SECONDS):
        run = train(LESSON, tmp_path)
    epoch = 3 * (0.25 + 1) + 16
    seconds = [epoch, SAVE + epoch, SAVE + epoch]
    assert [row["seconds"] for row in run.history] == seconds
    assert [row["input_seconds"] for row in run.history] == [0.75] * 3
    assert [row["examples_per_second"] for row in run.history] == [16 / s for s in seconds]


def test_a_resumed_epoch_counts_the_seconds_before_the_stop(tmp_path):
    with scripted(train, seconds=SECONDS):
        stop_after(5, train, LESSON, tmp_path)  # the second chunk of the second epoch
    with scripted(train, seconds=SECONDS):
        run = train(LESSON, tmp_path)
    epoch = 3 * (0.25 + 1) + 16
    # The save of the first epoch, and what the one at the stop waited for, came before it.
    seconds = [epoch, SAVE + 40 + epoch, SAVE + epoch]
    assert [row["seconds"] for row in run.history] == seconds
    assert [row["input_seconds"] for row in run.history] == [0.75] * 3
    assert [row["examples_per_second"] for row in run.history] == [16 / s for s in seconds]
    expected = {
        "import": 2048,
        "data": 1024 + 4 * 0.25,
        "compile": 512 + 256,
        "train": 4,
        "eval": 3 * 16,
        "checkpoint": 2 * SAVE + 8 + 32,
    }
    assert run.result["seconds"] == expected | {"total": sum(expected.values())}


def test_pictures_for_tensorboard_are_evaluation_and_not_the_next_epochs(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    names = train.__globals__
    with scripted(train, seconds=SECONDS) as script:
        written: list[Any] = []

        def write_events(row: dict[str, Any], *pictures: Any) -> None:
            written.append((row["step"], len(pictures)))
            script.clock.now += 64 * len(pictures)

        writer = contextlib.nullcontext(write_events)
        monkeypatch.setitem(names, "_event_writer", lambda *_: writer)
        monkeypatch.setitem(names, "drawn", lambda *_: None)
        run = train(LESSON, tmp_path, tensorboard=True)
    assert written == [(8, 1), (16, 1), (24, 1), (24, 0)]
    epoch = 3 * (0.25 + 1) + 16
    assert [row["seconds"] for row in run.history] == [epoch, SAVE + epoch, SAVE + epoch]
    assert run.result["seconds"]["eval"] == 4 * 16 + 3 * 64
    assert run.result["seconds"]["checkpoint"] == 3 * SAVE + 8 + 32
    assert run.result["seconds"]["train"] == 9


def test_the_seconds_of_a_population_are_those_of_its_phases(tmp_path):
    """Those of a member end where its directory is written."""
    with scripted(population, seconds=SECONDS | {"write_member": 128.0}):
        result = population(dataclasses.replace(LESSON, epochs=2), tmp_path, seeds=2)
    before = {
        "import": 2048,
        "data": 1024,
        "compile": 512,
        "train": 6,
        "eval": 3 * 16,
        "checkpoint": 2 * SAVE + 8,
    }
    epoch = 3 * 1 + 16
    seconds = [epoch, SAVE + epoch]
    rows = read_history(tmp_path)
    assert [row["seconds"] for row in rows] == seconds
    assert [row["examples_per_second"] for row in rows] == [2 * 16 / s for s in seconds]
    for number in (0, 1, 2):
        found = result["seconds"]
        expected = before | {"checkpoint": before["checkpoint"] + number * (128 + 4)}
        if number < 2:
            member = tmp_path / "members" / f"seed-{number}"
            found = read_json(member / "result.json")["seconds"]
            assert [row["seconds"] for row in read_history(member)] == seconds
        assert found == expected | {"total": sum(expected.values())}


def test_a_resumed_epoch_of_a_population_counts_the_seconds_before_the_stop(tmp_path):
    config = dataclasses.replace(LESSON, epochs=2)
    with scripted(population, seconds=SECONDS):
        stop_after(5, population, config, tmp_path, seeds=1)
    with scripted(population, seconds=SECONDS):
        result = population(config, tmp_path, seeds=1)
    epoch = 3 * 1 + 16
    assert [row["seconds"] for row in read_history(tmp_path)] == [epoch, SAVE + 40 + epoch]
    assert result["seconds"]["compile"] == 512 + 256
    assert (result["seconds"]["train"], result["seconds"]["eval"]) == (1, 2 * 16)
