"""The commands: the options of each, and the one function of the package that it calls."""

import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_jax.cli.parser import Command, Option, path
from mnist_jax.cli.recipes import describe_recipe
from mnist_jax.config import recipe_names

if TYPE_CHECKING:  # JAX takes a second to import: each command does so when it runs
    from mnist_jax.handwriting.files import FilePrediction
    from mnist_jax.network import Network
    from mnist_jax.parts import Parts

COMMANDS: dict[str, Command] = {}

COMMON = (
    Option("--quiet", "", "Print warnings and errors only.", default=False),
    Option("--json", "", "Print the result as JSON, and nothing else.", default=False),
    Option("--debug", "", "Show the traceback of an error.", default=False),
    Option("--no-compilation-cache", "", "Compile again, without the user's cache.", default=False),
)
# Start the same command in each process. Slurm, Open MPI, GKE and Cloud TPU need none of these.
PROCESSES = (
    Option("--distributed.coordinator", "HOST:PORT", "Address where process 0 awaits the others."),
    Option(
        "--distributed.num-processes",
        "N",
        "Number of processes; 1 means run alone, even under a cluster launcher.",
        int,
    ),
    Option("--distributed.process-id", "N", "Rank of this process, from 0.", int),
)
RECIPE = Option("--config", "RECIPE", "Recipe: a name, a .py file, or a config.json.", Path)
OWN_PARTS = Option(
    "--config", "RECIPE", "The recipe, if it defines parts of its own (get_model, ...).", Path
)
TRAINED = Path("runs/default")
WORKDIR = Option("--workdir", "PATH", "Directory of a training run.", path, TRAINED)
WORKDIRS = WORKDIR._replace(
    values="PATH...", help="Directories of one training run or more.", default=[TRAINED]
)
STEP = Option(
    "--step", "STEP", "A saved step, latest, or best (by watch.monitor).", default="latest"
)
SPLIT = Option("--split", "test|validation|train", "The examples.", default="test")
NO_TEST = Option("--no-test", "", "Leave the test split to a later call.", default=False)


def command(
    *options: Option, example: str, **how: Any
) -> Callable[[Callable[[Namespace], Any]], Callable[[Namespace], Any]]:
    """Registers a function as the command of its name; its docstring is the help's first line."""

    def register(run: Callable[[Namespace], Any]) -> Callable[[Namespace], Any]:
        name = run.__name__.rstrip("_")
        COMMANDS[name] = Command(name, run, (*options, *COMMON), example, **how)
        return run

    return register


def _new_workdir(args: Namespace, suffix: str = "") -> Path:
    name = args.config.stem if args.config else "default"
    return args.workdir or Path("runs", f"{name}{suffix}")


def _own_parts(args: Namespace, *workdirs: Path) -> "Parts":
    """The own parts of the recipe, for the config of the first run."""
    from mnist_jax.parts import NONE, recipe_parts
    from mnist_jax.workdir.trained import trained_config

    if not (args.config and workdirs):
        return NONE
    return recipe_parts(args.config, trained_config(workdirs[0]))


@command(
    RECIPE,
    Option("--workdir", "PATH", "Where the results go (default: runs/RECIPE).", path),
    Option("--overwrite", "", "Delete the run in the workdir and retrain.", default=False),
    Option("--extend", "", "Train a finished run on to more --epochs.", default=False),
    NO_TEST,
    Option("--tensorboard", "", "Also write event files to WORKDIR/tensorboard.", default=False),
    Option("--profile", "", "Also profile some steps into WORKDIR/profile.", default=False),
    *PROCESSES,
    takes_recipe=True,
    example="""\
mnist-jax train
mnist-jax train --config fast --seed 1 --workdir runs/fast-1
mnist-jax train --epochs 20 --optimizer.name sgd --optimizer.learning-rate 0.1""",
)
def train(args: Namespace) -> dict[str, Any]:
    """Train a network, or resume the unfinished run in the workdir."""
    from mnist_jax import console, profile, tensorboard, train
    from mnist_jax.models import choices_of
    from mnist_jax.parts import NONE, recipe_parts
    from mnist_jax.progress import show_result

    own = recipe_parts(args.config, args.recipe)
    if own.model is None:
        choices_of(args.recipe.model.name)  # a wrong name comes before a difference to the workdir
    workdir = _new_workdir(args)
    listeners = [console()]
    if args.tensorboard:
        listeners.append(tensorboard(workdir))
    if args.profile:
        listeners.append(profile(workdir))
    run = train(
        args.recipe,
        workdir,
        **own._asdict(),
        test=not args.no_test,
        overwrite=args.overwrite,
        extend=args.extend,
        listeners=listeners,
    )
    show_result(workdir, run.result, recipe=args.config if own != NONE else None)
    return {"workdir": str(workdir), **run.result}


