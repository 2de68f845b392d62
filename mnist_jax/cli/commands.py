"""The commands: what each takes from the command line, and the one function that it calls."""

import functools
import operator
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from mnist_jax.cli.doctor import doctor
from mnist_jax.config import Config
from mnist_jax.datasets.importing import describe, import_dataset, some
from mnist_jax.datasets.importing.sheet import as_text
from mnist_jax.datasets.importing.unlabelled import holds_rows
from mnist_jax.evaluation import evaluate
from mnist_jax.exporting.export import export
from mnist_jax.handwriting.files import FilePrediction, find_images, predict_each, write_answers
from mnist_jax.laboratory.comparison import check_pairs, compare, comparison_line
from mnist_jax.laboratory.members import create_members, identity
from mnist_jax.laboratory.population import population, read_population
from mnist_jax.laboratory.sweep import load_search_space, sweep
from mnist_jax.laboratory.verify import verify
from mnist_jax.network import Network, load_network, predict_split
from mnist_jax.parts import NONE, Parts, recipe_parts
from mnist_jax.progress import console, show_result
from mnist_jax.reporting.profile import profile
from mnist_jax.reporting.report import report
from mnist_jax.reporting.summary import format_table, summarize_recipe
from mnist_jax.reporting.tensorboard import tensorboard
from mnist_jax.serving.serve import serve
from mnist_jax.training import train
from mnist_jax.workdir.files import atomic_file
from mnist_jax.workdir.trained import trained_config

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

    def is_good(self, result: Any) -> bool:  # noqa: ARG002
        """Whether the result of `run` is what it should be."""
        return True


@dataclass(frozen=True)
class Distributed:
    """Several processes as one, on one machine or many: start the same command in each.

    Slurm, Open MPI, GKE and Cloud TPU tell their processes what stands here.
    """

    coordinator: str | None = None
    """HOST:PORT, where process 0 waits for the others."""
    num_processes: int | None = None
    """Number of processes; 1 means run alone, even under a cluster launcher."""
    process_id: int | None = None
    """Rank of this process, from 0."""


@dataclass(frozen=True, kw_only=True)
class SeveralProcesses(Common):
    """The options of a command that several processes can run as one."""

    distributed: Distributed = field(default_factory=Distributed)


@dataclass(frozen=True, kw_only=True)
class OfRecipe(Common):
    """The options of a command that takes a recipe."""

    recipe: Recipe
    config: Path | None = None
    """A recipe, such as configs/default.py; the options below change single fields of it."""

    @property
    def name(self) -> str:
        """The recipe's name, after which a workdir is called."""
        return self.config.stem if self.config else "default"


@dataclass(frozen=True, kw_only=True)
class WithParts(Common):
    """The options of a command that takes trained networks."""

    config: Path | None = None
    """The recipe of networks that were trained with parts of their own: its get_model and so on."""

    def parts(self, *workdirs: Path) -> Parts:
        """Returns the own parts of the recipe, for the config of the first run."""
        if not (self.config and workdirs):
            return NONE
        return recipe_parts(self.config, trained_config(workdirs[0]))


@dataclass(frozen=True, kw_only=True)
class OfTrained(WithParts):
    """The options of a command that takes one trained network."""

    workdir: Path = Path("runs/default")
    """A directory that `train` has written."""
    step: str = "latest"
    """A saved step, latest, or best (by the recipe's watch.monitor)."""


@dataclass(frozen=True, kw_only=True)
class Train(OfRecipe, SeveralProcesses):
    """Train a network, or continue the unfinished run in the workdir."""

    workdir: Path | None = None
    """Where the results go (default: runs/NAME-OF-THE-RECIPE)."""
    no_test: bool = False
    """Leave the test split to a later call, which measures it without retraining."""
    overwrite: bool = False
    """Delete the run that is in the workdir and retrain."""
    extend: bool = False
    """Train the run in the workdir on to more --epochs; its learning rate must be constant."""
    tensorboard: bool = False
    """Also write event files for TensorBoard, to tensorboard/ in the workdir."""
    profile: bool = False
    """Also record some steps for JAX's profiler, to profile/ in the workdir."""

    def run(self) -> dict[str, Any]:
        workdir = self.workdir or Path("runs", self.name)
        own = recipe_parts(self.config, self.recipe)
        listeners = [console()]
        if self.tensorboard:
            listeners.append(tensorboard(workdir))
        if self.profile:
            listeners.append(profile(workdir))
        run = train(
            self.recipe,
            workdir,
            **own._asdict(),
            test=not self.no_test,
            overwrite=self.overwrite,
            extend=self.extend,
            listeners=listeners,
        )
        show_result(workdir, run.result, recipe=self.config if own != NONE else None)
        return {"workdir": str(workdir), **run.result}


