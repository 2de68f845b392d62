"""The loop that `train` and `population` share: signals, divergence, listeners."""

import dataclasses
import itertools
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import at_chunk, bits
from scripted import LESSON, scripted

from mnist_jax import population, train
from mnist_jax.config import CheckpointConfig, WatchConfig
from mnist_jax.events import Begin, Chunk, Diverged, Epoch, Event, Failed, Save, Stop
from mnist_jax.processes.signals import Stopped
from mnist_jax.workdir.checkpoint import check_checkpoints
from mnist_jax.workdir.history import read_history

both = pytest.mark.parametrize(
    ("run", "options"), [(train, {}), (population, {"seeds": 2})], ids=["train", "population"]
)
# Validation gets worse after the first epoch.
PLATEAU = dataclasses.replace(LESSON, watch=WatchConfig(plateau_patience=1))
EPOCH = ["Chunk", "Chunk", "Chunk", "Save", "Epoch"]


def raise_at(kind: type, number: int = 1) -> Callable[[Event], None]:
    heard = itertools.count(1)

    def listen(event: Event) -> None:
        if isinstance(event, kind) and next(heard) == number:
            raise InterruptedError(f"at {kind.__name__}")

    return listen


@both
@pytest.mark.parametrize("order", [(2, 15), (15, 2)])
def test_the_greater_of_two_signals_names_the_exit_code(tmp_path, run, options, order):
    def signals() -> None:
        for signum in order:
            signal.raise_signal(signum)

    with scripted() as script, pytest.raises(Stopped, match="SIGTERM at step 3 of") as stopped:
        run(LESSON, tmp_path, listeners=[at_chunk(1, signals)], **options)
    assert (stopped.value.signum, script.open_chunks) == (signal.SIGTERM, 0)
    assert check_checkpoints(tmp_path / "checkpoints") == ([3], {})


@both
def test_a_listener_hears_every_event_in_order(tmp_path, run, options):
    heard: list[Any] = []
    with scripted(losses=[1.0, 2.0]) as script:
        run(PLATEAU, tmp_path, listeners=[heard.append], **options)
    names = [type(event).__name__ for event in heard]
    assert names == ["Begin", *EPOCH, *EPOCH, "Plateau", *EPOCH, "Stop", "Done"]
    assert [event.step for event in heard if isinstance(event, Save)] == [8, 16, 24]
    assert [event.row for event in heard if isinstance(event, Epoch)] == read_history(tmp_path)
    assert script.open_chunks == 0
    # A stored event does not change.
    chunks = [event for event in heard if isinstance(event, Chunk)]
    assert [len(event.history) for event in chunks] == [0] * 3 + [1] * 3 + [2] * 3
    assert all(event.sums["loss_sum"].shape[-1] == event.chunk_steps for event in chunks)


@both
@pytest.mark.parametrize("kind", [Begin, Chunk, Save, Epoch, Stop], ids=lambda kind: kind.__name__)
def test_a_run_that_a_listener_ended_resumes_to_the_same_bits(tmp_path, run, options, kind):
    whole, ended = tmp_path / "whole", tmp_path / "run"
    script: dict[str, Any] = {"losses": [1.0, 2.0], "accuracies": [0.5, 0.75]}
    with scripted(**script):
        run(PLATEAU, whole, **options)
    number = {Begin: 1, Chunk: 5, Stop: 1}.get(kind, 2)
    with scripted(**script) as played:
        with pytest.raises(InterruptedError, match=f"at {kind.__name__}") as error:
            run(PLATEAU, ended, listeners=[raise_at(kind, number)], **options)
        assert played.open_chunks == 0, error  # even while the traceback is alive
    (ended / "metrics.jsonl").write_text('{"epoch": 7}\n' * 3, encoding="utf-8")
    with scripted(**script) as played:
        run(PLATEAU, ended, **options)
    # Chunks since the last checkpoint are lost.
    assert len(played.rates) == {Begin: 9, Chunk: 6, Save: 3, Epoch: 3, Stop: 0}[kind]
    assert bits(ended) == bits(whole)
    assert read_history(ended) == read_history(whole)


