"""What people see: a bar on a terminal, plain lines, nothing, or JSON."""

import contextlib
import fcntl
import json
import math
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import RECIPES, TINY, strict_json
from subprocesses import options as options_of

from mnist_jax.cli.main import main
from mnist_jax.machine import extras
from mnist_jax.progress import show_result

SMOKE = ["train", "--config", str(RECIPES / "smoke.py"), "--epochs=2", "--chunk-steps=4"]
SMOKE += ["--model.features=4", "--model.hidden-size=16"]
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9]")
# What would change the output; each test has its own.
UNSET = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PYTHONIOENCODING")


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: the same command again shows its result, without training."""
    workdir = tmp_path_factory.mktemp("terminal") / "run"
    assert main([*SMOKE, "--workdir", str(workdir), "--quiet"]) == 0
    return workdir


def on_a_terminal(columns: int, cwd: Path, *args: str) -> tuple[int, str]:
    """Runs Python in a directory; returns its exit code, and what a terminal gets of it."""
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in UNSET}
    process = subprocess.Popen(
        [sys.executable, *args],
        cwd=cwd,
        env=env | {"TERM": "xterm-256color", "PYTHONUTF8": "1"},
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
    )
    os.close(inside)
    found = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while data := os.read(terminal, 1 << 16):
            found += data
    os.close(terminal)
    return process.wait(), found.decode()


def test_a_terminal_shows_a_bar_and_the_result(tmp_path):
    code, text = on_a_terminal(200, tmp_path, "-m", "mnist_jax", *SMOKE, "--workdir", "run")
    assert code == 0, text
    # Epoch, steps of all, rate, time left, loss and both accuracies.
    bar = r"epoch \d/2 +\d+% .+ \d+/32, +[\d.]+ steps/s, \d+:\d+ left, loss [^\r\n]*"
    assert re.search(bar, text)
    assert not any(map(COLOUR.search, re.findall(bar, text)))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    result = strict_json(tmp_path / "run/result.json")
    assert f"accuracy {result['test_accuracy']:.2%} of 512 images" in plain
    assert " report run" in plain
    assert "\x1b[?25l" not in text  # a cursor that is hidden stays so when the process is killed


# Several commands in one process, each with its own width of the terminal.
SESSION = """
import fcntl, json, os, struct, sys, termios
from mnist_jax.cli.main import main

