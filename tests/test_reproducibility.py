"""The promises about bits; what a fault leaves of them is in tests/faults/."""

import contextlib
import dataclasses
import itertools
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from helpers import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_jax import Config, population, train
from mnist_jax.config import CheckpointConfig, replace_fields
from mnist_jax.history import without_times
from mnist_jax.program import Program, compile_program
from mnist_jax.signals import Stopped
from mnist_jax.train import Run


def bits(run: Run) -> list[dict[str, Any]]:
    return [without_times(values) for values in (run.result, *run.history)]


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(small_run, tmp_path, command):
    again = tmp_path / "again"
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(SMALL)))
    done = command("train", f"--config={tmp_path / 'config.json'}", f"--workdir={again}")
    assert done.returncode == 0
    assert bits(train(SMALL, again)) == bits(small_run[1])  # it is complete, and read

    other = train(dataclasses.replace(SMALL, seed=1), tmp_path / "other")
    assert other.result["params_sha256"] != small_run[1].result["params_sha256"]
    assert other.result["data_sha256"] == small_run[1].result["data_sha256"]


@pytest.mark.parametrize("chunk_steps", [1, 3, 5, 8, 1000])
def test_the_length_of_a_chunk_does_not_change_a_bit(small_run, tmp_path, chunk_steps):
    """An epoch has 8 steps: chunks that divide it, that leave a rest, and that are longer."""
    assert bits(train(dataclasses.replace(SMALL, chunk_steps=chunk_steps), tmp_path)) == bits(
        small_run[1]
    )


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Run]:
    """11 steps an epoch, the last one of 24 examples: chunks of 4, 4 and 3 steps."""
    config = dataclasses.replace(SMALL, batch_size=100, chunk_steps=4)
    return config, train(config, tmp_path_factory.mktemp("ragged"))


def stop_after(chunks: int, config: Config, workdir: Path) -> None:
    """Trains until a signal comes while the last of some chunks is computed."""
    requests: list[int] = []
    computed = itertools.count(1)

    def compile_counted(*args: Any, **fields: Any) -> Program:
        program = compile_program(*args, **fields)

        def run_chunk(state, chunk, rate_scale):
            if next(computed) == chunks:
                requests.append(signal.SIGTERM)
            return program.run_chunk(state, chunk, rate_scale)

        return program._replace(run_chunk=run_chunk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(train.__globals__, "compile_program", compile_counted)
        patch.setitem(train.__globals__, "stop_requests", lambda: contextlib.nullcontext(requests))
        with pytest.raises(Stopped, match="stopped by SIGTERM after step"):
            train(config, workdir)


@settings(deadline=None, max_examples=4, derandomize=True)
@given(
    stops=st.lists(st.integers(1, 4), min_size=1, max_size=3).filter(lambda stops: sum(stops) <= 6),
    every_epochs=st.integers(1, 2),
    every_steps=st.sampled_from([0, 1, 5]),
    loader=st.sampled_from(["memory", "stream"]),
)
def test_a_run_may_be_stopped_after_any_chunk(
    ragged, tmp_path_factory, stops, every_epochs, every_steps, loader
):
    """Two epochs are six chunks. Neither the schedule of checkpoints nor the loader matters."""
    workdir = tmp_path_factory.mktemp("stopped")
    checkpoint = CheckpointConfig(every_epochs=every_epochs, every_steps=every_steps)
    config = dataclasses.replace(ragged[0], checkpoint=checkpoint)
    config = replace_fields(config, {"data.loader": loader})
    for chunks in stops:
        stop_after(chunks, config, workdir)
    run = train(config, workdir)
    expected = bits(ragged[1])
    if every_epochs == 2:  # then the first epoch is not saved, and cannot be the best
        expected[0]["best_step"] = run.result["steps"]
    assert bits(run) == expected


def test_so_it_is_in_bfloat16(tmp_path):
    """Neither chunks, loader, a stop nor other members change a bit."""
    config = dataclasses.replace(SMALL, epochs=1, batch_size=100, precision="bfloat16")
    expected = train(config, tmp_path / "whole")
    other = replace_fields(config, {"chunk_steps": 3, "data.loader": "stream"})
    stop_after(2, other, tmp_path / "stopped")
    assert bits(train(other, tmp_path / "stopped")) == bits(expected)
    members = population(config, tmp_path / "members", seeds=2)
    for name in ("params_sha256", "test_loss"):
        assert members[name][0] == expected.result[name]