@dataclass(frozen=True)
class Evaluate(WithParts, SeveralProcesses):
    """Measure a trained network, or several as an ensemble, on a split of their dataset."""

    workdir: tuple[Path, ...]
    """A directory that `train` has written; of several the probabilities are averaged."""
    split: Literal["test", "validation", "train"] = "test"
    """Which examples."""
    step: str = "latest"
    """A saved step, latest, or best (by the recipe's watch.monitor)."""

    def run(self) -> dict[str, Any]:
        own = self.parts(*self.workdir)._asdict()
        del own["tx"]
        measured = evaluate(self.workdir, self.split, self.step, **own)
        more = [f"{name} {measured[name]}" for name in own["metrics"] or {}]
        steps = measured["step"]
        if isinstance(steps, list):
            networks = f"{len(steps)} networks, steps {', '.join(map(str, steps))}"
        else:
            networks = f"step {steps}"
        print(
            f"{self.split} loss {measured['loss']:.4f}  accuracy {measured['accuracy']:.2%} of "
            f"{measured['count']:,} images  ({networks})",
            *more,
            sep="  ",
        )
        return measured


@dataclass(frozen=True)
class Predict(OfTrained):
    """Classify image files, folders of them, and files of many images; or a split's images."""

    images: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Image files: photographs, scans, drawings; folders of them; a .csv, .npz, .npy or IDX file of
    images like those trained on."""
    model: Path | None = None
    """A file that `export` has written, in place of a workdir."""
    show: bool = False
    """Write FILE.seen.png beside each image: it, and what the network is given."""
    output: Path | None = None
    """A .csv file for the answers: ImageId and Label for one file of many images, else the file,
    the label, its probability, those of the runner-up, and the problem. Without images, an .npz
    file for a split: probabilities [N, classes], classes [N], the true labels [N], and the names
    of the classes."""
    split: Literal["test", "validation", "train"] = "test"
    """Which examples go to --output, without images."""
    pixel_range: tuple[float, float] | None = None
    """Black and white in a file of many images (default: from the largest value)."""

    def run(self) -> dict[str, Any] | list[dict[str, Any]]:
        if not self.images:
            return self._predict_split()
        if self.output:
            self._check_output(self.output)
        own = NONE if self.model else self.parts(self.workdir)
        network = load_network(self.model or self.workdir, self.step, model=own.model)
        files, left_out = find_images(self.images)
        if left_out:
            print(f"{len(left_out):,} left out, no images by their names: {some(left_out)}")
        if self.output is None:
            return [answer._asdict() for answer in self._answers(network, files)]
        with atomic_file(self.output) as file:
            only_rows = len(files) == 1 and holds_rows(files[0])
            count, failed = write_answers(file, self._answers(network, files), only_rows=only_rows)
        print(f"{self.output}: {count:,} answers")
        return {"output": str(self.output), "answers": count, "failed": failed}

    def _answers(self, network: Network, files: Sequence[Path]) -> Iterator[FilePrediction]:
        """Yields the answers; prints them, or where they go to a file only the failures."""
        any_good = False
        with tqdm(unit=" images", leave=False, disable=None) as bar:
            for answer in predict_each(
                network, files, show=self.show, pixel_range=self.pixel_range, note=bar.write
            ):
                if answer.failed and len(files) == 1:
                    raise ValueError(f"{answer.image} {answer.problem}")
                if answer.failed or not self.output:
                    bar.write(str(answer))
                any_good |= not answer.failed
                bar.update()
                yield answer
        if not any_good:
            raise ValueError(f"none of the {len(files):,} files can be read")

    def _check_output(self, output: Path) -> None:
        if output.suffix != ".csv":
            raise ValueError(f"--output must end in .csv for the given files, got {output}")
        if not output.parent.is_dir():
            raise FileNotFoundError(f"--output: there is no directory {output.parent}")
        if output.resolve() in [path.resolve() for path in self.images]:
            raise ValueError(f"--output would replace {output}, which is to be read")

    def _predict_split(self) -> dict[str, Any]:
        if self.output is None:
            raise ValueError("give image files, or --output FILE.npz for those of a split")
        if self.show:
            raise ValueError("--show is for image files, not for --output")
        if self.model:
            raise ValueError("--output needs --workdir, which names the dataset, not --model")
        own = self.parts(self.workdir)
        options = {"split": self.split, "step": self.step, "model": own.model, "splits": own.splits}
        shape = predict_split(self.workdir, self.output, **options)
        print(f"{self.output}: probabilities {[*shape]}, classes, labels, names")
        return {"output": str(self.output), "shape": [*shape]}

    def is_good(self, result: Any) -> bool:
        answers = result if isinstance(result, list) else [result]
        return not any(answer.get("failed") for answer in answers)


@dataclass(frozen=True)
class Import(Common):
    """Make a dataset of your own images: then train with --data.dataset NAME."""

    name: tyro.conf.Positional[str]
    """Of the dataset: lower-case letters, digits and underscores."""
    source: tyro.conf.Positional[tuple[Path, ...]]
    """IDX, .npz or .npy files (or their directory), a CSV, or a folder with a folder of images
    a class; or several of a kind, named train, validation and test."""
    size: tuple[int, int] | None = None
    """Height and width: of images in a CSV that are not square; image files are scaled to it."""
    channels: Literal[1, 3] | None = None
    """1: image files become grey; 3: colour (default: as they are)."""
    pixel_range: tuple[float, float] | None = None
    """What is black and what is white, where pixels are not 8 bits (default: from the data)."""
    label_column: str | None = None
    """Name or number (from 1) of a CSV's column of labels (default: found by its name)."""
    part: str | None = None
    """The dataset to take where IDX files hold several, such as letters of EMNIST's."""
    transpose: bool = False
    """Swap the rows and columns of all images, as EMNIST's own files need."""
    test_fraction: float = 0.2
    """The part kept for the test, where the source has none."""
    seed: int = 0
    """Draws the test images, where the source has none."""
    skip_unreadable: bool = False
    """Leave out image files that cannot be read, and list them."""
    overwrite: bool = False
    """Replace a dataset that was imported under this name."""
    show: bool = False
    """Draw the first image of each class here, too, in characters."""

    def run(self) -> dict[str, Any]:
        options = {name: value for name, value in vars(self).items() if name not in vars(Common())}
        name, source, show = (options.pop(each) for each in ("name", "source", "show"))
        imported = import_dataset(name, source, **options)
        print(*describe(imported), sep="\n")
        if show:
            print(*as_text(imported.firsts, shutil.get_terminal_size().columns), sep="\n")
        found, files = imported._asdict(), imported.source._asdict()
        del found["firsts"], files["parts"]
        return found | {"path": str(imported.path), "source": files}


