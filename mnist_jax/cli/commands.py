"""The commands: what each takes from the command line, and the one function that it calls."""

import contextlib
import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from mnist_jax.cli.doctor import Finding, doctor
from mnist_jax.config import LARGEST, Config
from mnist_jax.console import console, show_result
from mnist_jax.datasets import load_splits
from mnist_jax.datasets.importing import describe, import_dataset
from mnist_jax.evaluate import evaluate
from mnist_jax.exporting.export import export
from mnist_jax.laboratory.comparison import check_pairs, compare, comparison_line
from mnist_jax.laboratory.members import create_members, identity
from mnist_jax.laboratory.population import population, read_population
from mnist_jax.laboratory.sweep import load_search_space, sweep
from mnist_jax.laboratory.verify import verify
from mnist_jax.models import create_model
from mnist_jax.network import as_network, load_network
from mnist_jax.predict import predict_files
from mnist_jax.processes.group import joined
from mnist_jax.reporting.report import report
from mnist_jax.reporting.summary import format_table, summarize
from mnist_jax.reporting.tensorboard import tensorboard
from mnist_jax.serving.serve import serve
from mnist_jax.train import train
from mnist_jax.workdir.files import atomic_file
from mnist_jax.workdir.trained import load_trained, own_splits

DIFFERENT = 4  # the exit code of `verify` and `doctor`: something is not as it should be

# The fields of a recipe are options of their own, without a prefix: --epochs, --data.dataset.
Recipe = Annotated[Config, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True)
class Common:
    """The options of every command."""

    no_compilation_cache: bool = False
    """Compile anew. Otherwise compiled programs are kept in the user's cache directory."""
    debug: bool = False
    """Show the traceback of an error."""
    quiet: bool = False
    """Print warnings and errors only."""
    json: bool = False
    """Print the result as JSON, and nothing else on standard output."""

    def run(self) -> Any:
        """Does it, prints what people read, and returns what `--json` prints."""
        raise NotImplementedError

    def exit_code(self, result: Any) -> int:  # noqa: ARG002
        """The exit code, where `run` has returned."""
        return 0

    def joined(self) -> contextlib.AbstractContextManager[bool]:
        """What `run` is called in; tells whether this process is the first, or the only one."""
        return contextlib.nullcontext(True)


@dataclass(frozen=True)
class Distributed:
    """Several processes as one, on one machine or many: start the same command in each.

    Slurm, Open MPI, GKE and Cloud TPU tell their processes what stands here.
    """

    coordinator: str | None = None
    """HOST:PORT, where process 0 waits for the others."""
    num_processes: int | None = None
    """How many there are; 1: this one is alone, whatever started it."""
    process_id: int | None = None
    """The number of this one, from 0."""


@dataclass(frozen=True, kw_only=True)
class SeveralProcesses(Common):
    """The options of a command that several processes can run as one."""

    distributed: Distributed = field(default_factory=Distributed)

    def joined(self) -> contextlib.AbstractContextManager[bool]:
        return joined(**vars(self.distributed))


@dataclass(frozen=True)
class Train(SeveralProcesses):
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

    def run(self) -> dict[str, Any]:
        workdir = self.workdir or Path("runs", self.config.stem if self.config else "default")
        with contextlib.ExitStack() as stack:
            listeners = [stack.enter_context(console())]
            if self.tensorboard:
                listeners.append(stack.enter_context(tensorboard(workdir)))
            run = train(self.recipe, workdir, overwrite=self.overwrite, listeners=listeners)
        show_result(workdir, run.result)
        return {"workdir": str(workdir), **run.result}


@dataclass(frozen=True)
class Evaluate(SeveralProcesses):
    """Measure a trained network, or several as an ensemble, on a split of their dataset."""

    workdir: tuple[Path, ...]
    """A directory that `train` has written; of several the probabilities are averaged."""
    split: Literal["test", "validation", "train"] = "test"
    """Which examples."""
    step: str = "latest"
    """A saved step, latest, or best (by validation accuracy)."""

    def run(self) -> dict[str, Any]:
        found = evaluate(self.workdir, self.split, self.step)
        print(
            f"{self.split} loss {found['loss']:.4f}  accuracy {found['accuracy']:.2%} of "
            f"{found['count']:,} images  ({_steps(found['step'])})"
        )
        return found


