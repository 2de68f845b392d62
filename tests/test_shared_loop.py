"""The loop that `train` and `population` share: signals, divergence, listeners."""

import dataclasses
import signal
from collections.abc import Callable
from typing import Any

import pytest
from helpers import at_chunk, bits
from scripted import LESSON, scripted

from mnist_jax import population, train
from mnist_jax.config import WatchConfig
from mnist_jax.events import Begin, Chunk, Diverged, Epoch, Event, Failed, Save, Stop
from mnist_jax.processes.signals import Stopped
from mnist_jax.workdir.checkpoint import check_checkpoints
from mnist_jax.workdir.history import read_history

Run = Callable[..., Any]
both = pytest.mark.parametrize(
    ("run", "options"),
    [(train, {}), (population, {"seeds": 2})],
    ids=["train", "population"],
)
# Of each network the validation gets worse after the first epoch.
PLATEAU = dataclasses.replace(LESSON, watch=WatchConfig(plateau_patience=1))
EPOCH = ["Chunk", "Chunk", "Chunk", "Save", "Epoch"]


def raise_at(kind: type, number: int = 1) -> Callable[[Event], None]:
    """A listener that raises at an event of a kind, counted from 1."""
    heard = []

    def listen(event: Event) -> None:
        heard.append(event)
        if sum(isinstance(one, kind) for one in heard) == number and isinstance(event, kind):
            raise InterruptedError(f"at {kind.__name__}")

    return listen


@both
@pytest.mark.parametrize("order", [(2, 15), (15, 2)])
def test_the_greater_of_two_signals_names_the_exit_code(tmp_path, run, options, order):
    def signals() -> None:
        for signum in order:
            signal.raise_signal(signum)

    with scripted() as script, pytest.raises(Stopped, match="SIGTERM after step 3 of") as stopped:
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


@both
@pytest.mark.parametrize("kind", [Begin, Chunk, Save, Epoch, Stop], ids=lambda kind: kind.__name__)
def test_a_listener_that_raises_ends_the_run_which_resumes_to_the_same_bits(
    tmp_path, run, options, kind
):
    whole, ended = tmp_path / "whole", tmp_path / "run"
    script: dict[str, Any] = {"losses": [1.0, 2.0], "accuracies": [0.5, 0.75]}
    with scripted(**script):
        run(PLATEAU, whole, **options)
    number = {Begin: 1, Chunk: 5, Stop: 1}.get(kind, 2)
    with scripted(**script) as played:
        with pytest.raises(InterruptedError, match=f"at {kind.__name__}") as error:
            run(PLATEAU, ended, listeners=[raise_at(kind, number)], **options)
        assert played.open_chunks == 0, error  # also as long as somebody keeps the traceback
    (ended / "metrics.jsonl").write_text('{"epoch": 7}\n' * 3, encoding="utf-8")
    with scripted(**script) as played:
        run(PLATEAU, ended, **options)
    # Of the second epoch what came before its checkpoint is lost.
    assert len(played.rates) == {Begin: 9, Chunk: 6, Save: 3, Epoch: 3, Stop: 0}[kind]
    assert bits(ended) == bits(whole)
    assert read_history(ended) == read_history(whole)


def test_a_training_that_diverges_closes_its_chunks_and_saves_nothing_of_it(tmp_path):
    with scripted(diverges={0: 12}) as script:
        with pytest.raises(FloatingPointError, match="epoch 2, step 13: the loss is nan"):
            train(LESSON, tmp_path)
        assert script.open_chunks == 0
    assert check_checkpoints(tmp_path / "checkpoints") == ([8], {})


def test_a_population_tells_of_a_member_that_diverges_before_it_saves_and_goes_on(tmp_path):
    heard: list[Any] = []
    with scripted(diverges={1: 12}):
        population(LESSON, tmp_path, seeds=2, listeners=[heard.append])
    names = [type(event).__name__ for event in heard]
    second = ["Chunk", "Chunk", "Diverged", "Chunk", "Save", "Epoch"]
    assert names == ["Begin", *EPOCH, *second, *EPOCH, "Stop", "Done"]
    assert [event for event in heard if isinstance(event, Diverged)] == [Diverged(1, 2, 13)]


def interrupt(event: Event) -> None:
    if isinstance(event, Chunk):
        signal.raise_signal(signal.SIGTERM)


@both
@pytest.mark.parametrize(
    ("culprit", "kind"), [(lambda: interrupt, Stopped), (lambda: raise_at(Epoch), InterruptedError)]
)
def test_every_listener_hears_last_by_what_a_run_fails_and_the_caller_gets_the_first_error(
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
