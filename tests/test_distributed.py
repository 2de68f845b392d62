"""Several processes as one: real ones on this machine, over Gloo, disturbed and continued."""

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers import SMALL

from mnist_jax import peers, train
from mnist_jax.checkpoint import check_checkpoints
from mnist_jax.distributed import from_first
from mnist_jax.hashing import tree_sha256
from mnist_jax.history import read_history, without_times
from mnist_jax.peers import LOST, joined
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.workdir import load_trained

OPTIONS = [
    *("--data.train-split", "train[:1280]", "--data.test-split", "test[:500]"),
    *("--epochs", "6", "--chunk-steps", "4"),
]
COMMAND = "from mnist_jax.cli import run; run()"


def free_port() -> int:
    """Not of those that the system gives to others meanwhile."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("localhost", random.randint(20000, 29999)))
            return probe.getsockname()[1]


def start(
    count: int, workdir: Path, *options: str, code: str = COMMAND
) -> list[subprocess.Popen[str]]:
    """Starts `train`, or another program with its arguments, in so many processes.

    In the options, and in the program, NUMBER stands for that of the process.
    """
    port = free_port()
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-c", code.replace("NUMBER", str(number))),
                *("train", *OPTIONS, "--workdir", str(workdir)),
                *("--distributed.coordinator", f"localhost:{port}"),
                *("--distributed.num-processes", str(count)),
                *("--distributed.process-id", str(number)),
                *(option.replace("NUMBER", str(number)) for option in options),
            ],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Waits for all: exit codes, what they have printed, and their errors."""
    found = []
    try:
        for process in processes:
            stdout, stderr = process.communicate(timeout=120)
            found.append((process.returncode, stdout, stderr))
    finally:
        for process in processes:
            process.kill()
    return found


def wait_for_epochs(workdir: Path, count: int, processes: list[subprocess.Popen[str]]) -> None:
    metrics, began = workdir / "metrics.jsonl", time.monotonic()
    while not metrics.exists() or metrics.read_text().count("\n") < count:
        assert all(process.poll() is None for process in processes), ends(processes)
        assert time.monotonic() - began < 120
        time.sleep(0.01)