@dataclass(frozen=True, kw_only=True)
class Export(OfTrained):
    """Write a trained network as one file that runs without this package."""

    output: Path
    """The file; FILE.json and FILE.md beside it are its model card."""
    format: Literal["stablehlo", "onnx"]
    """For JAX alone, or for ONNX Runtime and others."""

    def run(self) -> dict[str, Any]:
        model = self.parts(self.workdir).model
        card = export(self.workdir, self.output, format=self.format, step=self.step, model=model)
        print(f"{self.output}: {self.output.stat().st_size:,} bytes, card: {self.output}.md")
        return {"output": str(self.output), "card": card}


@dataclass(frozen=True)
class Report(WithParts):
    """Write a page about a trained network, or a comparison of several: one HTML file."""

    workdir: tuple[Path, ...] = (Path("runs/default"),)
    """A directory that `train` has written, or several."""
    output: Path | None = None
    """The .html file (default: report.html in the workdir; of several, comparison.html here)."""

    def run(self) -> dict[str, Any]:
        own = self.parts(*self.workdir)
        written = report(self.workdir, self.output, model=own.model, splits=own.splits)
        print(*written.verdicts, sep="\n")
        print(f"{written.path}: {written.path.stat().st_size:,} bytes; open it in a browser")
        return {"page": str(written.path), "networks": written.networks}


