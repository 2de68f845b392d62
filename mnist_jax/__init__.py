"""A functional training pipeline for MNIST in JAX and Flax, to be read and copied."""

from typing import TYPE_CHECKING, Any

from mnist_jax import clock

if TYPE_CHECKING:
    from mnist_jax import events
    from mnist_jax.config import (
        AugmentConfig,
        CheckpointConfig,
        Config,
        DataConfig,
        ModelConfig,
        OptimizerConfig,
        WatchConfig,
    )
    from mnist_jax.datasets import load_dataset
    from mnist_jax.datasets.arrays import Split
    from mnist_jax.datasets.importing import import_dataset
    from mnist_jax.evaluation import evaluate
    from mnist_jax.events import (
        Begin,
        Chunk,
        Diverged,
        Done,
        Epoch,
        Event,
        Failed,
        Listener,
        Plateau,
        Save,
        Stop,
    )
    from mnist_jax.exporting.export import export
    from mnist_jax.laboratory.comparison import compare
    from mnist_jax.laboratory.population import population
    from mnist_jax.laboratory.sweep import sweep
    from mnist_jax.laboratory.verify import verify
    from mnist_jax.network import Network, load_network, predict
    from mnist_jax.program import compile_program
    from mnist_jax.progress import console
    from mnist_jax.reporting.profile import profile
    from mnist_jax.reporting.report import report
    from mnist_jax.reporting.tensorboard import tensorboard
    from mnist_jax.serving.serve import serve
    from mnist_jax.steps import train_step
    from mnist_jax.training import Run, train

__version__ = "0.2.0"
__all__ = [
    "AugmentConfig",
    "Begin",
    "CheckpointConfig",
    "Chunk",
    "Config",
    "DataConfig",
    "Diverged",
    "Done",
    "Epoch",
    "Event",
    "Failed",
    "Listener",
    "ModelConfig",
    "Network",
    "OptimizerConfig",
    "Plateau",
    "Run",
    "Save",
    "Split",
    "Stop",
    "WatchConfig",
    "compare",
    "compile_program",
    "console",
    "evaluate",
    "events",
    "export",
    "import_dataset",
    "load_dataset",
    "load_network",
    "population",
    "predict",
    "profile",
    "report",
    "serve",
    "sweep",
    "tensorboard",
    "train",
    "train_step",
    "verify",
]
NAMES = {
    "config": "AugmentConfig CheckpointConfig Config DataConfig ModelConfig OptimizerConfig "
    "WatchConfig",
    "progress": "console",
    "datasets": "load_dataset",
    "datasets.arrays": "Split",
    "datasets.importing": "import_dataset",
    "evaluation": "evaluate",
    "events": "Begin Chunk Diverged Done Epoch Event Failed Listener Plateau Save Stop",
    "exporting.export": "export",
    "laboratory.comparison": "compare",
    "laboratory.population": "population",
    "laboratory.sweep": "sweep",
    "laboratory.verify": "verify",
    "network": "Network load_network predict",
    "program": "compile_program",
    "reporting.profile": "profile",
    "reporting.report": "report",
    "reporting.tensorboard": "tensorboard",
    "serving.serve": "serve",
    "steps": "train_step",
    "training": "Run train",
}
HOMES = {name: module for module, names in NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use, so that `--help` need not import JAX."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = clock.timed_import(f"{__name__}.{HOMES.get(name, name)}")
    globals()[name] = getattr(home, name, home)  # `events` is a module
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