def bits(workdir: Path) -> dict[str, object]:
    """What a finished run has left, but for times."""
    trained = load_trained(workdir, "latest", replicated(create_mesh()))
    return {
        "result": without_times(json.loads((workdir / "result.json").read_text())),
        "history": [without_times(row) for row in read_history(workdir)],
        "steps": check_checkpoints(workdir / "checkpoints"),
        "variables": tree_sha256(trained.variables),
        "files": sorted(path.name for path in workdir.iterdir()),
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Finished runs by the number of their processes."""
    runs = {}

    def run(count: int) -> Path:
        if count not in runs:
            workdir = tmp_path_factory.mktemp("undisturbed") / "run"
            found = ends(start(count, workdir))
            assert [(code, stderr) for code, _, stderr in found] == [(0, "")] * count
            assert "test accuracy" in found[0][1]
            assert [stdout for _, stdout, _ in found[1:]] == [""] * (count - 1)  # one writes logs
            runs[count] = workdir
        return runs[count]

    return run


def assert_lost(victim: int, how: str, processes: list[subprocess.Popen[str]]) -> None:
    """The others end soon, and name the victim; JAX may say something beside that."""
    began, others = time.monotonic(), [p for p in processes if p is not processes[victim]]
    found = ends(others)
    assert time.monotonic() - began < 10
    processes[victim].kill()
    ends([processes[victim]])
    for code, _, stderr in found:
        assert code == LOST, stderr
        line = f"error: process {victim} of {len(processes)} {how}"
        assert any(said.startswith(line) for said in stderr.splitlines()), stderr


@pytest.mark.parametrize(("count", "victim"), [(2, 0), (4, 3)])
def test_a_killed_process_ends_the_others_and_the_run_goes_on_to_the_same_bits(
    count, victim, undisturbed, tmp_path
):
    expected = bits(undisturbed(count))
    processes = start(count, tmp_path / "run")
    wait_for_epochs(tmp_path / "run", 3, processes)  # two are saved
    processes[victim].kill()
    assert_lost(victim, "", processes)
    assert not (tmp_path / "run" / "result.json").exists()
    found = ends(start(count, tmp_path / "run"))
    assert [code for code, _, _ in found] == [0] * count, found
    assert "continuing after step" in found[0][1]
    assert bits(tmp_path / "run") == expected


def test_a_process_that_hangs_is_lost(tmp_path):
    soon = "from mnist_jax import peers; peers.SILENT_SECONDS = 3.0; "
    processes = start(2, tmp_path / "run", "--epochs", "1000", code=soon + COMMAND)
    wait_for_epochs(tmp_path / "run", 1, processes)
    processes[0].send_signal(signal.SIGSTOP)
    assert_lost(0, "gives no sign of life for 3 s", processes)


def test_the_watch_costs_nothing(monkeypatch):
    """A sign of life is not an answer to one: two watches must not keep each other busy."""
    said = []
    monkeypatch.setattr(peers, "BEAT_SECONDS", 0.1)
    say = peers._say
    monkeypatch.setattr(peers, "_say", lambda to, what: said.append(what) or say(to, what))
    left, right = socket.socketpair()
    with left, right:
        ours, theirs = {1: left}, {0: right}
        watches = [
            threading.Thread(target=peers._watch, args=(others, threading.Event()))
            for others in (ours, theirs)
        ]
        for watch in watches:
            watch.start()
        time.sleep(1)
        ours.clear()
        theirs.clear()
        for watch in watches:
            watch.join()
    assert 4 < len(said) < 100


def test_one_process_two_and_one_with_four_devices_go_on_with_one_run(
    undisturbed, tmp_path, command
):
    """A signal to one of the two saves, and ends both."""

    def stop(row):
        if row["epoch"] == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(dataclasses.replace(SMALL, epochs=6), tmp_path, on_epoch=stop)
    processes = start(2, tmp_path)
    wait_for_epochs(tmp_path, 2, processes)
    processes[1].send_signal(signal.SIGTERM)
    found = ends(processes)
    assert [code for code, _, _ in found] == [143, 143], found
    assert "continuing after step 8 " in found[0][1]
    assert "process_count is 1, not 2" in found[0][2].splitlines()[0]
    said = {stderr.splitlines()[-1] for _, _, stderr in found}
    assert len(said) == 1, said
    assert "stopped by SIGTERM after step" in said.pop()
    steps, damaged = check_checkpoints(tmp_path / "checkpoints")
    assert not damaged
    finished = command(
        *("train", *OPTIONS, "--workdir", tmp_path),
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    assert finished.returncode == 0, finished.stderr
    assert f"continuing after step {steps[-1]}" in finished.stdout
    assert "process_count is 2, not 1" in finished.stderr
    for row, expected in zip(read_history(tmp_path), read_history(undisturbed(2)), strict=True):
        assert row["step"] == expected["step"]
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-3)
        assert row["val_accuracy"] == pytest.approx(expected["val_accuracy"], abs=0.02)


def test_what_the_first_process_refuses_all_refuse(undisturbed):
    found = ends(start(2, undisturbed(2), "--seed", "7"))
    for code, stdout, stderr in found:
        assert (code, stdout) == (2, "")
        assert "seed is 0, not 7" in stderr


def test_a_complete_run_is_complete_for_all(undisturbed):
    found = ends(start(2, undisturbed(2), "--json"))
    assert [(code, stderr) for code, _, stderr in found] == [(0, "")] * 2
    assert json.loads(found[0][1])["steps"] == 48
    assert found[1][1] == ""


def test_processes_with_other_options_are_refused(tmp_path):
    for code, stdout, stderr in ends(start(2, tmp_path / "run", "--epochs", "1NUMBER")):
        assert (code, stdout) == (2, "")
        assert stderr == (
            "error: processes [1] have other options than process 0: start the same command in "
            "every process\n"
        )
    assert not (tmp_path / "run").exists()


def test_processes_with_other_data_are_refused(tmp_path):
    other = "import mnist_jax.task as task; task.data_sha256 = lambda _: 'NUMBER'; "
    for code, _, stderr in ends(start(2, tmp_path / "run", code=other + COMMAND)):
        assert code == 2
        assert "processes [1] have other data than process 0" in stderr
    assert not (tmp_path / "run").exists()


def test_a_process_with_more_devices_is_refused(tmp_path):
    more = "import os; os.environ['XLA_FLAGS'] = "
    more += "'--xla_force_host_platform_device_count=1NUMBER'; "
    for code, _, stderr in ends(start(2, tmp_path / "run", code=more + COMMAND)):
        assert code == 2
        assert stderr == (
            "error: every process must have as many devices as the others, got 10, 11\n"
        )


@pytest.mark.parametrize("late", [0, 1])
def test_a_process_killed_while_another_leaves_is_lost(late, undisturbed):
    """One process has finished and waits for the other."""
    slow = "import time, mnist_jax.commands as commands; show = commands.show_result; "
    slow += "commands.show_result = lambda *a: "
    slow += f"NUMBER == {late} and (print('late', flush=True), time.sleep(60)); "
    slow += "from mnist_jax import cli; cli._silence = lambda: cli.contextlib.nullcontext(); "
    processes = start(2, undisturbed(2), code=slow + COMMAND)
    for line in processes[late].stdout:
        if line == "late\n":
            break
    time.sleep(1)  # in which the other one has come to its end
    processes[late].kill()
    killed = time.monotonic()
    [(code, _, stderr)] = ends(processes[1 - late : 2 - late])
    ends([processes[late]])
    assert time.monotonic() - killed < 10
    assert code == LOST
    assert stderr.splitlines()[-1].startswith(f"error: process {late} of 2 has ended")


@pytest.mark.parametrize("before", ["nothing", "a run of its own"])
def test_a_workdir_that_is_not_shared_is_told(before, undisturbed, tmp_path):
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        if before != "nothing":
            workdir = shutil.copytree(undisturbed(2), tmp_path / str(number) / "run")
            (workdir / "result.json").unlink()
            os.utime(workdir / "config.json", (number, number))
    chdir = f"import os; os.chdir({str(tmp_path / 'NUMBER')!r}); "
    first, second = ends(start(2, Path("run"), code=chdir + COMMAND))
    assert second[0] == 2, second
    assert "does not see the workdir" in second[2]
    assert "on a file system that all machines share" in second[2]
    assert first[0] == LOST


def test_processes_that_do_not_come_are_told(tmp_path):
    few = "from mnist_jax import peers; "
    few += "peers.joined.__wrapped__.__kwdefaults__['start_seconds'] = 3; "
    processes = start(2, tmp_path / "run", code=few + COMMAND)
    processes[0].kill()
    processes[0].communicate()
    [(code, _, stderr)] = ends(processes[1:])
    assert code == LOST
    assert "did not come together" in stderr
    assert len(stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_streaming_reads_in_each_process_only_its_own(tmp_path, undisturbed):
    code = COMMAND.replace("run()", "").replace("run;", "main;")
    code += "import sys, atexit; from mnist_jax.datasets.streamed import StreamedImages; "
    code += "read, rows = StreamedImages.__getitem__, []; "
    code += "StreamedImages.__getitem__ = lambda s, i: rows.append(i.shape) or read(s, i); "
    code += "code = main(); print('shapes', sorted(set(rows)), file=sys.stderr); sys.exit(code)"
    found = ends(start(2, tmp_path / "run", "--data.loader", "stream", code=code))
    assert [code for code, _, _ in found] == [0, 0], found
    for _, _, stderr in found:
        shapes = stderr.splitlines()[-1]
        assert "(4, 64)" in shapes  # of a chunk of 4 steps of 128
        assert "(4, 128)" not in shapes
    expected, streamed = bits(undisturbed(2)), bits(tmp_path / "run")
    assert streamed["variables"] == expected["variables"]


def test_a_port_in_use_is_told():
    with socket.create_server(("", 0)) as server:
        options = {"coordinator": f"localhost:{server.getsockname()[1]}", "num_processes": 2}
        with (
            pytest.raises(ValueError, match="in use"),
            joined(**options, process_id=0),
        ):
            pass


def test_alone_there_is_nothing_to_wait_for():
    with joined(num_processes=1) as first:
        assert first
    assert from_first(lambda: [1, "a"]) == [1, "a"]


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"coordinator": "localhost:1"}, "go together"),
        ({"num_processes": 2, "process_id": 0}, "go together"),
        ({"coordinator": "localhost", "num_processes": 2, "process_id": 0}, "HOST:PORT"),
        ({"coordinator": "localhost:1", "num_processes": 2, "process_id": 2}, "process-id"),
        ({"coordinator": "localhost:1", "num_processes": 0, "process_id": 0}, "process-id"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, wrong):
    with pytest.raises(ValueError, match=wrong), joined(**options):
        pass