@command(
    WORKDIRS._replace(help="Directories of training runs; several are averaged as an ensemble."),
    SPLIT,
    STEP,
    OWN_PARTS,
    *PROCESSES,
    plain="workdir",
    example="mnist-jax evaluate runs/fast --split validation",
)
def evaluate(args: Namespace) -> dict[str, Any]:
    """Measure a trained network, or several as an ensemble, on a split of their dataset."""
    from mnist_jax import evaluate

    own = _own_parts(args, *args.workdir)._asdict()
    del own["tx"]
    measured = evaluate(args.workdir, args.split, args.step, **own)
    steps = measured["step"]
    if isinstance(steps, list):
        networks = f"{len(steps)} networks, steps {', '.join(map(str, steps))}"
    else:
        networks = f"step {steps}"
    print(
        f"{args.split} loss {measured['loss']:.4f}  accuracy {measured['accuracy']:.2%} of "
        f"{measured['count']:,} images  ({networks})",
        *(f"{name} {measured[name]}" for name in own["metrics"] or {}),
        sep="  ",
    )
    return measured


@command(
    Option(
        "IMAGES",
        "PATH...",
        "Image files (photographs, scans, drawings), folders of them, or a .csv, .npz, .npy or "
        "IDX file of images like those trained on.",
        path,
        [],
    ),
    WORKDIR,
    Option("--model", "FILE", "A file that `export` has written, instead of a workdir.", Path),
    STEP,
    Option(
        "--show", "", "Write FILE.seen.png beside each image: what the network sees.", default=False
    ),
    Option(
        "--output",
        "FILE",
        "A .csv file for the answers. Without images, an .npz file for a split: probabilities, "
        "classes, labels, names.",
        Path,
    ),
    SPLIT._replace(help="The examples that go to --output, without images."),
    Option(
        "--pixel-range",
        "BLACK WHITE",
        "Black and white in a file of many images (default: from the largest value).",
        float,
    ),
    OWN_PARTS,
    plain="images",
    is_good=lambda result: (
        not any(
            answer.get("failed") for answer in (result if isinstance(result, list) else [result])
        )
    ),
    example="mnist-jax predict digit.png scans/ --output answers.csv",
)
def predict(args: Namespace) -> dict[str, Any] | list[dict[str, Any]]:
    """Classify image files, folders of them, or a split's images."""
    from mnist_jax.datasets.importing import some
    from mnist_jax.datasets.importing.unlabelled import holds_rows
    from mnist_jax.handwriting.files import find_images, write_answers
    from mnist_jax.network import load_network
    from mnist_jax.parts import NONE
    from mnist_jax.workdir.files import atomic_file

    if not args.images:
        return _predict_split(args)
    output = args.output
    if output:
        _check_output(output, args.images)
    own = NONE if args.model else _own_parts(args, args.workdir)
    network = load_network(args.model or args.workdir, args.step, model=own.model)
    files, left_out = find_images(args.images)
    if left_out:
        print(f"{len(left_out):,} left out, not images by their names: {some(left_out)}")
    if output is None:
        return [answer._asdict() for answer in _answers(args, network, files)]
    with atomic_file(output) as file:
        only_rows = len(files) == 1 and holds_rows(files[0])
        count, failed = write_answers(file, _answers(args, network, files), only_rows=only_rows)
    print(f"{output}: {count:,} answers")
    return {"output": str(output), "answers": count, "failed": failed}


