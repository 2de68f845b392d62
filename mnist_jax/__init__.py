"""A functional training pipeline for MNIST in JAX and Flax, meant to be read and copied."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mnist_jax import clock

if TYPE_CHECKING:
    from mnist_jax.config import Config
    from mnist_jax.datasets import load_dataset
    from mnist_jax.datasets.importing import import_dataset
    from mnist_jax.evaluate import evaluate
    from mnist_jax.exporting.export import export
    from mnist_jax.laboratory.comparison import compare
    from mnist_jax.laboratory.population import population
    from mnist_jax.predict import load_network, predict
    from mnist_jax.reporting.report import report
    from mnist_jax.train import train

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
HOMES = {
    "Config": "config",
    "compare": "laboratory.comparison",
    "export": "exporting.export",
    "import_dataset": "datasets.importing",
    "load_dataset": "datasets",
    "load_network": "predict",
    "population": "laboratory.population",
    "report": "reporting.report",
}


class Package(ModuleType):
    """This package: it imports the home of a public name when the name is first used.

    So the command can handle signals before JAX is imported, which takes a second. Importing the
    submodule `mnist_jax.train` leaves `mnist_jax.train` the function; so do the others.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        home = clock.timed_import(f"{self.__name__}.{HOMES.get(name, name)}")
        setattr(self, name, getattr(home, name))
        return getattr(home, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in __all__ or not isinstance(value, ModuleType):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = Package
