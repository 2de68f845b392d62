"""The shim itself: it can disturb only the calls that it sees."""

import collections
import re
import shutil
import subprocess

import harness
import pytest
from helpers import python

pytestmark = pytest.mark.skipif(bool(harness.MISSING), reason=harness.MISSING)

# One change of each kind, by absolute and relative paths, by directory and by open file.
CHANGES = """
import os, shutil
os.mkdir("a")
with open("a/one", "w") as file:
    file.write("text")
    file.flush()
    os.fsync(file.fileno())
    os.ftruncate(file.fileno(), 2)
directory = os.open("a", os.O_RDONLY)
os.link("a/one", "a/two")
os.symlink("one", os.path.abspath("a/three"))
os.rename("two", "four", src_dir_fd=directory, dst_dir_fd=directory)
open("../elsewhere", "w").close()
open("a/one").read()
shutil.rmtree("a")
"""
CALLS = ["mkdir a", "open a/one", "write a/one", "fsync a/one", "ftruncate a/one"]
CALLS += ["link a/one a/two", "symlink a/three", "rename a/two a/four"]
CALLS += [*["unlink a/*"] * 3, "rmdir a"]

# All system calls that change files, or open them: also those that shim.c does not know.
KERNEL = (
    "open|creat|p?write|rename|link|unlink|symlink|mkdir|rmdir|mknod|f?truncate|fallocate|fsync|"
    "fdatasync|sync|f?chmod|f?l?chown|f?utime|f?l?setxattr|sendfile|copy_file|splice|io_uring"
)
READING = re.compile("open(?!.*(O_WRONLY|O_RDWR|O_CREAT|O_TRUNC))|<")


def test_every_kind_of_change_is_seen_and_nothing_else(tmp_path):
    """The tests that use the shim see whether its kills and errors happen."""
    root, log = tmp_path / "root", tmp_path / "log"
    root.mkdir()
    done = python("-c", CHANGES, cwd=root, **harness.environment(root, log))
    calls = [call.replace(f"{root}/", "") for call in harness.read_log(log)]
    assert (done.returncode, done.stderr) == (0, "")
    assert [re.sub("(unlink a/).*", r"\1*", call) for call in calls] == CALLS


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="there is no strace here")
def test_the_kernel_sees_no_change_of_a_training_that_the_shim_does_not(tmp_path):
    """Detects libraries that make system calls without the C library."""
    root, log, trace = tmp_path / "root", tmp_path / "log", tmp_path / "trace"
    root.mkdir()
    options = ["-f", "--seccomp-bpf", "-qq", "-y", "-s0", "-o", str(trace)]
    done = subprocess.run(
        ["strace", *options, f"-etrace=/^({KERNEL})", *harness.train_command(root)],
        cwd=harness.HERE.parents[1],
        env=harness.environment(root, log),
        capture_output=True,
        text=True,
        check=False,
    )
    if not trace.exists() or not trace.stat().st_size:
        pytest.skip(f"strace cannot trace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr

    calls = (line.split(maxsplit=1)[1] for line in trace.read_text(encoding="utf-8").splitlines())
    below = [call for call in calls if str(root) in call and not READING.match(call)]
    kernel = collections.Counter(
        "rmdir" if "AT_REMOVEDIR" in call else re.sub(r"(at2?)?\(.*", "", call) for call in below
    )
    assert kernel == collections.Counter(call.split()[0] for call in harness.read_log(log))
