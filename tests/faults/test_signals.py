"""SIGINT and SIGTERM, sent to the real command."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import TESTS, bits
from scripted import LESSON, scripted
from subprocesses import CONFIG, OPTIONS, wait_for_line

from mnist_jax import program, train
from mnist_jax.cli.main import main
from mnist_jax.processes import signals
from mnist_jax.processes.signals import Stopped, stop_requests
from mnist_jax.progress import console
from mnist_jax.workdir.checkpoint import check_checkpoints

AS_DAEMONS_DO = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]  # SIGINT is ignored


@contextlib.contextmanager
def started(*command: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    options = pipes | {"cwd": TESTS, "env": os.environ | environment}
    with subprocess.Popen([*map(str, command)], **options) as process:
        try:
            yield process
        finally:
            process.kill()


def train_with(code: str, workdir: Path, *options: str) -> list[str]:
    program = f"import subprocesses\n{code}\nsubprocesses.run()"
    return [sys.executable, "-c", program, "train", *OPTIONS, *options, f"--workdir={workdir}"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    train(CONFIG, workdir)
    return workdir


@pytest.mark.parametrize(
    ("signum", "launcher", "option"),
    [(signal.SIGINT, AS_DAEMONS_DO, ""), (signal.SIGTERM, [], " --overwrite")],
)
def test_a_signal_saves_and_the_same_command_resumes_to_the_same_bits(
    signum, launcher, option, undisturbed, tmp_path, capsys
):
    """SIGINT stops the command even if it was ignored when the command started."""
    workdir, code = tmp_path / "run", "subprocesses.at_chunk(5, subprocesses.wait_for_signal)"
    with started(*launcher, *train_with(code, workdir, *option.split())) as process:
        wait_for_line(process, "ready")
        process.send_signal(signum)
        _, stderr = process.communicate()
    without = option and f" without{option}"
    assert (process.returncode, stderr) == (
        128 + signum,
        f"stopped by {signum.name} at step 10 of 16 (saved); to resume, run the same "
        f"command again{without}\n",
    )
    assert main(["train", f"--workdir={workdir}", *OPTIONS]) == 0
    resumed = capsys.readouterr()
    assert resumed.err == ""
    assert "\nresuming after step 10 of 16\n" in resumed.out
    assert bits(workdir) == bits(undisturbed)


# A chunk that is computed for ever. What follows a signal at once is a repetition of it.
ENDLESS = """
import sys, threading, jax
from mnist_jax.processes import signals

received, is_second = [], signals._is_second

def count(times):
    again = is_second(times)
    received.append(1)  # not before: what then changes is for the next signal
    return again

def compute():
    threading.Thread(target=report).start()
    jax.jit(lambda: jax.lax.while_loop(lambda x: x >= 0, lambda x: 0 * x, 0))().item()

def report():
    print("ready", file=sys.__stdout__, flush=True)
    while len(received) < 2:
        subprocesses.time.sleep(0.005)
    signals.REPEAT_SECONDS = -1.0  # from now on
    print("repeated", file=sys.__stdout__, flush=True)

signals.REPEAT_SECONDS, signals._is_second = 1e9, count
subprocesses.at_chunk(5, compute)
"""


@pytest.mark.slow
def test_a_second_signal_does_not_wait_and_does_no_harm(tmp_path):
    with started(*train_with(ENDLESS, tmp_path)) as process:
        wait_for_line(process, "ready")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        wait_for_line(process, "repeated")
        assert process.poll() is None  # it waits for its chunk
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate()
    assert (process.returncode, stderr) == (128 + signal.SIGTERM, "stopped by SIGTERM\n")
    assert check_checkpoints(tmp_path / "checkpoints")[1] == {}


# Python imports it at its start: a signal comes when JAX is about to be imported.
SITECUSTOMIZE = """
import signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "jax":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""


def test_a_signal_during_the_imports_leaves_nothing(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    command = [sys.executable, "-m", "mnist_jax", "train", f"--workdir={tmp_path / 'run'}"]
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with started(*command, PYTHONPATH=paths) as process:
        _, stderr = process.communicate()
    assert (process.returncode, stderr) == (130, "stopped by SIGINT\n")
    assert not (tmp_path / "run").exists()


def test_a_signal_in_the_test_at_the_end_leaves_only_the_test_to_do(tmp_path, monkeypatch, capsys):
    """The last checkpoint is complete: nothing is trained again."""
    with scripted():
        compile_training = program.compile_training

        def compile_and_stop(*args, **fields):
            compiled = compile_training(*args, **fields)

            def measure(state, split):
                if split == "test":
                    signal.raise_signal(signal.SIGTERM)
                return compiled.measure(state, split)

            return compiled._replace(measure=measure)

        monkeypatch.setattr(program, "compile_training", compile_and_stop)
        with pytest.raises(Stopped, match=r"SIGTERM at step 24 of 24 \(saved\); to resume, run"):
            train(LESSON, tmp_path)
        monkeypatch.undo()
    assert not (tmp_path / "result.json").exists()
    with scripted() as script:
        train(LESSON, tmp_path, listeners=[console()])
    assert script.rates == []
    assert "\nresuming after step 24 of 24\n" in capsys.readouterr().out
    assert (tmp_path / "result.json").exists()


# What a test runner does around `train`: it has handlers of its own.
HOST = """
import signal, sys, mnist_jax.cli.compilation_cache, subprocesses
mnist_jax.cli.compilation_cache.use_compilation_cache()
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
mnist_jax.train(subprocesses.CONFIG, sys.argv[1])
signal.setitimer(signal.ITIMER_REAL, 0)
sys.exit(signal.getsignal(signal.SIGINT) is not signal.default_int_handler)
"""


@pytest.mark.slow
def test_other_signals_of_a_program_are_its_own(tmp_path):
    with started(sys.executable, "-c", HOST, tmp_path / "run") as process:
        _, stderr = process.communicate()
    assert (process.returncode, stderr) == (0, "")
    assert (tmp_path / "run" / "result.json").exists()


def test_a_second_signal_in_a_notebook_interrupts_and_does_not_exit(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(signals, "REPEAT_SECONDS", 1e9)
    with stop_requests() as requests:
        for _ in range(2):  # the second one is a repetition
            signal.raise_signal(signal.SIGINT)
        assert requests == [signal.SIGINT] * 2
        monkeypatch.setattr(signals, "REPEAT_SECONDS", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_pending_interrupt_is_raised_when_the_work_fails():
    with pytest.raises(KeyboardInterrupt), stop_requests():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        raise ValueError


@pytest.mark.slow
def test_a_signal_while_the_garbage_collector_calls_back_is_not_lost():
    code = """
import gc, os, signal, sys, time
from mnist_jax.processes.signals import raise_stopped, raise_unraisable

def call_back(phase, info):
    gc.callbacks.remove(call_back)
    os.kill(os.getpid(), signal.SIGTERM)
    sum(range(1000))

signal.signal(signal.SIGTERM, raise_stopped)
sys.unraisablehook = raise_unraisable
gc.callbacks.append(call_back)
gc.collect()
time.sleep(300)
"""
    with started(sys.executable, "-c", code) as process:
        _, stderr = process.communicate()
    assert stderr.splitlines()[-1] == "mnist_jax.processes.signals.Stopped: stopped by SIGTERM"
    assert "ignored" not in stderr
