"""SIGINT and SIGTERM, sent to the real command."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import SMALL

from mnist_jax import train
from mnist_jax.checkpoint import check_checkpoints
from mnist_jax.history import read_history, without_times
from mnist_jax.program import compile_program
from mnist_jax.signals import Stopped, stop_requests

OPTIONS = [
    *("--epochs=2", "--chunk-steps=10", "--data.train-split=train[:30000]"),
    "--checkpoint.every-steps=60",
]


def start(workdir: Path, *options: str, until: str) -> subprocess.Popen[str]:
    """Starts `train`; returns when there is something that matches `until` in the workdir."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_jax", "train", f"--workdir={workdir}", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(workdir.glob(until)):
        assert process.poll() is None
        time.sleep(0.01)
    return process


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(
        [sys.executable, "-m", "mnist_jax", "train", f"--workdir={workdir}", *OPTIONS],
        check=True,
        capture_output=True,
    )
    return workdir


@pytest.mark.parametrize(
    ("signum", "options", "without"),
    [(signal.SIGINT, [], ""), (signal.SIGTERM, ["--overwrite"], ", without --overwrite,")],
)
def test_a_signal_saves_says_how_to_go_on_and_changes_no_bit(
    signum, options, without, undisturbed, tmp_path, command
):
    with start(tmp_path, *OPTIONS, *options, until="checkpoints/60") as process:
        process.send_signal(signum)
        sent = time.perf_counter()
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert time.perf_counter() - sent < 5  # 0.5 where the machine does nothing else
    saved = [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
    step = max(saved)
    assert stderr == (
        f"error: stopped by {signum.name} after step {step} of 376, which is saved; run the same "
        f"command again{without} to go on\n"
    )

    continued = command("train", f"--workdir={tmp_path}", *OPTIONS)
    assert (continued.returncode, continued.stderr) == (0, "")
    assert continued.stdout.startswith(f"continuing after step {step} of 376\n")
    results = [json.loads((path / "result.json").read_text()) for path in (undisturbed, tmp_path)]
    assert without_times(results[0]) == without_times(results[1])
    histories = [list(map(without_times, read_history(path))) for path in (undisturbed, tmp_path)]
    assert histories[0] == histories[1]
    names = [sorted(p.name for p in path.glob("checkpoints/*")) for path in (undisturbed, tmp_path)]
    assert names[0] == names[1]


def test_a_second_signal_does_not_wait_and_does_no_harm(tmp_path):
    one_chunk_an_epoch = ["--epochs=1000", "--chunk-steps=100000", "--batch-size=4"]  # seconds each
    with start(tmp_path, *one_chunk_an_epoch, until="metrics.jsonl") as process:
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        time.sleep(1.2)  # sooner, it would be a repetition of the first
        assert process.poll() is None  # it waits for its chunk
        process.send_signal(signal.SIGTERM)
        sent = time.perf_counter()
        process.wait(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert time.perf_counter() - sent < 1
    assert check_checkpoints(tmp_path / "checkpoints")[1] == {}


def test_a_signal_before_it_is_ready_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "mnist_jax", "train", "--workdir", str(tmp_path / "run")]
    for delay in (0.2, 0.3):  # in the imports
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
        assert process.returncode == 130
        assert stderr == "error: stopped by SIGINT\n"
        assert not (tmp_path / "run").exists()


def test_a_signal_in_the_test_at_the_end_leaves_only_the_test_to_do(tmp_path, monkeypatch, capsys):
    """The last checkpoint is complete: nothing is trained again."""

    def compile_and_stop(*args, **fields):
        program = compile_program(*args, **fields)

        def measure(state, split):
            if split == "test":
                signal.raise_signal(signal.SIGTERM)
                time.sleep(0.1)  # until the thread has received it
            return program.measure(state, split)

        return program._replace(measure=measure)

    with monkeypatch.context() as patch:
        patch.setitem(train.__globals__, "compile_program", compile_and_stop)
        with pytest.raises(Stopped, match="SIGTERM after step 16 of 16, which is saved; run the"):
            train(SMALL, tmp_path)
    assert not (tmp_path / "result.json").exists()
    capsys.readouterr()
    train(SMALL, tmp_path)
    assert "epoch" not in capsys.readouterr().out
    assert (tmp_path / "result.json").exists()


# What a test runner does around `train`: it has handlers of its own.
HOST = """
import signal, sys, helpers, mnist_jax
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
mnist_jax.train(helpers.SMALL, sys.argv[1])
signal.setitimer(signal.ITIMER_REAL, 0)
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


def test_other_signals_of_a_program_are_its_own(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", HOST, str(tmp_path / "run")],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "result.json").exists()


def test_a_second_signal_in_a_notebook_interrupts_and_does_not_exit():
    before = signal.getsignal(signal.SIGINT)
    with stop_requests() as requests:
        signal.raise_signal(signal.SIGINT)
        while not requests:
            time.sleep(0.01)
        assert requests == [signal.SIGINT]
        time.sleep(1.1)  # sooner, it would be a repetition
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_request_is_passed_on_where_an_error_ends_the_work():
    def fail_when_asked() -> None:
        with stop_requests():
            signal.raise_signal(signal.SIGINT)
            raise ValueError

    with pytest.raises(KeyboardInterrupt):
        fail_when_asked()


def test_a_signal_while_the_garbage_collector_calls_back_is_not_lost():
    code = """
import gc, os, signal, sys, time
from mnist_jax.signals import raise_stopped, raise_unraisable

def call_back(phase, info):
    gc.callbacks.remove(call_back)
    os.kill(os.getpid(), signal.SIGTERM)
    sum(range(1000))

signal.signal(signal.SIGTERM, raise_stopped)
sys.unraisablehook = raise_unraisable
gc.callbacks.append(call_back)
gc.collect()
time.sleep(20)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr.splitlines()[-1] == "mnist_jax.signals.Stopped: stopped by SIGTERM"
    assert "ignored" not in done.stderr