@dataclass(frozen=True)
class Predict(Common):
    """Classify image files of any kind; or write the answers for a split's images to a file."""

    images: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Image files: photographs, scans, drawings."""
    workdir: Path = Path("runs/default")
    """A directory that `train` has written."""
    model: Path | None = None
    """A file that `export` has written, in place of a workdir."""
    show: bool = False
    """Write FILE.seen.png beside each image: it, and what the network is given."""
    output: Path | None = None
    """An .npz file for a split: probabilities [N, classes], classes [N], the true labels [N], and
    the names of the classes."""
    split: Literal["test", "validation", "train"] = "test"
    """Which examples go to --output."""
    step: str = "latest"
    """A saved step, latest, or best (by validation accuracy)."""

    def run(self) -> list[dict[str, Any]] | dict[str, Any]:
        if bool(self.images) == bool(self.output):
            raise ValueError("give image files, or --output FILE.npz for those of a split")
        if self.output is None:
            network = load_network(self.model or self.workdir, self.step)
            found = predict_files(network, self.images, show=self.show)
            print(*map(str, found), sep="\n")
            return [answer._asdict() for answer in found]
        if self.show:
            raise ValueError("--show is for image files, not for --output")
        if self.model:
            raise ValueError("--output needs --workdir, which names the dataset, not --model")
        return self._write_split(self.output)

    def _write_split(self, output: Path) -> dict[str, Any]:
        if output.suffix != ".npz":
            raise ValueError(f"--output must end in .npz, got {output}")
        if not output.parent.is_dir():
            raise FileNotFoundError(f"--output: there is no directory {output.parent}")
        trained = load_trained(self.workdir, self.step)
        splits, names = own_splits(trained)
        images, labels = splits[self.split]
        probabilities, classes = as_network(trained).predict(images)
        with atomic_file(output) as file:
            np.savez(
                file,
                probabilities=probabilities,
                classes=classes,
                labels=labels,
                names=np.array(names),
            )
        print(f"{output}: probabilities {list(probabilities.shape)}, classes, labels, names")
        return {"output": str(output), "shape": list(probabilities.shape)}


@dataclass(frozen=True)
class Import(Common):
    """Make a dataset of your own images: then train with --data.dataset NAME."""

    name: tyro.conf.Positional[str]
    """Of the dataset: lower-case letters, digits and underscores."""
    source: tyro.conf.Positional[tuple[Path, ...]]
    """IDX files (or their directory), an .npz, a CSV, or a folder with a folder of images a class;
    or two of a kind, named train and test."""
    size: tuple[int, int] | None = None
    """Height and width: of images in a CSV that are not square; image files are scaled to it."""
    channels: Literal[1, 3] | None = None
    """1: image files become grey; 3: colour (default: as they are)."""
    pixel_range: tuple[float, float] | None = None
    """What is black and what is white, where pixels are not 8 bits (default: from the data)."""
    test_fraction: float = 0.2
    """The part kept for the test, where the source has none."""
    seed: int = 0
    """Draws the test images, where the source has none."""
    overwrite: bool = False
    """Replace a dataset that was imported under this name."""

    def run(self) -> dict[str, Any]:
        imported = import_dataset(
            self.name,
            self.source,
            size=self.size,
            channels=self.channels,
            pixel_range=self.pixel_range,
            test_fraction=self.test_fraction,
            seed=self.seed,
            overwrite=self.overwrite,
        )
        print(*describe(imported), sep="\n")
        return imported._asdict() | {"path": str(imported.path)}


@dataclass(frozen=True)
class Export(Common):
    """Write a trained network as one file that runs without this package."""

    output: Path
    """The file; FILE.json and FILE.md beside it are its model card."""
    format: Literal["stablehlo", "onnx"]
    """For JAX alone, or for ONNX Runtime and others."""
    workdir: Path = Path("runs/default")
    """A directory that `train` has written."""
    step: str = "latest"
    """A saved step, latest, or best (by validation accuracy)."""

    def run(self) -> dict[str, Any]:
        card = export(self.workdir, self.output, format=self.format, step=self.step)
        print(f"{self.output}: {self.output.stat().st_size:,} bytes, card: {self.output}.md")
        return {"output": str(self.output), "card": card}


@dataclass(frozen=True)
class Report(Common):
    """Write a page about a trained network, or a comparison of several: one HTML file."""

    workdir: tuple[Path, ...] = (Path("runs/default"),)
    """A directory that `train` has written, or several."""
    output: Path | None = None
    """The .html file (default: report.html in the workdir; of several, comparison.html here)."""

    def run(self) -> dict[str, Any]:
        written = report(self.workdir, self.output)
        print(written.verdict)
        print(f"{written.path}: {written.path.stat().st_size:,} bytes; open it in a browser")
        return {"page": str(written.path), "networks": written.networks}


@dataclass(frozen=True)
class Serve(Common):
    """Serve a page to draw on, where the network says what it sees; and a JSON API."""

    workdir: Path = Path("runs/default")
    """A directory that `train` has written."""
    step: str = "latest"
    """A saved step, latest, or best (by validation accuracy)."""
    host: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0 lets anyone on the network use the page."""
    port: int = 8000
    """0: any that is free."""

    def run(self) -> None:
        if self.quiet or self.json:
            raise ValueError(
                "serve prints where it listens: --quiet and --json are for the other commands"
            )
        serve(self.workdir, self.step, host=self.host, port=self.port)


