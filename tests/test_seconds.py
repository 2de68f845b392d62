"""The seconds of a run, measured with a scripted clock."""

from pathlib import Path

import pytest
from helpers import stop_after
from scripted import LESSON, scripted

from mnist_jax import population, train
from mnist_jax.config import replace_fields
from mnist_jax.events import Epoch, Event
from mnist_jax.workdir.files import read_json
from mnist_jax.workdir.history import read_history

# Powers of two, so that a sum is exact and reveals its terms.
SECONDS = {"import": 2048.0, "load": 1024.0, "compile": 512.0, "restore": 256.0}
SECONDS |= {"data": 0.25, "run": 1.0, "eval": 16.0, "wait": 8.0, "save": 4.0}
SAVE, EPOCH = 8 + 4, 3 * (0.25 + 1) + 16


def phases(chunks: int, epochs: int, compiling: float) -> dict[str, float]:
    """Adds up start, chunks, epochs with validation and save, and the test."""
    return {
        "import": 2048,
        "data": 1024 + chunks * 0.25,
        "compile": compiling,
        "train": chunks,
        "eval": (epochs + 1) * 16,
        "checkpoint": epochs * SAVE + 8,
    }


TRAINED = phases(9, 3, 512)
# A run stopped at the second chunk of its second epoch.
RESUMED = phases(4, 2, 512 + 256)


def assert_seconds_of_epochs(workdir: Path, members: int = 1) -> None:
    """An epoch starts after the previous validation, so the save in between counts in it."""
    seconds, rows = [EPOCH, SAVE + EPOCH, SAVE + EPOCH], read_history(workdir)
    assert [row["seconds"] for row in rows] == seconds
    assert [row["input_seconds"] for row in rows] == [0.75] * 3
    assert [row["examples_per_second"] for row in rows] == [members * 16 / s for s in seconds]


def test_saves_within_an_epoch_count_in_its_seconds(tmp_path):
    with scripted(seconds=SECONDS):
        run = train(replace_fields(LESSON, {"checkpoint.every_steps": 3}), tmp_path)
    first, *others = (row["seconds"] for row in run.history)
    assert (first, others) == (EPOCH + 2 * SAVE, [EPOCH + 3 * SAVE] * 2)


def test_the_time_of_listeners_counts_as_evaluation(tmp_path):
    with scripted(seconds=SECONDS) as script:

        def draw(event: Event) -> None:
            if isinstance(event, Epoch):
                script.clock.now += 64

        run = train(LESSON, tmp_path, listeners=[draw])
    assert run.result["seconds"]["eval"] == 4 * 16 + 3 * 64
    assert run.result["seconds"]["total"] == sum(TRAINED.values()) + 3 * 64
    assert_seconds_of_epochs(tmp_path)


@pytest.mark.parametrize("before", [TRAINED, RESUMED], ids=["at once", "resumed"])
@pytest.mark.parametrize("members", [0, 2], ids=["train", "population"])
def test_the_seconds_of_a_run_are_those_of_its_phases_and_epochs(tmp_path, before, members):
    """A member's seconds end when its directory is written."""
    run, options = (population, {"seeds": members}) if members else (train, {})
    if before is RESUMED:
        with scripted(seconds=SECONDS):
            stop_after(5, run, LESSON, tmp_path, **options)
    with scripted(seconds=SECONDS):
        run(LESSON, tmp_path, **options)
    assert_seconds_of_epochs(tmp_path, max(1, members))
    directories = [tmp_path / "members" / f"seed-{number}" for number in range(members)]
    files = [*(member / "result.json" for member in directories)]
    files.append(tmp_path / ("population.json" if members else "result.json"))
    for number, file in enumerate(files):
        phases = before | {"checkpoint": before["checkpoint"] + number * 4}
        assert read_json(file)["seconds"] == phases | {"total": sum(phases.values())}
    rows = [[row["seconds"] for row in read_history(x)] for x in (tmp_path, *directories)]
    assert rows == rows[:1] * (members + 1)