for columns, environ, args in json.loads(sys.argv[1]):
    os.environ.update(environ)
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    print(f"{main(args)}\\0", end="", flush=True)
"""


@pytest.mark.slow
def test_a_terminal_may_be_narrow_or_without_colours_and_errors_are_one_line(smoke_run):
    again, wrong = [*SMOKE, "--workdir", smoke_run.name], ["train", "--epochs", "many"]
    steps = [(60, {}, again), (200, {}, [*again, "--quiet"]), (20, {}, wrong), (80, {}, wrong)]
    steps += [(200, {"NO_COLOR": "1"}, again)]
    code, text = on_a_terminal(80, smoke_run.parent, "-c", SESSION, json.dumps(steps))
    assert code == 0, text
    narrow, quiet, *errors, plain, end = text.split("\0")
    assert (quiet, end, narrow[-1], plain[-1]) == ("0", "", "0", "0")
    assert f" report {smoke_run.name}" in narrow
    assert not COLOUR.search(plain)
    for error in errors:
        assert re.fullmatch("error: [^\n\x1b]*--epochs[^\n\x1b]*\n2", error.replace("\r", ""))


def test_the_proposed_commands_can_be_called(tmp_path, monkeypatch, capsys):
    result: Any = {"seconds": {"total": 1.0}, "test_loss": 0.5, "test_accuracy": 0.5}
    for path, called, expected in (
        (Path(sys.executable).parent, "mnist-jax", "mnist-jax"),
        ("/nowhere", ".venv/bin/mnist-jax", ".venv/bin/mnist-jax"),
        ("/nowhere", "/x/mnist_jax/__main__.py", "python -m mnist_jax"),
    ):
        monkeypatch.setenv("PATH", str(path))
        monkeypatch.setattr(sys, "argv", [called])
        show_result(tmp_path / "a run", result)
        assert f"next: {expected} report '{tmp_path}/a run'" in capsys.readouterr().out


@pytest.mark.parametrize("installed", [True, False])
def test_the_last_line_names_a_next_command_that_is_installed(
    smoke_run, tmp_path, monkeypatch, capsys, installed
):
    monkeypatch.setattr(extras, "has_extra", lambda _: installed)
    run, stablehlo = str(smoke_run), f"{tmp_path}/a.stablehlo"
    after = f"report {run}" if installed else f"predict IMAGES --workdir {run}"
    for command, expected in {
        f"evaluate {run}": after,
        f"predict --workdir {run} --output {tmp_path}/a.npz": after,
        f"export {run} --format stablehlo --output {stablehlo}": f"described in {stablehlo}.md",
        "summary": "mnist-jax train, with the same options",
        "recipes": "mnist-jax train --config NAME",
    }.items():
        assert main(command.split()) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("next: "), command
        assert last.endswith(expected), command


def test_wrong_names_come_before_a_difference_to_the_workdir(smoke_run, capsys):
    for option, expected in {
        "--data.dataset=MNIST": "there is no dataset 'MNIST' (did you mean mnist?)",
        "--model.name=CNN": "model.name is 'CNN'; expected one of cnn",
    }.items():
        assert main(["train", option, f"--workdir={smoke_run}"]) == 2
        assert capsys.readouterr().err.startswith(f"error: {expected}")


@pytest.mark.parametrize("rate", ["1", "1e-9"])
def test_a_run_that_has_learned_nothing_says_so_in_place_of_what_comes_next(tmp_path, capsys, rate):
    options = [*options_of(TINY), "--epochs=4", f"--workdir={tmp_path}"]
    for _ in range(2):  # when it is trained, and when it is complete
        assert main(["train", *options, f"--optimizer.learning-rate={rate}"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-2].startswith("note: it has learned nothing: test accuracy ")
        advice = "try a lower --optimizer.learning-rate, and check that the labels are right"
        assert lines[-1] == advice
        assert not any(line.startswith("next") for line in lines)


def test_an_overfit_network_gets_other_advice_than_one_that_has_learned_nothing(tmp_path, capsys):
    result: Any = {"test_loss": 1.28, "test_accuracy": 0.66}
    show_result(tmp_path, result | {"guessing": {"loss": math.log(3), "accuracy": 0.34}})
    note, advice = capsys.readouterr().out.splitlines()
    assert note.startswith("note: it is surer than it is right: test accuracy 66.00%")
    assert advice.startswith("try fewer --epochs")


@pytest.mark.parametrize(("count", "batch"), [(72, " --batch-size 2"), (2560, "")])
def test_import_proposes_a_batch_size_for_few_images_and_a_workdir(
    tmp_path, monkeypatch, capsys, count, batch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    x, y = np.zeros((count, 4, 4), np.uint8), np.arange(count) % 3
    x[:, 0, 0] = 255
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    assert main(["import", "mine", str(tmp_path / "x.npz")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f" train --data.dataset mine{batch} --workdir runs/mine")


@pytest.mark.slow
def test_a_name_that_standard_output_has_no_letters_for_is_spelled(tmp_path, command, smoke_run):
    workdir = shutil.copytree(smoke_run, tmp_path / "é")
    done = command(*SMOKE, "--workdir", workdir, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\xe9" in done.stdout


@pytest.mark.slow
def test_quiet_is_silent_but_for_warnings_and_errors(tmp_path, capfd):
    workdir = str(tmp_path / "run")
    assert main([*SMOKE, "--workdir", workdir, "--quiet"]) == 0
    assert main(["evaluate", "--workdir", workdir, "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    assert main(["evaluate", "--workdir", str(tmp_path / "nowhere"), "--quiet"]) == 2
    assert capfd.readouterr().err.startswith("error: there is no trained network")
    newest = max((tmp_path / "run" / "checkpoints").iterdir(), key=lambda path: int(path.name))
    next((newest / "variables").glob("*.ocdbt")).write_bytes(b"")
    assert main(["evaluate", "--workdir", workdir, "--quiet"]) == 0
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert re.match("warning: the checkpoint .* is damaged .*ocdbt does not match SHA256SUMS", err)


@pytest.fixture
def answer(smoke_run, tmp_path, monkeypatch, capfd):
    """Runs a command with --json beside a finished run in run/, and returns the answer."""
    shutil.copytree(smoke_run, tmp_path / "run")
    monkeypatch.chdir(tmp_path)

    def run(*args: str, code: int = 0):
        assert main([*args, "--json"]) == code
        out, err = capfd.readouterr()
        assert err == ""
        return json.loads(out)

    return run


def test_commands_answer_in_json(answer):
    trained = answer(*SMOKE, "--workdir", "new")
    assert trained == {"workdir": "new"} | strict_json(Path("new/result.json"))
    assert answer(*SMOKE, "--workdir", "run")["params_sha256"] == trained["params_sha256"]
    measured = answer("evaluate", "--workdir", "run")
    assert measured["accuracy"] == trained["test_accuracy"]
    assert sum(layer["params"] for layer in answer("summary")) == 347_146
    written = answer("predict", "--workdir", "run", "--output", "p.npz")
    assert written == {"output": "p.npz", "shape": [512, 10]}
    many = answer("population", *SMOKE[1:], "--epochs", "1", "--seeds", "2", "--workdir", "two")
    assert many["seeds"] == [0, 1]


@pytest.mark.slow
def test_more_commands_answer_in_json(answer):
    options = ("--format", "stablehlo", "--output", "net.stablehlo")
    exported = answer("export", "--workdir", "run", *options)
    assert exported["card"] == strict_json(Path("net.stablehlo.json"))
    assert answer("verify", "--workdir", "run") == {"same_bits": True, "differences": []}
    history = Path("run/metrics.jsonl")
    changed = history.read_text("utf-8").replace('"val_loss": ', '"val_loss": 1', 1)
    history.write_text(changed, encoding="utf-8")
    found = answer("verify", "--workdir", "run", code=4)
    assert not found["same_bits"]
    assert len(found["differences"]) == 1