@dataclass(frozen=True)
class Summary(Common):
    """Print the layers of the network: output shapes, parameters, FLOPs, and their purpose."""

    recipe: Recipe
    config: Path | None = None
    """A recipe, such as configs/default.py; the options below change single fields of it."""
    image_shape: tuple[int, int, int] | None = None
    """Height, width and channels (default: those of the dataset)."""
    num_classes: int | None = None
    """How many classes (default: those of the dataset)."""

    def run(self) -> list[dict[str, Any]]:
        image_shape, num_classes = self.image_shape, self.num_classes
        if image_shape is None or num_classes is None:
            splits, label_names = load_splits(**vars(self.recipe.data))
            image_shape = image_shape or splits["train"].images.shape[1:]
            num_classes = len(label_names) if num_classes is None else num_classes
        for name, sizes in (("image-shape", image_shape), ("num-classes", (num_classes,))):
            if not all(1 <= size <= LARGEST for size in sizes):
                raise ValueError(f"--{name} must be 1 to {LARGEST}, got {sizes}")
        model = create_model(num_classes=num_classes, **vars(self.recipe.model))
        layers = summarize(model, image_shape)
        print(format_table(layers, image_shape))
        return [layer._asdict() for layer in layers]


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

    def run(self) -> dict[str, Any]:
        name = self.config.stem if self.config else "default"
        workdir = self.workdir or Path("runs", f"{name}-population")
        vary = _varied(self.vary)
        other = read_population(self.against) if self.against else None
        if other:
            check_pairs(other, identity(create_members(self.recipe, self.seeds, vary)))
        result = population(
            self.recipe, workdir, seeds=self.seeds, vary=vary, overwrite=self.overwrite
        )
        if other:
            print(f"A is {self.against}, B is {workdir}")
            for split in ("validation", "test"):
                print(comparison_line(compare(other, result), split))
        return result


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

    def run(self) -> list[dict[str, Any]]:
        trials = sweep(
            self.recipe,
            load_search_space(self.config),
            self.workdir or Path("runs", f"{self.config.stem}-sweep"),
            trials=self.trials,
            storage=self.storage,
        )
        return [
            {
                "number": trial.number,
                "state": trial.state.name.lower(),
                "val_accuracy": trial.value,
                "fields": trial.params,
            }
            for trial in trials
        ]


@dataclass(frozen=True)
class Verify(Common):
    """Train a finished run again, in a temporary place, and say whether the bits agree."""

    workdir: Path
    """A directory that `train` has written."""

    def run(self) -> dict[str, Any]:
        differences = verify(self.workdir)
        for line in differences:
            print(f"in {self.workdir} {line}")
        print(f"the bits {'differ' if differences else 'agree'}")
        return {"same_bits": not differences, "differences": differences}

    def exit_code(self, result: Any) -> int:
        return 0 if result["same_bits"] else DIFFERENT


@dataclass(frozen=True)
class Doctor(Common):
    """Tell what works here: accelerator, versions, devices, data, caches; and what to mend."""

    def run(self) -> dict[str, Any]:
        findings = []
        for finding in doctor():
            print(_line(finding))  # at once: the next one may take a while
            findings.append(finding)
        problems = sum(finding.problem for finding in findings)
        print(f"{problems} to mend, marked with !" if problems else "All that is needed works.")
        return {"works": not problems, "findings": [finding._asdict() for finding in findings]}

    def exit_code(self, result: Any) -> int:
        return 0 if result["works"] else DIFFERENT


COMMANDS: dict[str, type[Common]] = {
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "report": Report,
    "serve": Serve,
    "import": Import,
    "export": Export,
    "summary": Summary,
    "population": Population,
    "sweep": Sweep,
    "verify": Verify,
    "doctor": Doctor,
}
WRITERS = ("train", "population", "sweep")  # these go on where they were stopped


def create_parser(recipe: Config) -> Any:
    """Returns what tyro parses: one of the commands, with a recipe's values as defaults."""
    defaults = {
        Train: Train(recipe),
        Summary: Summary(recipe),
        Population: Population(recipe, tyro.MISSING),
        Sweep: Sweep(recipe, tyro.MISSING, tyro.MISSING),
    }
    commands: list[Any] = []
    for name, command in COMMANDS.items():
        default = {"default": defaults[command]} if command in defaults else {}
        commands.append(Annotated[command, tyro.conf.subcommand(name, **default)])
    return functools.reduce(operator.or_, commands)


def _steps(step: int | list[int]) -> str:
    if isinstance(step, int):
        return f"step {step}"
    return f"{len(step)} networks, steps {', '.join(map(str, step))}"


def _line(finding: Finding) -> str:
    """A line for the terminal, and one below for what to do."""
    lines = [f"{'!' if finding.problem else ' '} {finding.what:<19} {finding.value}"]
    if finding.advice:
        lines.append(f"{'':>19}-> {finding.advice}")
    return "\n".join(map(printable, lines))


def printable(line: str) -> str:
    """Spells out what a terminal would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


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
