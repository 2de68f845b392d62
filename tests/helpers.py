"""Helpers of the tests: small recipes, contents of work directories, stops, processes."""

import collections
import contextlib
import dataclasses
import importlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn

from mnist_jax import Config
from mnist_jax.compiled import _programs
from mnist_jax.config import DataConfig, ModelConfig
from mnist_jax.datasets.info import DataInfo
from mnist_jax.events import Chunk, Event, Listener
from mnist_jax.models import create_model
from mnist_jax.processes.signals import Stopped
from mnist_jax.progress import console
from mnist_jax.training import Run
from mnist_jax.workdir.hashing import tree_sha256
from mnist_jax.workdir.history import read_history, without_times
from mnist_jax.workdir.origin import Origin
from mnist_jax.workdir.trained import Trained

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
RECIPES = ROOT / "configs"

# jax.enable_x64 is new in 0.8; the older spelling is gone from 0.10.
_x64_home = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
enable_x64 = _x64_home.enable_x64

# 1,024 training images, 8 steps per epoch; 256 validation images.
SMALL = Config(
    epochs=2,
    batch_size=128,
    chunk_steps=4,
    data=DataConfig(train_split="train[:1280]", test_split="test[:500]"),
)
# 512 images and a small network: also 8 steps per epoch, in chunks of 4.
TINY = dataclasses.replace(
    SMALL,
    batch_size=64,
    data=DataConfig(train_split="train[:640]", test_split="test[:200]"),
    model=ModelConfig(features=4, hidden_size=16),
)


def create_reference(**fields: float | str) -> nn.Module:
    num_classes = fields.pop("num_classes", 10)
    return create_model(num_classes=num_classes, **vars(ModelConfig(**fields)))  # type: ignore[arg-type]


def trained_network(
    model: nn.Module, variables: Any, info: DataInfo, config: Config = SMALL
) -> Trained:
    """Wraps a network as if it had been trained for 3,750 updates."""
    examples = {"train": 48_000, "validation": 12_000, "test": 10_000}
    return Trained(config, model, variables, 3750, Origin({}, "b" * 64, info, examples, {}))


def some_slow(quick: Iterable[Any], names: Iterable[Any]) -> list[Any]:
    """Returns parameters for a test, those that are not quick marked as slow."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


def strict_json(path: Path) -> Any:
    """Reads JSON, and fails on NaN."""
    return json.loads(path.read_text("utf-8"), parse_constant=lambda x: pytest.fail(f"{path}: {x}"))


def write_recipe(path: Path, config: Config) -> Path:
    """Writes a config as a recipe file, or as config.json of a work directory; returns its path."""
    path.write_text(json.dumps(dataclasses.asdict(config)), encoding="utf-8")
    return path


def rows(workdir: Path) -> list[dict[str, Any]]:
    return [without_times(row) for row in read_history(workdir)]


def results(run: Run) -> list[dict[str, Any]]:
    return [without_times(values) for values in (run.result, *run.history)]


def bits(root: Path) -> dict[str, Any]:
    """Reads everything that finished runs left below `root`, without times and random names."""
    found: dict[str, Any] = dict.fromkeys(listing(root), "is there")
    for path in root.rglob("*.json*"):
        name = str(path.relative_to(root))
        if path.name in ("config.json", "result.json", "population.json"):
            found[name] = without_times(strict_json(path))
        elif path.name == "metrics.jsonl":
            found[name] = rows(path.parent)
    for item in sorted(root.glob("**/checkpoints/*/*/_METADATA")):
        with ocp.StandardCheckpointer() as checkpointer:
            arrays = checkpointer.restore(item.parent)
        found[str(item.parent.relative_to(root))] = tree_sha256(arrays)
    return found


def listing(root: Path) -> list[str]:
    """Lists the paths below `root`, with Orbax's random names replaced."""
    paths = (str(path.relative_to(root)) for path in root.rglob("*"))
    return sorted({re.sub(r"/d/[0-9a-f]{32}$", "/d/*", path) for path in paths})


def contents(root: Path) -> dict[Path, str | bytes | None]:
    """Reads a directory's files as bytes and links as their targets."""
    found: dict[Path, str | bytes | None] = {}
    for path in root.rglob("*"):
        if path.is_symlink():
            found[path] = str(path.readlink())
        else:
            found[path] = path.read_bytes() if path.is_file() else None
    return found


def times(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


@contextlib.contextmanager
def compilations(caplog: pytest.LogCaptureFixture) -> Iterator[collections.Counter[str]]:
    """Yields counts of JAX's compilations by function, filled in at the end of the block."""
    counts: collections.Counter[str] = collections.Counter()
    jax.clear_caches()
    _programs.clear()
    with jax.log_compiles():
        yield counts
    counts.update(re.findall(r"Finished XLA compilation of (?:jit\()?(\w+)", caplog.text))


def make_files(root: Path, files: dict[str, str | bytes]) -> None:
    """Makes files; a name with a slash at its end is a directory, "@TARGET" is a link."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif content.startswith("@"):
            path.symlink_to(content[1:])
        else:
            path.write_text(content, encoding="utf-8")


def python(*args: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=cwd,
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )


def wait_until(
    condition: Callable[[], object], processes: Iterable[Any] = (), seconds: float = 120
) -> None:
    """Waits until the condition holds; fails if a process ends first, or after some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it hangs"
        time.sleep(0.005)


def at_chunk(number: int, happen: Callable[[], object]) -> Listener:
    """Returns a listener that calls `happen` while a chunk of the training (from 1) is computed."""
    computed = itertools.count(1)

    def listen(event: Event) -> None:
        if isinstance(event, Chunk) and next(computed) == number:
            happen()

    return listen


def stop_after(chunks: int, run: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Runs `train` or `population` until a signal in the last of some chunks."""
    stop = at_chunk(chunks, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped, match="stopped by SIGTERM at step"):
        run(*args, listeners=[console(), stop], **options)
