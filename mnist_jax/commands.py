"""The commands: what each takes from the command line, and the one function that it calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from mnist_jax.config import LARGEST, Config
from mnist_jax.datasets import load_splits
from mnist_jax.evaluate import evaluate
from mnist_jax.history import atomic_file
from mnist_jax.models import create_model
from mnist_jax.population import population
from mnist_jax.predict import predict
from mnist_jax.summary import format_table, summarize
from mnist_jax.sweep import load_search_space, sweep
from mnist_jax.train import train
from mnist_jax.verify import verify
from mnist_jax.workdir import trained_config

DIFFERENT = 4  # the exit code of `verify` where the bits are not the same

# The fields of a recipe are options of their own, without a prefix: --epochs, --data.dataset.
Recipe = Annotated[Config, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True)
class Common:
    """The options of every command."""

    no_compilation_cache: bool = False
    """Compile anew. Otherwise compiled programs are kept in the user's cache directory."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Train(Common):
    """Train a network, or continue the unfinished run in the workdir."""

    recipe: Recipe
    config: Path | None = None
    """A recipe, such as configs/default.py; the options below change single fields of it."""
    workdir: Path | None = None
    """Where the results go (default: runs/NAME-OF-THE-RECIPE)."""
    overwrite: bool = False
    """Delete the run that is in the workdir and start anew."""
    tensorboard: bool = False
    """Also write event files for TensorBoard, to tensorboard/ in the workdir."""

    def run(self) -> None:
        name = self.config.stem if self.config else "default"
        train(
            self.recipe,
            self.workdir or Path("runs", name),
            overwrite=self.overwrite,
            tensorboard=self.tensorboard,
        )


@dataclass(frozen=True)
class Evaluate(Common):
    """Measure a trained network, or several as an ensemble, on a split of their dataset."""

    workdir: tuple[Path, ...]
    """A directory that `train` has written; of several the probabilities are averaged."""
    split: Literal["test", "validation", "train"] = "test"
    """Which examples."""
    step: str = "latest"
    """A saved step, latest, or best (by validation accuracy)."""

    def run(self) -> None:
        found = evaluate(self.workdir, self.split, self.step)
        print(
            f"{self.split} loss {found['loss']:.4f}  accuracy {found['accuracy']:.2%} of "
            f"{found['count']:,} images  ({_steps(found['step'])})"
        )


@dataclass(frozen=True)
class Predict(Common):
    """Write the probabilities and classes of a split's images to a file."""

    workdir: Path
    """A directory that `train` has written."""
    output: Path
    """An .npz file: probabilities [N, classes], classes [N] and the true labels [N]."""
    split: Literal["test", "validation", "train"] = "test"
    """Which examples."""
    step: str = "latest"
    """A saved step, latest, or best (by validation accuracy)."""

    def run(self) -> None:
        if self.output.suffix != ".npz":
            raise ValueError(f"--output must end in .npz, got {self.output}")
        if not self.output.parent.is_dir():
            raise FileNotFoundError(f"--output: there is no directory {self.output.parent}")
        config = trained_config(self.workdir)
        images, labels = load_splits(**vars(config.data))[self.split]
        probabilities, classes = predict(self.workdir, images, self.step)
        with atomic_file(self.output) as file:
            np.savez(file, probabilities=probabilities, classes=classes, labels=labels)
        print(f"{self.output}: probabilities {list(probabilities.shape)}, classes, labels")


@dataclass(frozen=True)
class Summary(Common):
    """Print the layers of the network: output shapes, parameters, FLOPs, and their purpose."""

    recipe: Recipe
    config: Path | None = None
    """A recipe, such as configs/default.py; the options below change single fields of it."""
    image_shape: tuple[int, int, int] = (28, 28, 1)
    """Height, width and channels."""

    def run(self) -> None:
        if not all(1 <= size <= LARGEST for size in self.image_shape):
            raise ValueError(f"--image-shape must be 1 to {LARGEST} each, got {self.image_shape}")
        layers = summarize(create_model(**vars(self.recipe.model)), self.image_shape)
        print(format_table(layers, self.image_shape))


