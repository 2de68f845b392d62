"""What the tests share: the real MNIST, and one small training run."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
from browser import browser as browser
from flax import linen as nn

from mnist_jax import Config, train
from mnist_jax.compilation_cache import use_compilation_cache
from mnist_jax.config import DataConfig, ModelConfig
from mnist_jax.datasets import Split, load_dataset
from mnist_jax.models import create_model
from mnist_jax.train import Run

# What JAX would broadcast without a word is an error here. (Strict dtypes too would be, but Optax
# raises a float to an int32 power.)
jax.config.update("jax_numpy_rank_promotion", "raise")
use_compilation_cache()  # most tests that train compile the same programs

SMALL = Config(
    epochs=2,
    batch_size=128,
    chunk_steps=4,
    data=DataConfig(train_split="train[:1280]", test_split="test[:500]"),
)


def create_reference(**fields: float | str) -> nn.Module:
    """The reference network, with some fields changed."""
    num_classes = fields.pop("num_classes", 10)
    return create_model(num_classes=num_classes, **vars(ModelConfig(**fields)))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def mnist() -> dict[str, Split]:
    return {split: load_dataset("mnist", split) for split in ("train", "test")}


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A finished run on 1,024 images. Tests read it and leave it as it is."""
    workdir = tmp_path_factory.mktemp("small") / "run"
    return workdir, train(SMALL, workdir)


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m mnist_jax ARGS` in a process of its own."""

    def run(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mnist_jax", *map(str, args)],
            env=os.environ | env,
            capture_output=True,
            text=True,
            check=False,
        )

    return run