@pytest.mark.parametrize(
    ("script", "saves", "message", "before"),
    [
        # Within an epoch, the next chunk is already running when the loss is read.
        ({"diverges": {0: 0}}, {}, "epoch 1, step 1: the loss is nan", ["Chunk"]),
        ({"diverges": {0: 5}}, {}, "epoch 1, step 6: the loss is nan", ["Chunk"] * 2),
        ({"diverges": {0: 7}}, {}, "epoch 1, step 8: the loss is nan", ["Chunk"] * 3),
        ({"diverges": {0: 12}}, {}, "epoch 2, step 13: the loss is nan", [*EPOCH, *EPOCH[:2]]),
        # A save within an epoch, or an epoch without one.
        ({"diverges": {0: 1}}, {"every_steps": 1}, "epoch 1, step 2: the loss is", ["Chunk"]),
        ({"diverges": {0: 6}}, {"every_epochs": 3}, "epoch 1, step 7: the l", ["Chunk"] * 3),
        # Each loss precedes its update.
        ({"losses": [np.inf]}, {}, "epoch 1, step 8: val_loss is not finite", ["Chunk"] * 3),
        ({"broken": {0: 3}}, {"every_steps": 1}, "step 3: params/layer/kernel is not", ["Chunk"]),
    ],
)
def test_a_value_that_is_not_finite_ends_the_training_before_it_is_saved_or_shown(
    tmp_path, script, saves, message, before
):
    heard: list[Any] = []
    config = dataclasses.replace(LESSON, checkpoint=CheckpointConfig(**saves))
    with scripted(**script) as played:
        with pytest.raises(FloatingPointError, match=message):
            train(config, tmp_path, listeners=[heard.append])
        assert played.open_chunks == 0
    assert [type(event).__name__ for event in heard] == ["Begin", *before, "Failed"]
    saved = [8] if "Save" in before else []
    assert check_checkpoints(tmp_path / "checkpoints") == (saved, {})


@pytest.mark.parametrize(
    ("script", "epoch", "step", "names"),
    [
        ({"diverges": {1: 12}}, 2, 13, [*EPOCH, "Chunk", "Chunk", "Diverged", *EPOCH[2:], *EPOCH]),
        ({"broken": {1: 8}}, 1, 8, ["Chunk"] * 3 + ["Diverged", "Save", "Epoch", *EPOCH, *EPOCH]),
    ],
    ids=["a loss", "a parameter"],
)
def test_a_diverging_member_is_reported_before_the_save_and_the_others_continue(
    tmp_path, script, epoch, step, names
):
    heard: list[Any] = []
    with scripted(**script):
        population(LESSON, tmp_path, seeds=2, listeners=[heard.append])
    assert [type(event).__name__ for event in heard] == ["Begin", *names, "Stop", "Done"]
    assert [event for event in heard if isinstance(event, Diverged)] == [Diverged(1, epoch, step)]


@both
@pytest.mark.parametrize(
    ("culprit", "kind"),
    [
        (lambda: at_chunk(1, lambda: signal.raise_signal(signal.SIGTERM)), Stopped),
        (lambda: raise_at(Epoch), InterruptedError),
    ],
)
def test_every_listener_hears_the_failure_last_and_the_caller_gets_the_first_error(
    tmp_path, capfd, run, options, culprit, kind
):
    heard: list[Any] = []

    def fail_again(event: Event) -> None:
        if isinstance(event, Failed):
            raise RuntimeError("another error")

    with scripted(), pytest.raises(kind) as error:
        run(LESSON, tmp_path, listeners=[fail_again, culprit(), heard.append], **options)
    assert heard[-1] == Failed(error.value)
    assert [type(event) for event in heard].count(Failed) == 1
    with scripted():
        run(LESSON, tmp_path, **options)
    assert capfd.readouterr() == ("", "")  # without listeners nothing is printed
