"""What people see: a bar and a panel on a terminal, plain lines elsewhere, nothing, or JSON."""

import contextlib
import fcntl
import json
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from mnist_jax.cli import main
from mnist_jax.commands import COMMANDS
from mnist_jax.panel import NEXT, show_result

RECIPES = Path(__file__).parent.parent / "configs"
SMOKE = ["train", "--config", str(RECIPES / "smoke.py"), "--epochs", "2", "--chunk-steps", "4"]


def on_a_terminal(columns: int, *args: str, **env: str) -> tuple[int, str]:
    """The exit code of a command, and what a terminal of so many columns gets of it."""
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_jax", *args],
        env={**os.environ, "TERM": "xterm-256color", **env},
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


def test_a_terminal_shows_a_bar_and_a_panel(tmp_path):
    workdir = str(tmp_path / "run")
    code, text = on_a_terminal(200, *SMOKE, "--workdir", workdir)
    assert code == 0, text
    bars = [line for line in re.split(r"[\r\n]+", text) if " left" in line]
    # Steps of all, rate, time left, both accuracies.
    assert any(
        re.search(r"\d+% .+ \d+/32, +[\d.]+ steps/s, \d+:\d+ left, train .*%, validation .*%", line)
        for line in bars
    )
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    panel = plain[plain.index("╭") : plain.index("╯")]
    accuracy = json.loads((tmp_path / "run" / "result.json").read_text())["test_accuracy"]
    assert f"test accuracy {accuracy:.2%}" in panel
    assert " report --workdir " in panel
    assert {*NEXT} <= {*COMMANDS}
    assert "metrics.jsonl" in panel
    assert "\x1b[1m" in text
    assert "\x1b[?25l" not in text  # a cursor that is hidden stays so when the process is killed
    _, narrow = on_a_terminal(60, *SMOKE, "--workdir", workdir)
    assert "╭" not in narrow  # a frame would break the lines that are to be copied
    assert f" verify --workdir {workdir}  # " in narrow


@pytest.mark.parametrize("columns", [20, 80])
def test_a_terminal_gets_errors_of_one_line_without_colours(columns):
    code, text = on_a_terminal(columns, "train", "--epochs", "many")
    assert code == 2
    assert text.startswith("error: ")
    assert "--epochs" in text
    assert "\x1b" not in text
    assert text.count("\n") == 1


def test_a_terminal_that_wants_no_colours_gets_none(tmp_path):
    _, text = on_a_terminal(80, *SMOKE, "--workdir", str(tmp_path / "run"), NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", text)
    code, text = on_a_terminal(80, *SMOKE, "--workdir", str(tmp_path / "run"), "--quiet")
    assert (code, text) == (0, "")


def test_elsewhere_there_are_plain_lines(tmp_path, command):
    workdir = tmp_path / "a run"
    done = command(*SMOKE, "--workdir", workdir)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isprintable() or done.stdout.replace("\n", "").isprintable()
    assert "│" not in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if " report " in line]
    assert line.startswith("next  ")
    proposed = shlex.split(line.removeprefix("next  "), comments=True)
    assert proposed[-3:] == ["report", "--workdir", str(workdir)]


def test_what_is_proposed_can_be_called(tmp_path, monkeypatch, capsys):
    """With the environment active, by its path, or as a module."""
    result = {"seconds": {"total": 1.0}, "params_sha256": "0" * 64, "test_accuracy": 0.5}
    for path, called, expected in (
        (Path(sys.executable).parent, "mnist-jax", "mnist-jax"),
        ("/nowhere", ".venv/bin/mnist-jax", ".venv/bin/mnist-jax"),
        ("/nowhere", "/x/mnist_jax/__main__.py", "python -m mnist_jax"),
    ):
        monkeypatch.setenv("PATH", str(path))
        monkeypatch.setattr(sys, "argv", [called])
        show_result(tmp_path, result)
        assert f"next  {expected} report --workdir {tmp_path} " in capsys.readouterr().out


def test_a_name_that_standard_output_has_no_letters_for_is_spelled_out(tmp_path, command):
    workdir = tmp_path / "é"
    done = command(*SMOKE, "--workdir", workdir, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\xe9: checkpoints, config.json" in done.stdout


def test_standard_error_may_be_closed():
    line = f"{sys.executable} -m mnist_jax evaluate --workdir nowhere 2>&-; echo $?"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"


def test_quiet_is_silent_but_for_warnings_and_errors(tmp_path, capfd):
    workdir = str(tmp_path / "run")
    assert main([*SMOKE, "--workdir", workdir, "--quiet"]) == 0
    assert main(["evaluate", "--workdir", workdir, "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    assert main(["evaluate", "--workdir", str(tmp_path / "nowhere"), "--quiet"]) == 2
    assert capfd.readouterr().err.startswith("error: there is no trained network")
    newest = max((tmp_path / "run" / "checkpoints").iterdir(), key=lambda path: path.name)
    next((newest / "variables").glob("*.ocdbt")).write_bytes(b"")
    assert main(["evaluate", "--workdir", workdir, "--quiet"]) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("warning: the checkpoint")


def test_every_command_can_answer_in_json(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def answer(*args: str, code: int = 0):
        assert main([*args, "--json"]) == code
        out, err = capfd.readouterr()
        assert err == ""
        return json.loads(out)

    trained = answer(*SMOKE, "--workdir", "run")
    assert trained == {"workdir": "run"} | json.loads(Path("run/result.json").read_text())
    measured = answer("evaluate", "--workdir", "run")
    assert measured["accuracy"] == trained["test_accuracy"]
    layers = answer("summary")
    assert sum(layer["params"] for layer in layers) == 347_146
    written = answer("predict", "--workdir", "run", "--output", "p.npz")
    assert written == {"output": "p.npz", "shape": [512, 10]}
    options = ("--format", "stablehlo", "--output", "net.stablehlo")
    exported = answer("export", "--workdir", "run", *options)
    assert exported["card"] == json.loads(Path("net.stablehlo.json").read_text())
    members = answer("population", *SMOKE[1:], "--seeds", "2", "--workdir", "two")
    assert members["seeds"] == [0, 1]
    assert answer("verify", "--workdir", "run") == {"same_bits": True, "differences": []}
    rows = Path("run/metrics.jsonl").read_text().splitlines()
    row = json.loads(rows[0]) | {"val_loss": 0.0}
    Path("run/metrics.jsonl").write_text("\n".join([json.dumps(row), *rows[1:], ""]))
    found = answer("verify", "--workdir", "run", code=4)
    assert not found["same_bits"]
    assert len(found["differences"]) == 1
