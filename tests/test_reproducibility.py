"""The promises about bits; tests/faults/ has those after faults."""

import dataclasses
from pathlib import Path

import pytest
from helpers import SMALL, TINY, results, some_slow, stop_after, write_recipe
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_jax import Config, population, train
from mnist_jax.config import replace_fields
from mnist_jax.training import Run


def test_equal_seeds_give_equal_bits_and_other_seeds_do_not(small_run, tmp_path, command):
    again = tmp_path / "again"
    recipe = write_recipe(tmp_path / "recipe.json", SMALL)
    done = command("train", f"--config={recipe}", f"--workdir={again}")
    assert done.returncode == 0
    assert results(train(SMALL, again)) == results(small_run[1])  # read, not retrained

    other = train(dataclasses.replace(SMALL, seed=1), tmp_path / "other")
    assert other.result["params_sha256"] != small_run[1].result["params_sha256"]
    assert other.result["data_sha256"] == small_run[1].result["data_sha256"]


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Run]:
    """Trains 11 steps per epoch, the last of 12 examples, in chunks of 4, 4 and 3."""
    config = replace_fields(TINY, {"batch_size": 50, "optimizer.learning_rate": 0.01})
    run = train(config, tmp_path_factory.mktemp("ragged"))
    # With every schedule, the last epoch is the best.
    assert run.history[0]["val_accuracy"] < run.history[1]["val_accuracy"]
    return config, run


@pytest.mark.parametrize("chunk_steps", some_slow([3], [3, 1, 1000]))
def test_the_length_of_a_chunk_does_not_change_a_bit(ragged, tmp_path, chunk_steps):
    """Chunks that divide an epoch of 11 steps, leave a rest, or are longer."""
    run = train(dataclasses.replace(ragged[0], chunk_steps=chunk_steps), tmp_path)
    ours, theirs = results(run), results(ragged[1])
    assert ours[0].pop("step_sha256") != theirs[0].pop("step_sha256")  # of a longer loop
    assert ours == theirs


def assert_stops_change_no_bit(
    ragged: tuple[Config, Run], workdir: Path, stops: list[int], **fields: int | str
) -> None:
    config = replace_fields(ragged[0], fields)
    for chunks in stops:
        stop_after(chunks, train, config, workdir)
    assert results(train(config, workdir)) == results(ragged[1])


def test_a_run_stopped_within_an_epoch_and_at_its_end_resumes_with_the_same_bits(ragged, tmp_path):
    assert_stops_change_no_bit(ragged, tmp_path, [1, 2])


@pytest.mark.slow
@settings(max_examples=4)
@given(
    stops=st.lists(st.integers(1, 4), min_size=1, max_size=3).filter(lambda stops: sum(stops) <= 6),
    every_epochs=st.integers(1, 2),
    every_steps=st.sampled_from([0, 1, 5]),
    loader=st.sampled_from(["memory", "stream"]),
)
def test_a_run_stopped_after_any_chunk_resumes_with_the_same_bits(
    ragged, tmp_path_factory, stops, every_epochs, every_steps, loader
):
    """Six chunks in two epochs, with several schedules of checkpoints and loaders."""
    schedule = {"checkpoint.every_epochs": every_epochs, "checkpoint.every_steps": every_steps}
    workdir = tmp_path_factory.mktemp("stopped")
    assert_stops_change_no_bit(ragged, workdir, stops, **schedule, **{"data.loader": loader})


@pytest.mark.slow
def test_bfloat16_has_the_same_bits_when_stopped_in_other_chunks_streamed_or_as_a_member(tmp_path):
    config = dataclasses.replace(TINY, epochs=1, batch_size=50, precision="bfloat16")
    expected = train(config, tmp_path / "whole")
    other = replace_fields(config, {"chunk_steps": 3, "data.loader": "stream"})
    stop_after(2, train, other, tmp_path / "stopped")
    ours, theirs = results(train(other, tmp_path / "stopped")), results(expected)
    assert ours[0].pop("step_sha256") != theirs[0].pop("step_sha256")  # of a shorter loop
    assert ours == theirs
    members = population(config, tmp_path / "members", seeds=2)
    for name in ("params_sha256", "test_loss"):
        assert members[name][0] == expected.result[name]