@dataclass(frozen=True)
class Serve(OfTrained):
    """Serve a page to draw on, where the network says what it sees; and a JSON API."""

    host: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0 lets anyone on the network use the page."""
    port: int = 8000
    """0: any that is free."""

    def run(self) -> None:
        if self.quiet or self.json:
            raise ValueError(
                "serve prints where it listens: --quiet and --json are for the other commands"
            )
        model = self.parts(self.workdir).model
        serve(self.workdir, self.step, host=self.host, port=self.port, model=model)


@dataclass(frozen=True, kw_only=True)
class Summary(OfRecipe):
    """Print the layers of the network: output shapes, parameters, FLOPs, and their purpose."""

    image_shape: tuple[int, int, int] | None = None
    """Height, width and channels (default: those of the dataset)."""
    num_classes: int | None = None
    """How many classes (default: those of the dataset)."""

    def run(self) -> list[dict[str, Any]]:
        own = recipe_parts(self.config, self.recipe)
        shape, classes = self.image_shape, self.num_classes
        shape, layers = summarize_recipe(
            self.recipe, shape, classes, model=own.model, splits=own.splits
        )
        print(*format_table(layers, shape).split("\n"), sep="\n")
        return [layer._asdict() for layer in layers]


@dataclass(frozen=True, kw_only=True)
class Population(OfRecipe):
    """Train many seeds as one program: mean, deviation and interval of their accuracy."""

    seeds: int
    """How many, counted up from the recipe's own."""
    workdir: Path | None = None
    """Where the results go (default: runs/NAME-OF-THE-RECIPE-population)."""
    vary: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """FIELD=V1,V2: the values that a field takes; each with all seeds. Given again: every
    combination."""
    against: Path | None = None
    """The workdir of a finished population of the same seeds, to compare with."""
    no_test: bool = False
    """Leave the test split to a later call, which measures it without retraining."""
    overwrite: bool = False
    """Delete the population that is in the workdir and start anew."""

    def run(self) -> dict[str, Any]:
        workdir = self.workdir or Path("runs", f"{self.name}-population")
        vary = _varied(self.vary)
        other = read_population(self.against) if self.against else None
        if other:
            check_pairs(other, identity(create_members(self.recipe, self.seeds, vary)))
        result = population(
            self.recipe,
            workdir,
            seeds=self.seeds,
            vary=vary,
            **recipe_parts(self.config, self.recipe)._asdict(),
            test=not self.no_test,
            overwrite=self.overwrite,
            listeners=[console()],
        )
        if other:
            print(f"A is {self.against}, B is {workdir}")
            comparison = compare(other, result)
            print(comparison_line(comparison, "validation"))
            if comparison["test_accuracy"]["difference"] is not None:
                print(comparison_line(comparison, "test"))
        return {**result}


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
            parts=functools.partial(recipe_parts, self.config),
            tell=print,
        )
        return [
            {"number": trial.number, "state": trial.state.name.lower()}
            | {"val_accuracy": trial.value, "fields": trial.params}
            for trial in trials
        ]


@dataclass(frozen=True)
class Verify(WithParts):
    """Train a finished run again, in a temporary place, and say whether the bits agree."""

    workdir: Path
    """A directory that `train` has written."""

    def run(self) -> dict[str, Any]:
        differences = verify(self.workdir, **self.parts(self.workdir)._asdict())
        for line in differences:
            print(f"in {self.workdir} {line}")
        print(f"the bits {'differ' if differences else 'agree'}")
        return {"same_bits": not differences, "differences": differences}

    def is_good(self, result: Any) -> bool:
        return result["same_bits"]


@dataclass(frozen=True)
class Doctor(Common):
    """Tell what works here: accelerator, versions, devices, data, caches; and what to mend."""

    def run(self) -> dict[str, Any]:
        findings = []
        for finding in doctor():  # printed at once: the next one may take a while
            print(f"{'!' if finding.problem else ' '} {finding.what:<19} {finding.value}")
            if finding.advice:
                print(f"{'':>19}-> {finding.advice}")
            findings.append(finding)
        problems = sum(finding.problem for finding in findings)
        print(f"{problems} to mend, marked with !" if problems else "All that is needed works.")
        return {"works": not problems, "findings": [finding._asdict() for finding in findings]}

    def is_good(self, result: Any) -> bool:
        return result["works"]


CLASSES = (Train, Evaluate, Predict, Report, Serve, Import, Export)
CLASSES += (Summary, Population, Sweep, Verify, Doctor)
COMMANDS: dict[str, type[Common]] = {command.__name__.lower(): command for command in CLASSES}


def create_parser(recipe: Config) -> Any:
    """Returns what tyro parses: one of the commands, with a recipe's values as defaults."""
    defaults = {
        Train: Train(recipe=recipe),
        Summary: Summary(recipe=recipe),
        Population: Population(recipe=recipe, seeds=tyro.MISSING),
        Sweep: Sweep(recipe, tyro.MISSING, tyro.MISSING),
    }
    commands: list[Any] = []
    for name, command in COMMANDS.items():
        default = {"default": defaults[command]} if command in defaults else {}
        commands.append(Annotated[command, tyro.conf.subcommand(name, **default)])
    return functools.reduce(operator.or_, commands)


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