@dataclass(frozen=True)
class Population(Common):
    """Train many seeds as one program: mean, deviation and interval of their accuracy."""

    recipe: Recipe
    seeds: int
    """How many, counted up from the recipe's own."""
    config: Path | None = None
    """A recipe, such as configs/default.py; the options below change single fields of it."""
    workdir: Path | None = None
    """Where the results go (default: runs/NAME-OF-THE-RECIPE-population)."""
    vary: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """FIELD=V1,V2: the values that a field takes; each with all seeds. Given again: every
    combination."""
    against: Path | None = None
    """The workdir of a finished population of the same seeds, to compare with."""
    overwrite: bool = False
    """Delete the population that is in the workdir and start anew."""

    def run(self) -> None:
        name = self.config.stem if self.config else "default"
        population(
            self.recipe,
            self.workdir or Path("runs", f"{name}-population"),
            seeds=self.seeds,
            vary=_varied(self.vary),
            overwrite=self.overwrite,
            against=self.against,
        )


@dataclass(frozen=True)
class Sweep(Common):
    """Search for better values of a recipe's fields, or continue the search in the workdir."""

    recipe: Recipe
    config: Path
    """A recipe with get_search_space(), such as configs/sweep.py; the options below change single
    fields of it."""
    trials: int
    """How many trials the search has in the end; a larger number adds to it."""
    workdir: Path | None = None
    """Where the results go (default: runs/NAME-OF-THE-RECIPE-sweep)."""
    storage: str | None = None
    """The URL of a database that several machines share (default: SQLite, in the workdir)."""

    def run(self) -> None:
        sweep(
            self.recipe,
            load_search_space(self.config),
            self.workdir or Path("runs", f"{self.config.stem}-sweep"),
            trials=self.trials,
            storage=self.storage,
        )


@dataclass(frozen=True)
class Verify(Common):
    """Train a finished run again, in a temporary place, and say whether the bits agree."""

    workdir: Path
    """A directory that `train` has written."""

    def run(self) -> int:
        differences = verify(self.workdir)
        for line in differences:
            print(f"in {self.workdir} {line}")
        print(f"the bits {'differ' if differences else 'agree'}")
        return DIFFERENT if differences else 0


Command = Train | Evaluate | Predict | Summary | Population | Sweep | Verify
COMMANDS = ("train", "evaluate", "predict", "summary", "population", "sweep", "verify")
WRITERS = ("train", "population", "sweep")  # these go on where they were stopped


def create_parser(recipe: Config) -> Any:
    """Returns what tyro parses: one of the commands, with a recipe's values as defaults."""
    return (
        Annotated[Train, tyro.conf.subcommand("train", default=Train(recipe))]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Predict, tyro.conf.subcommand("predict")]
        | Annotated[Summary, tyro.conf.subcommand("summary", default=Summary(recipe))]
        | Annotated[
            Population, tyro.conf.subcommand("population", default=Population(recipe, tyro.MISSING))
        ]
        | Annotated[
            Sweep, tyro.conf.subcommand("sweep", default=Sweep(recipe, tyro.MISSING, tyro.MISSING))
        ]
        | Annotated[Verify, tyro.conf.subcommand("verify")]
    )


def _steps(step: int | list[int]) -> str:
    if isinstance(step, int):
        return f"step {step}"
    return f"{len(step)} networks, steps {', '.join(map(str, step))}"


def _varied(options: Sequence[str]) -> dict[str, list[float]]:
    """Reads each FIELD=V1,V2 of --vary."""
    varied = {}
    for option in options:
        field, _, values = option.partition("=")
        field = field.replace("-", "_")
        try:
            numbers = [float(value) for value in values.split(",")]
        except ValueError:
            raise ValueError(f"--vary must be FIELD=V1,V2 with numbers, got {option!r}") from None
        if field in varied:
            raise ValueError(f"--vary {field} must be given once, with all its values")
        varied[field] = numbers
    return varied
