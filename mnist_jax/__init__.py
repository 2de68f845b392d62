"""A functional training pipeline for MNIST in JAX and Flax, meant to be read and copied."""

import time

# isort: off
from mnist_jax import clock as clock  # first: it starts the clock that `seconds.import` reads
from mnist_jax.processes import (
    signals as signals,
)  # then: a signal ends the command, even while it imports

# isort: on
from mnist_jax.config import Config
from mnist_jax.datasets import load_dataset
from mnist_jax.datasets.importing import import_dataset
from mnist_jax.evaluate import evaluate
from mnist_jax.exporting.export import export
from mnist_jax.laboratory.comparison import compare
from mnist_jax.laboratory.population import population
from mnist_jax.network import load_network
from mnist_jax.predict import predict
from mnist_jax.reporting.report import report
from mnist_jax.train import train

clock.IMPORT_SECONDS = time.perf_counter() - clock.START
__version__ = "0.1.0"
__all__ = [
    "Config",
    "compare",
    "evaluate",
    "export",
    "import_dataset",
    "load_dataset",
    "load_network",
    "population",
    "predict",
    "report",
    "train",
]
