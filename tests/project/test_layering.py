"""The architecture: pyproject.toml says which file may import which."""

import subprocess
from pathlib import Path

from helpers import ROOT, python


def lint(configuration: Path) -> subprocess.CompletedProcess[str]:
    """Runs import-linter in a separate process, because it configures logging."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return python("-c", code, f"--config={configuration}", "--no-cache", cwd=ROOT)


def test_files_and_folders_import_from_below_and_in_no_circle():
    done = lint(ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_import_upward_and_a_module_without_a_layer_are_found(tmp_path):
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for old, new in (('"cli",', '"training | cli",'), (" | reporting | training", "")):
        assert old in text
        text = text.replace(old, new, 1)
    upward = tmp_path / "pyproject.toml"
    upward.write_text(text, encoding="utf-8")
    done = lint(upward)
    assert done.returncode == 1
    assert "mnist_jax.laboratory is not allowed to import mnist_jax.training" in done.stdout
    assert "reporting" in done.stdout


# Every public name, whichever way its home has been imported before.
IMPORTS = """
import signal, sys
before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
import mnist_jax
slow = {"jax", "numpy"} & {*sys.modules}
assert not slow, slow
import mnist_jax.progress, mnist_jax.evaluation, mnist_jax.network, mnist_jax.training
import mnist_jax.cli.main, mnist_jax.reporting.plots
slow = {"matplotlib", "jinja2", "sklearn", "fastapi", "uvicorn", "pydantic", "tensorboardX"}
assert not slow & {*sys.modules}
assert {*mnist_jax.__all__} <= {*dir(mnist_jax)}
for name in mnist_jax.__all__:
    assert callable(getattr(mnist_jax, name)) or name in ("Event", "events"), name
from mnist_jax import *
assert console is sys.modules["mnist_jax.progress"].console
assert (events, Failed) == (sys.modules["mnist_jax.events"], events.Failed)
assert mnist_jax.train is train is sys.modules["mnist_jax.training"].train
assert mnist_jax.clock.IMPORT_SECONDS > 0
assert not hasattr(mnist_jax, "no_such_name")
assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
"""


def test_slow_libraries_are_imported_when_used_and_no_signal_handler_is_set():
    done = python("-c", IMPORTS)
    assert (done.returncode, done.stderr) == (0, "")
