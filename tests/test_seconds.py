"""Every clock of a run, by a clock that is known."""

import dataclasses

from helpers import stop_after
from scripted import LESSON, Clock, scripted

from mnist_jax import clock, population, train
from mnist_jax.events import Epoch, Event
from mnist_jax.workdir.files import read_json
from mnist_jax.workdir.history import read_history

# What each call takes; powers of two, so that sums are exact and tell what is in them.
SECONDS = {
    "import": 2048.0,
    "load": 1024.0,
    "compile": 512.0,
    "restore": 256.0,
    "data": 0.25,
    "run": 1.0,
    "eval": 16.0,
    "wait": 8.0,
    "save": 4.0,
}
SAVE = 8 + 4


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
    with scripted(seconds=SECONDS):
        run = train(LESSON, tmp_path)
    expected = {
        "import": 2048,
        "data": 1024 + 9 * 0.25,
        "compile": 512,
        "train": 9,
        "eval": 4 * 16,
        "checkpoint": 3 * SAVE + 8,
    }
    assert run.result["seconds"] == expected | {"total": sum(expected.values())}
    assert read_json(tmp_path / "result.json")["seconds"] == run.result["seconds"]


def test_the_seconds_of_an_epoch_are_those_since_the_validation_before(tmp_path):
    with scripted(seconds=SECONDS):
        run = train(LESSON, tmp_path)
    epoch = 3 * (0.25 + 1) + 16
    seconds = [epoch, SAVE + epoch, SAVE + epoch]
    assert [row["seconds"] for row in run.history] == seconds
    assert [row["input_seconds"] for row in run.history] == [0.75] * 3
    assert [row["examples_per_second"] for row in run.history] == [16 / s for s in seconds]


def test_a_resumed_epoch_counts_the_seconds_before_the_stop(tmp_path):
    with scripted(seconds=SECONDS):
        stop_after(5, train, LESSON, tmp_path)  # the second chunk of the second epoch
    with scripted(seconds=SECONDS):
        run = train(LESSON, tmp_path)
    epoch = 3 * (0.25 + 1) + 16
    seconds = [epoch, SAVE + epoch, SAVE + epoch]
    assert [row["seconds"] for row in run.history] == seconds
    assert [row["input_seconds"] for row in run.history] == [0.75] * 3
    assert [row["examples_per_second"] for row in run.history] == [16 / s for s in seconds]
    expected = {
        "import": 2048,
        "data": 1024 + 4 * 0.25,
        "compile": 512 + 256,
        "train": 4,
        "eval": 3 * 16,
        "checkpoint": 2 * SAVE + 8,
    }
    assert run.result["seconds"] == expected | {"total": sum(expected.values())}


def test_the_time_of_listeners_is_evaluation_and_not_the_next_epochs(tmp_path):
    """Such as that of TensorBoard's pictures."""
    with scripted(seconds=SECONDS) as script:

        def draw(event: Event) -> None:
            if isinstance(event, Epoch):
                script.clock.now += 64

        run = train(LESSON, tmp_path, listeners=[draw])
    epoch = 3 * (0.25 + 1) + 16
    assert [row["seconds"] for row in run.history] == [epoch, SAVE + epoch, SAVE + epoch]
    assert run.result["seconds"]["eval"] == 4 * 16 + 3 * 64
    assert run.result["seconds"]["checkpoint"] == 3 * SAVE + 8
    assert run.result["seconds"]["train"] == 9


def test_the_seconds_of_a_population_are_those_of_its_phases(tmp_path):
    """Those of a member end where its directory is written."""
    with scripted(seconds=SECONDS):
        result = population(dataclasses.replace(LESSON, epochs=2), tmp_path, seeds=2)
    before = {
        "import": 2048,
        "data": 1024 + 6 * 0.25,
        "compile": 512,
        "train": 6,
        "eval": 3 * 16,
        "checkpoint": 2 * SAVE + 8,
    }
    epoch = 3 * (0.25 + 1) + 16
    seconds = [epoch, SAVE + epoch]
    rows = read_history(tmp_path)
    assert [row["seconds"] for row in rows] == seconds
    assert [row["examples_per_second"] for row in rows] == [2 * 16 / s for s in seconds]
    for number in (0, 1, 2):
        found = result["seconds"]
        expected = before | {"checkpoint": before["checkpoint"] + number * 4}
        if number < 2:
            member = tmp_path / "members" / f"seed-{number}"
            found = read_json(member / "result.json")["seconds"]
            assert [row["seconds"] for row in read_history(member)] == seconds
        assert found == expected | {"total": sum(expected.values())}


def test_a_resumed_epoch_of_a_population_counts_the_seconds_before_the_stop(tmp_path):
    config = dataclasses.replace(LESSON, epochs=2)
    with scripted(seconds=SECONDS):
        stop_after(5, population, config, tmp_path, seeds=1)
    with scripted(seconds=SECONDS):
        result = population(config, tmp_path, seeds=1)
    epoch = 3 * (0.25 + 1) + 16
    assert [row["seconds"] for row in read_history(tmp_path)] == [epoch, SAVE + epoch]
    assert result["seconds"]["compile"] == 512 + 256
    assert (result["seconds"]["train"], result["seconds"]["eval"]) == (1, 2 * 16)