def _answers(
    args: Namespace, network: "Network", files: Sequence[Path]
) -> Iterator["FilePrediction"]:
    """Yields the answers; prints them, or where they go to a file only the failures."""
    from tqdm import tqdm

    from mnist_jax.handwriting.files import predict_each

    any_good = False
    with tqdm(unit=" images", leave=False, disable=None) as bar:
        for answer in predict_each(
            network, files, show=args.show, pixel_range=args.pixel_range, note=bar.write
        ):
            if answer.failed and len(files) == 1:
                raise ValueError(f"{answer.image} {answer.problem}")
            if answer.failed or not args.output:
                bar.write(str(answer))
            any_good |= not answer.failed
            bar.update()
            yield answer
    if not any_good:
        raise ValueError(f"none of the {len(files):,} files can be read")


def _check_output(output: Path, images: Sequence[Path]) -> None:
    if output.suffix != ".csv":
        raise ValueError(f"--output must end in .csv for the given files, got {output}")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"--output: there is no directory {output.parent}")
    if output.resolve() in [image.resolve() for image in images]:
        raise ValueError(f"--output would replace {output}, one of the images")


def _predict_split(args: Namespace) -> dict[str, Any]:
    from mnist_jax.network import predict_split

    if args.output is None:
        raise ValueError("give image files, or --output FILE.npz for those of a split")
    if args.show:
        raise ValueError("--show is for image files, not for --output")
    if args.model:
        raise ValueError("--output needs --workdir, which names the dataset, not --model")
    own = _own_parts(args, args.workdir)
    options = {"split": args.split, "step": args.step, "model": own.model, "splits": own.splits}
    shape = predict_split(args.workdir, args.output, **options)
    print(f"{args.output}: probabilities {[*shape]}, classes, labels, names")
    return {"output": str(args.output), "shape": [*shape]}


@command(
    WORKDIRS._replace(help="Directories of training runs; several are compared."),
    Option("--output", "FILE", "The .html file (default: WORKDIR/report.html).", Path),
    OWN_PARTS,
    plain="workdir",
    example="mnist-jax report runs/default runs/fast --output comparison.html",
)
def report(args: Namespace) -> dict[str, Any]:
    """Write a page about a trained network, or a comparison of several: one HTML file."""
    from mnist_jax import report

    own = _own_parts(args, *args.workdir)
    written = report(args.workdir, args.output, model=own.model, splits=own.splits)
    print(*written.verdicts, sep="\n")
    print(f"{written.path}: {written.path.stat().st_size:,} bytes; open it in a browser")
    return {"page": str(written.path), "networks": written.networks}


@command(
    WORKDIR,
    Option(
        "--host", "ADDRESS", "0.0.0.0 makes the page reachable from elsewhere.", str, "127.0.0.1"
    ),
    Option("--port", "N", "The port; 0 takes any free one.", int, 8000),
    STEP,
    OWN_PARTS,
    plain="workdir",
    example="mnist-jax serve runs/fast --port 8080",
)
def serve(args: Namespace) -> None:
    """Serve a page to draw on, where the network classifies the drawing; and a JSON API."""
    from mnist_jax import serve

    if args.quiet or args.json:
        raise ValueError("serve prints its address; leave --quiet and --json out")
    model = _own_parts(args, args.workdir).model
    serve(args.workdir, args.step, host=args.host, port=args.port, model=model)


