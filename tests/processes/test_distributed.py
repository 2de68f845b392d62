"""Training in several real processes on this machine, over Gloo, disturbed and resumed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import rows, stop_after, strict_json
from subprocesses import CONFIG, OPTIONS, free_port, wait_for_line

from mnist_jax import train
from mnist_jax.processes.distributed import from_first
from mnist_jax.processes.group import LOST, _waits, joined
from mnist_jax.workdir.checkpoint import check_checkpoints
from mnist_jax.workdir.hashing import tree_sha256
from mnist_jax.workdir.history import without_times
from mnist_jax.workdir.trained import load_trained

STARTED: list[subprocess.Popen[str]] = []
TESTS = Path(__file__).parents[1]


def start(
    count: int, workdir: Path, *options: str, before: str = "", waits_for_loss: object = False
) -> list[subprocess.Popen[str]]:
    """Starts `train` in several processes, after the code `before`; RANK stands for their ranks."""
    code = f"import subprocesses; subprocesses.be_process(RANK, waits_for_loss={waits_for_loss})"
    arguments = [
        *("-c", f"{code}\n{before}\nsubprocesses.run()", "train", *OPTIONS, f"--workdir={workdir}"),
        f"--distributed.coordinator=localhost:{free_port()}",
        f"--distributed.num-processes={count}",
        *("--distributed.process-id=RANK", *options),
    ]
    return [popen(rank, *arguments) for rank in range(count)]


def popen(rank: int, *arguments: str) -> subprocess.Popen[str]:
    """Starts a Python process that `end_all` ends."""
    options: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    options |= {"cwd": TESTS, "env": os.environ | {"JAX_PLATFORMS": "cpu"}, "text": True}
    filled = [argument.replace("RANK", str(rank)) for argument in arguments]
    STARTED.append(subprocess.Popen([sys.executable, *filled], **options))
    return STARTED[-1]


@pytest.fixture(autouse=True)
def end_all() -> Iterator[None]:
    """Ends all processes, even if a test fails."""
    yield
    while STARTED:
        STARTED[-1].kill()
        STARTED.pop().communicate()


def ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Waits for all, the first one last; returns exit codes, outputs and errors."""
    outcomes = []
    try:
        for process in reversed(processes):
            stdout, stderr = process.communicate(timeout=300)  # it hangs after that
            outcomes.insert(0, (process.returncode, stdout, stderr))
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return outcomes


def assert_lost(victim: int, how: str, processes: list[subprocess.Popen[str]]) -> None:
    """Fails unless the others end and name the victim, possibly among output of JAX."""
    for code, _, stderr in ends([*processes[:victim], *processes[victim + 1 :]]):
        assert code == LOST, stderr
        line = f"error: process {victim} of {len(processes)} {how}"
        assert any(said.startswith(line) for said in stderr.splitlines()), stderr


