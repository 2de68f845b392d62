"""Runs `python -m mnist_jax train`, disturbs it, and checks whether any bit was lost.

shim.c, preloaded, numbers every change that the command makes below a directory. It can kill the
command at any of them, or let them fail as a full disk does.
"""

import atexit
import functools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import helpers
import subprocesses
from subprocesses import BEST_EPOCH, EPOCHS, STEPS_PER_EPOCH

from mnist_jax.workdir.hashing import tree_sha256
from mnist_jax.workdir.trained import load_trained

OPTIONS = [*subprocesses.OPTIONS, "--checkpoint.every-steps=2"]
HERE = Path(__file__).parent
COMPILER = os.environ.get("CC", "cc")
LIMIT = 600.0  # seconds after which the command hangs; it needs 3

KILLED = -signal.SIGKILL

# Why none of this can run here, or nothing.
MISSING = "" if shutil.which(COMPILER.split()[0]) else f"there is no C compiler {COMPILER} here"
if sys.platform != "linux" or sys.maxsize < 2**32:
    MISSING = "shim.c is for 64-bit Linux"


class Outcome(NamedTuple):
    """The command's end, the changes that it made, and the seconds since the first of them."""

    code: int | None  # None: it hung
    stdout: str
    stderr: str
    calls: list[str]  # "write /path", in order
    seconds: float


class Undisturbed(NamedTuple):
    bits: dict[str, Any]
    outcome: Outcome


@functools.cache
def scratch() -> Path:
    """Makes this process's temporary directory for the shim and the undisturbed run."""
    directory = Path(tempfile.mkdtemp(prefix="mnist_jax_faults_"))
    atexit.register(shutil.rmtree, directory)
    return directory


@functools.cache
def shim() -> Path:
    library, options = scratch() / "mnist_jax_shim.so", ["-Wall", "-Wextra", "-shared", "-fPIC"]
    subprocess.run([*COMPILER.split(), *options, "-o", library, HERE / "shim.c"], check=True)
    return library


def environment(root: Path, log: Path, **fault: str) -> dict[str, str]:
    """Returns the environment that logs, and disturbs, a program's changes below `root`."""
    return os.environ | {
        # Its path would end at a space.
        "LD_PRELOAD": shim().name,
        "LD_LIBRARY_PATH": f"{shim().parent}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":"),
        "FAULT_ROOT": str(root),
        "FAULT_LOG": str(log),
        "JAX_PLATFORMS": "cpu",  # the promise is about the CPU
        **fault,
    }


def train_command(root: Path) -> list[str]:
    return [sys.executable, "-m", "mnist_jax", "train", *OPTIONS, "--workdir", str(root / "run")]


def run(root: Path, fault: dict[str, str], kill_after: float | None = None) -> Outcome:
    """Runs the command until it ends, or until `kill_after` seconds after its first change.

    `root` holds the workdir and nothing else; `fault` has environment variables of shim.c.
    """
    root.mkdir(exist_ok=True)
    log = root.with_name(f"{root.name}.log")
    log.unlink(missing_ok=True)
    with subprocess.Popen(
        train_command(root),
        cwd=HERE.parents[1],  # this package, not an installed one
        env=environment(root, log, **fault),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        limit = time.monotonic() + LIMIT
        while not (log.exists() and log.stat().st_size) and process.poll() is None:
            assert time.monotonic() < limit, "it hangs"
            time.sleep(0.002)
        started, hung = time.monotonic(), False
        try:
            stdout, stderr = process.communicate(timeout=kill_after or LIMIT)
        except subprocess.TimeoutExpired:
            hung = kill_after is None
            process.kill()
            stdout, stderr = process.communicate()
        seconds = time.monotonic() - started
    code = None if hung else process.returncode
    return Outcome(code, stdout, stderr, read_log(log), seconds)


def read_log(log: Path) -> list[str]:
    """Reads the calls in a log, sorted by number, because threads write in any order."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    numbered = (line.split(" ", 1) for line in lines)
    return [call for _, call in sorted((int(number), call) for number, call in numbered)]


@functools.cache
def undisturbed() -> Undisturbed:
    root = scratch() / "undisturbed"
    outcome = run(root, {})
    assert (outcome.code, outcome.stderr) == (0, ""), outcome
    found = bits(root)
    epochs = [(row["epoch"], row["step"]) for row in found["run/metrics.jsonl"]]
    assert epochs == [(epoch, epoch * STEPS_PER_EPOCH) for epoch in range(1, EPOCHS + 1)]
    assert found["run/result.json"]["best_step"] == BEST_EPOCH * STEPS_PER_EPOCH
    return Undisturbed(found, outcome)


def deleted_directories() -> list[str]:
    """Lists the directories of old checkpoints deleted by the undisturbed run, in order."""
    found = []
    for call in undisturbed().outcome.calls:
        deleted = re.match(r"(?:unlink|rmdir) .*/(checkpoints/[^/]+)", call)
        # Orbax also deletes files that are not there, in the directory that it is saving to.
        if deleted and "orbax-checkpoint-tmp" not in call and deleted[1] not in found:
            found.append(deleted[1])
    assert len(found) > 2
    return found


def bits(root: Path) -> dict[str, Any]:
    """Reads all that a finished run left below `root`, also with the package itself."""
    found = helpers.bits(root)
    for step in ("latest", "best"):  # the sums of all files are checked
        trained = load_trained(root / "run", step)
        found[step] = (trained.step, tree_sha256(trained.variables))
    return found


def assert_finished(root: Path, outcome: Outcome) -> None:
    """Fails unless the command ended quietly with every bit of an undisturbed run."""
    assert (outcome.code, outcome.stderr) == (0, ""), f"{root}: {outcome._replace(calls=[])}"
    expected, found = undisturbed().bits, bits(root)
    lost = {
        name: f"{found.get(name)} instead of {expected.get(name)}"
        for name in sorted(expected | found)
        if found.get(name) != expected.get(name)
    }
    assert not lost, f"{root}: {lost}"


def random_faults(rng: random.Random) -> Iterator[tuple[dict[str, str], float | None]]:
    """Yields kills without end, half at random times, half at random calls."""
    expected = undisturbed().outcome
    while True:
        if rng.random() < 0.5:
            yield {}, rng.uniform(0, expected.seconds)
        else:
            number, side = rng.randint(1, len(expected.calls)), rng.choice(["", "+"])
            yield {"FAULT_KILL": f"{number}{side}"}, None


def kill_and_resume(root: Path, faults: Iterable[tuple[dict, Any]], kills: int) -> Counter[str]:
    """Runs the command with one fault after another until `kills` have hit, then to its end.

    A run that ends before its kill is compared with an undisturbed one, and another one begins.
    Returns the numbers of kills at random `times` and at `calls`, of `resumes` and runs `compared`.
    """
    seen, killed = Counter[str](), False
    for fault, kill_after in faults:
        outcome = run(root, fault, kill_after)
        seen["resumes"] += killed
        killed = outcome.code == KILLED
        if killed:
            seen["calls" if fault else "times"] += 1
        else:
            assert_finished(root, outcome)
            seen["compared"] += 1
            shutil.rmtree(root)
        if seen["times"] + seen["calls"] == kills:
            break
    assert_finished(root, run(root, {}))
    seen.update(("resumes", "compared"))
    return seen