@command(
    Option(
        "NAME",
        "NAME",
        "Name of the dataset: lower-case letters, digits, underscores.",
        required=True,
    ),
    Option(
        "SOURCE",
        "PATH...",
        "IDX, .npz or .npy files (or their directory), a CSV, or a folder with one folder of "
        "images per class; or several of a kind, named train, validation and test.",
        Path,
        [],
    ),
    Option(
        "--size",
        "HEIGHT WIDTH",
        "Size to scale image files to; or that of images in a CSV that are not square.",
        int,
    ),
    Option("--channels", "1|3", "1: grey; 3: colour (default: as the files are)."),
    Option("--pixel-range", "BLACK WHITE", "Black and white, where pixels are not 8 bits.", float),
    Option("--label-column", "COLUMN", "Name or number (from 1) of a CSV's column of labels."),
    Option("--part", "NAME", "One of several datasets in IDX files, such as EMNIST's letters."),
    Option("--transpose", "", "Swap rows and columns, as EMNIST's own files need.", default=False),
    Option("--test-fraction", "X", "Fraction for the test, if the source has none.", float, 0.2),
    Option("--seed", "N", "Seed that draws the test images.", int, 0),
    Option(
        "--skip-unreadable", "", "Leave out unreadable image files, and list them.", default=False
    ),
    Option("--overwrite", "", "Replace the imported dataset of this name.", default=False),
    Option("--show", "", "Draw the first image of each class, in characters.", default=False),
    plain="name source",
    example="""\
mnist-jax import letters scans/letters --size 28 28
mnist-jax train --data.dataset letters""",
)
def import_(args: Namespace) -> dict[str, Any]:
    """Make a dataset of your own images: then train with --data.dataset NAME."""
    from mnist_jax.datasets.importing import describe, import_dataset
    from mnist_jax.datasets.importing.sheet import as_text

    names = "size pixel_range label_column part transpose test_fraction seed skip_unreadable"
    options = {name: getattr(args, name) for name in (*names.split(), "overwrite")}
    channels: Any = args.channels and int(args.channels)
    imported = import_dataset(args.name, args.source, channels=channels, **options)
    print(*describe(imported), sep="\n")
    if args.show:
        print(*as_text(imported.firsts, shutil.get_terminal_size().columns), sep="\n")
    found, files = imported._asdict(), imported.source._asdict()
    del found["firsts"], files["parts"]
    return found | {"path": str(imported.path), "source": files}


@command(
    WORKDIR,
    Option("--format", "stablehlo|onnx", "For JAX, or for ONNX Runtime and others.", required=True),
    Option("--output", "FILE", "The file; FILE.md and FILE.json describe it.", Path, required=True),
    STEP,
    OWN_PARTS,
    plain="workdir",
    example="mnist-jax export runs/fast --format onnx --output fast.onnx",
)
def export(args: Namespace) -> dict[str, Any]:
    """Write a trained network as one file that runs without this package."""
    from mnist_jax import export

    model = _own_parts(args, args.workdir).model
    card = export(args.workdir, args.output, format=args.format, step=args.step, model=model)
    print(f"{args.output}: {args.output.stat().st_size:,} bytes, card: {args.output}.md")
    return {"output": str(args.output), "card": card}


@command(
    RECIPE,
    Option(
        "--image-shape",
        "HEIGHT WIDTH CHANNELS",
        "Shape of an image (default: that of the dataset).",
        int,
    ),
    Option("--num-classes", "N", "Number of classes (default: that of the dataset).", int),
    takes_recipe=True,
    example="mnist-jax summary --config fast",
)
def summary(args: Namespace) -> list[dict[str, Any]]:
    """Print the layers of the network: output shapes, parameters, FLOPs, and their purpose."""
    from mnist_jax.parts import recipe_parts
    from mnist_jax.reporting.summary import format_table, summarize_recipe

    own = recipe_parts(args.config, args.recipe)
    shape, layers = summarize_recipe(
        args.recipe, args.image_shape, args.num_classes, model=own.model, splits=own.splits
    )
    print(*format_table(layers, shape).split("\n"), sep="\n")
    return [layer._asdict() for layer in layers]