def bits(workdir: Path) -> dict[str, object]:
    """Reads a finished run without its times; `helpers.bits` cannot do so in one process."""
    return {
        "result": without_times(strict_json(workdir / "result.json")),
        "history": rows(workdir),
        "steps": check_checkpoints(workdir / "checkpoints"),
        "variables": tree_sha256(load_trained(workdir).variables),
        "files": sorted(path.name for path in workdir.iterdir()),
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provides a finished run of two processes."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    (code, stdout, stderr), other = ends(start(2, workdir))
    assert (code, stderr) == (0, "")
    assert "test loss" in stdout
    assert other == (0, "", "")  # one writes logs
    return workdir


def test_a_killed_process_ends_the_other_and_the_run_resumes_exactly(undisturbed, tmp_path):
    # In the fourth epoch: two are saved.
    kill = "if RANK == 0: subprocesses.at_chunk(7, subprocesses.kill)"
    assert_lost(0, "", start(2, tmp_path / "run", before=kill, waits_for_loss=True))
    assert not (tmp_path / "run" / "result.json").exists()
    ended = ends(start(2, tmp_path / "run"))
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert "resuming after step" in ended[0][1]
    assert bits(tmp_path / "run") == bits(undisturbed)


@pytest.mark.slow
def test_a_killed_process_ends_all_others(tmp_path):
    """Process 1 learns of the loss from the first process, its only connection."""
    kill = "if RANK == 2: subprocesses.at_chunk(3, subprocesses.kill)"
    run = tmp_path / "run"
    assert_lost(2, "", start(3, run, "--batch-size=48", before=kill, waits_for_loss=True))


@pytest.mark.slow
def test_a_process_that_hangs_is_lost(tmp_path):
    hang = """
if RANK == 0:
    subprocesses.at_chunk(3, subprocesses.wait_for_signal)
else:
    subprocesses.group.SILENT_SECONDS = 10.0
"""
    hanging, _ = processes = start(2, tmp_path / "run", before=hang, waits_for_loss=True)
    wait_for_line(hanging, "ready")
    hanging.send_signal(signal.SIGSTOP)
    assert_lost(0, "has not responded for 10 s", processes)


@pytest.mark.slow
def test_one_process_two_and_one_with_four_devices_continue_one_run(undisturbed, tmp_path, command):
    """A signal to one of the two saves and ends both."""
    stop_after(3, train, CONFIG, tmp_path)
    wait = "if RANK == 1: subprocesses.at_chunk(2, subprocesses.wait_for_signal)"
    processes = start(2, tmp_path, before=wait)
    wait_for_line(processes[1], "ready")
    processes[1].terminate()
    ended = ends(processes)
    assert [code for code, _, _ in ended] == [143, 143], ended
    assert "resuming after step 6 " in ended[0][1]
    assert "process_count is 1, not 2" in ended[0][2].splitlines()[0]
    (reason,) = {stderr.splitlines()[-1] for _, _, stderr in ended}
    assert "stopped by SIGTERM at step" in reason
    steps, damaged = check_checkpoints(tmp_path / "checkpoints")
    assert not damaged
    finished = command(
        *("train", *OPTIONS, "--workdir", tmp_path),
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    assert finished.returncode == 0, finished.stderr
    assert f"resuming after step {steps[-1]}" in finished.stdout
    assert "process_count is 2, not 1" in finished.stderr
    for row, expected in zip(rows(tmp_path), rows(undisturbed), strict=True):
        assert row["step"] == expected["step"]
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-3)
        assert row["val_accuracy"] == pytest.approx(expected["val_accuracy"], abs=0.02)


@pytest.mark.slow
def test_all_processes_refuse_if_the_first_one_refuses_or_find_the_run_complete(undisturbed):
    for code, stdout, stderr in ends(start(2, undisturbed, "--seed=7")):
        assert (code, stdout) == (2, "")
        assert "seed is 1, not 7" in stderr
    first, second = ends(start(2, undisturbed, "--json"))
    assert (first[0], json.loads(first[1])["steps"], first[2]) == (0, 16, "")
    assert second == (0, "", "")


ALIKE = "start the same command in every process"
DEVICES = "'--xla_force_host_platform_device_count=1RANK'"
OTHER_DATA = "import mnist_jax.start as start; start.data_sha256 = lambda _: 'RANK'"
LATE = """
import sys, time, mnist_jax
train = sys.modules["mnist_jax.training"]
check_alike = train.check_alike
def check_late(*args):
    try:
        check_alike(*args)
    except ValueError:
        time.sleep(3 * ({rank} == RANK))
        raise
train.check_alike = check_late
"""
DIFFERENT_OPTIONS = f"processes [1] have different options from process 0; {ALIKE}"
DIFFERENT_DATA = f"processes [1] have different data from process 0; {ALIKE}"
DIFFERENT_DEVICES = "every process must have the same number of devices, got 10, 11"
DIFFERENT = [
    ("--epochs=1RANK", "", DIFFERENT_OPTIONS),
    ("", OTHER_DATA + LATE.format(rank=0), DIFFERENT_DATA),
    ("", OTHER_DATA + LATE.format(rank=1), DIFFERENT_DATA),
    ("", f"import os; os.environ['XLA_FLAGS'] = {DEVICES}", DIFFERENT_DEVICES),
]


@pytest.mark.slow
@pytest.mark.parametrize(("option", "before", "message"), DIFFERENT)
def test_processes_with_different_options_data_or_devices_are_refused(
    option, before, message, tmp_path
):
    before = f"subprocesses.group.ALIKE_SECONDS = 300; {before}"
    for code, stdout, stderr in ends(start(2, tmp_path / "run", *option.split(), before=before)):
        assert (code, stdout, stderr) == (2, "", f"error: {message}\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("late", [0, 1])
def test_a_process_killed_while_another_leaves_is_lost(late, undisturbed):
    """One process has finished and waits for the other."""
    slow = f"""
import sys, threading, mnist_jax.progress as progress
def show(*_):
    if RANK == {late}:
        threading.Event().wait()
progress.show_result = show
leave = subprocesses.group.multihost_utils.sync_global_devices
def say_and_leave(name):
    print("leaving", file=sys.__stdout__, flush=True)
    leave(name)
subprocesses.group.multihost_utils.sync_global_devices = say_and_leave
"""
    processes = start(2, undisturbed, before=slow)
    wait_for_line(processes[1 - late], "leaving")
    processes[late].kill()
    assert_lost(late, "has ended", processes)


@pytest.mark.slow
@pytest.mark.parametrize("before", ["nothing", "a run of its own"])
def test_a_workdir_that_is_not_shared_is_refused(before, undisturbed, tmp_path):
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
        if before != "nothing":
            workdir = shutil.copytree(undisturbed, tmp_path / str(rank) / "run")
            (workdir / "result.json").unlink()
            os.utime(workdir / "config.json", (rank, rank))
    chdir = f"import os; os.chdir({str(tmp_path / 'RANK')!r}); "
    processes = start(2, Path("run"), before=chdir, waits_for_loss="RANK == 0")
    first, second = ends(processes)
    assert second[0] == 2, second
    assert "does not see the workdir" in second[2]
    assert "on a file system that all machines share" in second[2]
    assert first[0] == LOST


@pytest.mark.slow
def test_a_process_ends_when_the_others_never_join(tmp_path):
    few = "subprocesses.group.START_SECONDS, subprocesses.group.PATIENT_SECONDS = 4, 0.5"
    processes = start(2, tmp_path / "run", before=few)
    processes[0].kill()
    [(code, _, stderr)] = ends(processes[1:])
    ends(processes[:1])
    assert code == LOST
    waits, failed = stderr.splitlines()
    assert waits.startswith("warning: process 1 of 2 waits for process 0 of localhost:")
    assert "not all processes of" in failed
    assert not (tmp_path / "run").exists()


WAITS = {
    (0, 4): "process 0 of 4 waits for the other 3 of",
    (1, 2): "process 1 of 2 waits for process 0 of",
    (1, 4): "of 4 waits for process 0 and the others of",
    (): "this process waits for the others of here, 300 s at most",
}


@pytest.mark.parametrize("given", WAITS)
def test_a_process_reports_whom_it_waits_for(monkeypatch, given):
    names = ("process_id", "num_processes")
    assert WAITS[given] in _waits("here", dict(zip(names, given, strict=False)))
    if given == (1, 2):
        monkeypatch.setenv("TPU_WORKER_ID", "1")
        monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
        assert WAITS[given] in _waits("here", {})


@pytest.mark.slow
def test_an_error_in_a_script_ends_the_others_while_the_script_continues():
    """No process waits for the timeout of a silent one."""
    code = """
import subprocesses, sys, threading
subprocesses.be_process(RANK, waits_for_loss=RANK == 0)
try:
    with subprocesses.group.joined("localhost:PORT", 2, RANK):
        if RANK == 0:
            threading.Event().wait()
        raise ValueError
except ValueError:
    threading.Event().wait()
"""
    code = code.replace("PORT", str(free_port()))
    first, second = (popen(rank, "-c", code) for rank in (0, 1))
    _, stderr = first.communicate(timeout=300)
    assert (first.returncode, second.poll()) == (LOST, None)
    assert stderr.startswith("error: process 1 of 2 has ended")


@pytest.mark.slow
def test_streaming_reads_in_each_process_only_its_own_images(tmp_path, undisturbed):
    code = """
import atexit, sys
from mnist_jax.datasets.streamed import StreamedImages
read, rows = StreamedImages.__getitem__, set()
StreamedImages.__getitem__ = lambda images, index: rows.add(index.shape) or read(images, index)
atexit.register(lambda: print("shapes", sorted(rows), file=sys.stderr))
"""
    ended = ends(start(2, tmp_path / "run", "--data.loader=stream", before=code))
    assert [code for code, _, _ in ended] == [0, 0], ended
    for _, _, stderr in ended:
        shapes = stderr.splitlines()[-1]
        assert "(2, 32)" in shapes  # of a chunk of 2 steps of 64
        assert "(2, 64)" not in shapes
    results = [strict_json(run / "result.json") for run in (undisturbed, tmp_path / "run")]
    assert results[0]["params_sha256"] == results[1]["params_sha256"]


def test_a_port_in_use_is_refused():
    with socket.create_server(("", 0)) as server:
        options = {"coordinator": f"localhost:{server.getsockname()[1]}", "num_processes": 2}
        with pytest.raises(ValueError, match="in use"), joined(**options, process_id=0):
            pass


def test_a_single_process_waits_for_nobody():
    with joined(num_processes=1) as first:
        assert first
    assert from_first(lambda: [1, "a"]) == [1, "a"]


MISFITS = [
    ("localhost:1", None, None, "go together"),
    (None, 2, 0, "go together"),
    ("localhost", 2, 0, "HOST:PORT"),
    ("localhost:1", 2, 2, "process-id"),
    ("localhost:1", 0, 0, "process-id"),
]


@pytest.mark.parametrize(("coordinator", "num_processes", "process_id", "wrong"), MISFITS)
def test_options_that_do_not_fit_are_refused(coordinator, num_processes, process_id, wrong):
    with pytest.raises(ValueError, match=wrong), joined(coordinator, num_processes, process_id):
        pass