@command(
    RECIPE,
    Option("--seeds", "N", "Number of seeds, counted up from --seed.", int, required=True),
    Option(
        "--vary",
        "FIELD=V1,V2",
        "Values of a field, each with all seeds. Repeat it for every combination.",
        default=[],
        repeated=True,
    ),
    Option("--against", "PATH", "Finished population of the same seeds to compare with.", Path),
    Option("--workdir", "PATH", "Where the results go (default: runs/RECIPE-population).", path),
    NO_TEST,
    Option("--overwrite", "", "Delete the population in the workdir and retrain.", default=False),
    takes_recipe=True,
    example="mnist-jax population --config fast --seeds 10 --vary ema-decay=0,0.99",
)
def population(args: Namespace) -> dict[str, Any]:
    """Train many seeds as one program: mean, deviation and interval of their accuracy."""
    from mnist_jax import compare, console, population
    from mnist_jax.laboratory.comparison import check_pairs, comparison_line
    from mnist_jax.laboratory.members import create_members, identity
    from mnist_jax.laboratory.population import read_population
    from mnist_jax.parts import recipe_parts

    workdir = _new_workdir(args, "-population")
    vary = _varied(args.vary)
    other = read_population(args.against) if args.against else None
    if other:
        check_pairs(other, identity(create_members(args.recipe, args.seeds, vary)))
    result = population(
        args.recipe,
        workdir,
        seeds=args.seeds,
        vary=vary,
        **recipe_parts(args.config, args.recipe)._asdict(),
        test=not args.no_test,
        overwrite=args.overwrite,
        listeners=[console()],
    )
    if other:
        print(f"A is {args.against}, B is {workdir}")
        comparison = compare(other, result)
        print(comparison_line(comparison, "validation"))
        if comparison["test_accuracy"]["difference"] is not None:
            print(comparison_line(comparison, "test"))
    return {**result}


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


@command(
    RECIPE._replace(help="A recipe with get_search_space(), such as sweep.", required=True),
    Option(
        "--trials", "N", "Number of trials; a larger number adds to a search.", int, required=True
    ),
    Option("--workdir", "PATH", "Where the results go (default: runs/RECIPE-sweep).", path),
    Option(
        "--storage",
        "URL",
        "Database that several machines share (default: SQLite, in the workdir).",
    ),
    takes_recipe=True,
    example="mnist-jax sweep --config sweep --trials 30",
)
def sweep(args: Namespace) -> list[dict[str, Any]]:
    """Search for better values of a recipe's fields, or resume the search in the workdir."""
    import functools

    from mnist_jax import sweep
    from mnist_jax.laboratory.sweep import load_search_space
    from mnist_jax.parts import recipe_parts

    trials = sweep(
        args.recipe,
        load_search_space(args.config),
        _new_workdir(args, "-sweep"),
        trials=args.trials,
        storage=args.storage,
        parts=functools.partial(recipe_parts, args.config),
        tell=print,
    )
    return [
        {"number": trial.number, "state": trial.state.name.lower()}
        | {"val_accuracy": trial.value, "fields": trial.params}
        for trial in trials
    ]


@command(
    WORKDIR,
    OWN_PARTS,
    plain="workdir",
    is_good=lambda result: result["same_bits"],
    example="mnist-jax verify runs/fast",
)
def verify(args: Namespace) -> dict[str, Any]:
    """Train a finished run again, in a temporary directory, and compare the bits."""
    from mnist_jax import verify

    differences = verify(args.workdir, **_own_parts(args, args.workdir)._asdict())
    for line in differences:
        print(f"in {args.workdir} {line}")
    print(f"the bits {'differ' if differences else 'agree'}")
    return {"same_bits": not differences, "differences": differences}


@command(needs_jax=False, example="mnist-jax recipes --json")
def recipes(_: Namespace) -> list[dict[str, Any]]:
    """List the recipes of the package, with their test accuracy and training time."""
    described = [describe_recipe(name) for name in recipe_names()]
    for name, purpose, accuracy, time in described:
        print(f"{name:<13}{accuracy:>8}  {time:<9} {purpose}".rstrip())
    print("train one: mnist-jax train --config NAME")
    return [recipe._asdict() for recipe in described]


@command(is_good=lambda result: result["works"], example="mnist-jax doctor --json")
def doctor(_: Namespace) -> dict[str, Any]:
    """Check accelerator, versions, devices, data and caches; and say what to fix."""
    from mnist_jax.cli.doctor import doctor

    findings = []
    for finding in doctor():  # printed at once: the next one may take a while
        print(f"{'!' if finding.problem else ' '} {finding.what:<19} {finding.value}")
        if finding.advice:
            print(f"{'':>19}-> {finding.advice}")
        findings.append(finding)
    problems = sum(finding.problem for finding in findings)
    print(f"{problems} to fix, marked with !" if problems else "Everything needed works.")
    return {"works": not problems, "findings": [finding._asdict() for finding in findings]}
