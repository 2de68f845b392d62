"""The commands: their options, and the function of the package that each calls."""

import math
import shutil
import sys
import textwrap
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mnist_jax
from mnist_jax.cli.parser import Command, Option, flag, path
from mnist_jax.cli.recipes import describe_recipe
from mnist_jax.config import Config, recipe_names

if TYPE_CHECKING:  # slow: each command imports JAX when it runs
    from mnist_jax.handwriting.files import FilePrediction
    from mnist_jax.network import Network
    from mnist_jax.parts import Parts

COMMANDS: dict[str, Command] = {}


def varied(text: str) -> tuple[str, list[float]]:
    """Reads "ema-decay=0,0.99"."""
    field, _, values = text.partition("=")
    if not field:
        raise ValueError
    return field.replace("-", "_"), [float(value) for value in values.split(",")]


COMMON = (
    flag("--quiet", "Print warnings and errors only."),
    flag("--json", "Print the result alone, as JSON."),
    flag("--debug", "Show the traceback of an error."),
    flag("--no-compilation-cache", "Compile without the user's cache."),
)
# Not needed under Slurm, Open MPI, GKE and Cloud TPU.
PROCESSES = (
    Option("--distributed.coordinator HOST:PORT", "Address where process 0 awaits the others."),
    Option("--distributed.num-processes N", "Number of processes; 1: run alone, in any job.", int),
    Option("--distributed.process-id N", "Rank of this process, from 0.", int),
)
RECIPE = Option("--config RECIPE", "Recipe: a name, a .py file, or a config.json.", path)
OWN_PARTS = RECIPE._replace(help="Recipe, if it defines parts of its own (get_model, ...).")
WORKDIR = Option("--workdir PATH", "Directory of a training run.", path, Path("runs/default"))
WORKDIRS = Option("--workdir PATH...", "", path, [WORKDIR.default])
NEW_WORKDIR = Option("--workdir PATH", "Directory for the results (default: runs/RECIPE).", path)
STEP = Option("--step STEP", "Saved step, latest, or best (by watch.monitor).", default="latest")
TRAINED = (WORKDIR, STEP, OWN_PARTS)
SPLIT = Option("--split test|validation|train", "Examples to measure on.", default="test")
IMAGES = Option(
    "IMAGES...",
    "Image files, folders of them, or a .csv, .npz, .npy or IDX file of images as trained on.",
    path,
    [],
)
MODEL = Option("--model FILE", "File written by export, in place of a workdir.", path)
SHOW = flag("--show", "Write what the network sees to IMAGE.seen.png.")
PIXELS = Option(
    "--pixel-range BLACK WHITE", "Values of black and white in files of many images.", float
)
SOURCE = Option(
    "SOURCE...",
    "IDX, .npz or .npy files (or their directory), a CSV, or a folder with a folder of images per "
    "class; or several of a kind, named train, validation and test.",
    path,
    [],
    required=True,
)
VARY = Option(
    "--vary FIELD=V1,V2", "Numbers for a field; repeated: combinations.", varied, [], repeated=True
)
NO_TEST = flag("--no-test", "Skip the test; a later call can measure it.")


def command(
    *options: Option, example: str, **how: Any
) -> Callable[[Callable[[Namespace], Any]], Callable[[Namespace], Any]]:
    """Registers a function as a command; its docstring is the help's first line."""

    def register(run: Callable[[Namespace], Any]) -> Callable[[Namespace], Any]:
        name = run.__name__.rstrip("_")
        COMMANDS[name] = Command(name, run, (*options, *COMMON), example, **how)
        return run

    return register


def _new_workdir(args: Namespace, suffix: str = "") -> Path:
    name = args.config.stem if args.config else "default"
    return args.workdir or Path("runs", f"{name}{suffix}")


def _own_parts(args: Namespace, *workdirs: Path) -> "Parts":
    """Returns the recipe's own parts, for the first run's config."""
    from mnist_jax.parts import NONE, recipe_parts
    from mnist_jax.workdir.trained import trained_config

    if not (args.config and workdirs):
        return NONE
    return recipe_parts(args.config, trained_config(workdirs[0]))


def _print_rows(rows: Iterable[str], column: int) -> None:
    """Prints rows, whose last column is wrapped to the terminal's width."""
    width = shutil.get_terminal_size((200, 24)).columns
    behind = " " * (column if column < width - 30 else 4)
    for row in rows:
        print(*textwrap.wrap(row, width, subsequent_indent=behind), sep="\n")


def _show_next(args: Namespace, extra: str, *workdirs: Path) -> None:
    """Proposes the command of an extra, or `predict` if the extra is not installed."""
    from mnist_jax.machine.extras import has_extra
    from mnist_jax.progress import show_next

    recipe = ("--config", args.config) if args.config else ()
    if has_extra(extra):
        show_next(extra, *workdirs, *recipe)
    else:
        show_next("predict", "IMAGES", "--workdir", workdirs[0], *recipe)


@command(
    RECIPE,
    NEW_WORKDIR,
    flag("--overwrite", "Delete the old run and retrain."),
    flag("--extend", "Continue a finished run up to --epochs."),
    NO_TEST,
    flag("--tensorboard", "Write event files to WORKDIR/tensorboard."),
    flag("--profile", "Profile some steps, in WORKDIR/profile."),
    *PROCESSES,
    takes_recipe=True,
    example="""\
mnist-jax train
mnist-jax train --config fast --seed 1 --workdir runs/fast-1
mnist-jax train --epochs 20 --optimizer.name sgd --optimizer.learning-rate 0.1""",
)
def train(args: Namespace) -> dict[str, Any]:
    """Train a network, or resume the unfinished run in the workdir."""
    from mnist_jax.datasets.prepare import check_dataset_name
    from mnist_jax.models import choices_of
    from mnist_jax.parts import NONE, recipe_parts
    from mnist_jax.progress import show_result

    own = recipe_parts(args.config, args.recipe)
    if own.model is None:  # wrong names come before a difference to the workdir
        choices_of(args.recipe.model.name)
    if own.splits is None:
        check_dataset_name(args.recipe.data.dataset)
    workdir = _new_workdir(args)
    listeners = [mnist_jax.console()]
    if args.tensorboard:
        listeners.append(mnist_jax.tensorboard(workdir))
    if args.profile:
        listeners.append(mnist_jax.profile(workdir))
    run = mnist_jax.train(
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
    example="mnist-jax evaluate runs/fast --split validation",
)
def evaluate(args: Namespace) -> dict[str, Any]:
    """Measure a trained network, or several as an ensemble, on a split of their dataset."""
    from mnist_jax.metrics import spelled_loss
    from mnist_jax.workdir.files import json_number

    own = _own_parts(args, *args.workdir)._asdict()
    del own["tx"]
    measured = mnist_jax.evaluate(args.workdir, args.split, args.step, **own)
    measured["loss"] = json_number(measured["loss"])
    steps, count = measured["step"], len(args.workdir)
    networks = (
        f"{count} networks, steps {', '.join(map(str, steps))}" if count > 1 else f"step {steps}"
    )
    print(
        f"{args.split} loss {spelled_loss(measured['loss'])}",
        f"accuracy {measured['accuracy']:.2%} of {measured['count']:,} images  ({networks})",
        *(f"{name} {measured[name]}" for name in own["metrics"] or {}),
        sep="  ",
    )
    _show_next(args, "report", *args.workdir)
    return measured


def _all_read(result: Any) -> bool:
    answers = result if isinstance(result, list) else [result]
    return not any(answer.get("failed") for answer in answers)


@command(
    IMAGES,
    *TRAINED,
    MODEL,
    SHOW,
    Option("--output FILE", "A .csv file for the answers; of a split, an .npz file.", path),
    SPLIT._replace(help="Examples for --output, without images."),
    PIXELS,
    is_good=_all_read,
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
    _check_used(args, [SPLIT], "with images; leave it out")
    if args.model:
        _check_used(args, TRAINED, "with --model; leave it out")
    output = args.output
    if output:
        _check_output(output, args.images)
    own = NONE if args.model else _own_parts(args, args.workdir)
    network = load_network(args.model or args.workdir, args.step, model=own.model)
    files, left_out = find_images(args.images)
    if left_out:
        print(f"{len(left_out):,} left out, not images by their names: {some(left_out)}")
    result: dict[str, Any] | list[dict[str, Any]]
    if output is None:
        result = [answer._asdict() for answer in _answers(args, network, files)]
    else:
        with atomic_file(output) as file:
            only_rows = len(files) == 1 and holds_rows(files[0])
            count, failed = write_answers(file, _answers(args, network, files), only_rows=only_rows)
        print(f"{output}: {count:,} answers")
        result = {"output": str(output), "answers": count, "failed": failed}
    if not args.model and (output or sys.stdout.isatty()):  # a pipe gets the answers only
        _show_next(args, "serve", args.workdir)
    return result


def _answers(
    args: Namespace, network: "Network", files: Sequence[Path]
) -> Iterator["FilePrediction"]:
    """Yields the answers; prints them, or where they go to a file only the failures."""
    from tqdm import tqdm

    from mnist_jax.handwriting.files import SEEN, predict_each

    any_good = False
    with tqdm(unit=" images", leave=False, disable=None) as bar:
        for answer in predict_each(
            network, files, show=args.show, pixel_range=args.pixel_range, note=bar.write
        ):
            if answer.failed and len(files) == 1:
                raise ValueError(f"{answer.image} {answer.problem}")
            if answer.failed or not args.output:
                bar.write(str(answer))
            if args.show and not answer.failed and not answer.row:
                bar.write(f"wrote {answer.image}{SEEN}")
            any_good |= not answer.failed
            bar.update()
            yield answer
    if not any_good:
        raise ValueError(f"none of the {len(files):,} files can be read")


def _check_used(args: Namespace, options: Iterable[Option], where: str) -> None:
    """Refuses options, unless they have their default, that have no effect."""
    for option in options:
        if getattr(args, option.attribute) != option.default:
            raise ValueError(f"{option.name} has no effect {where}")


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
    _check_used(args, [MODEL, SHOW, PIXELS], "without images; give some, or leave it out")
    own = _own_parts(args, args.workdir)
    options = {"split": args.split, "step": args.step, "model": own.model, "splits": own.splits}
    shape = predict_split(args.workdir, args.output, **options)
    print(f"{args.output}: probabilities {[*shape]}, classes, labels, names")
    _show_next(args, "report", args.workdir)
    return {"output": str(args.output), "shape": [*shape]}


@command(
    WORKDIRS._replace(help="Directories of training runs; several are compared."),
    Option(
        "--output FILE",
        "An .html file (default: WORKDIR/report.html; of several, comparison.html).",
        path,
    ),
    OWN_PARTS,
    example="mnist-jax report runs/default runs/fast --output comparison.html",
)
def report(args: Namespace) -> dict[str, Any]:
    """Write a page about a trained network, or a comparison of several: one HTML file."""
    own = _own_parts(args, *args.workdir)
    written = mnist_jax.report(args.workdir, args.output, model=own.model, splits=own.splits)
    print(*written.verdicts, sep="\n")
    print(f"next: open {written.path} in a browser")
    return {"page": str(written.path), "networks": written.networks}


@command(
    *TRAINED,
    Option("--host ADDRESS", "Address; 0.0.0.0: open to other computers.", default="127.0.0.1"),
    Option("--port N", "Port of the page; 0: any free one.", int, 8000),
    example="mnist-jax serve runs/fast --port 8080",
)
def serve(args: Namespace) -> None:
    """Serve a page to draw on, where the network classifies the drawing; and a JSON API."""
    if args.quiet or args.json:
        raise ValueError("serve prints its address; leave --quiet and --json out")
    model = _own_parts(args, args.workdir).model
    mnist_jax.serve(args.workdir, args.step, host=args.host, port=args.port, model=model)


@command(
    Option("NAME", "Name of the dataset: lower-case letters, digits, _.", required=True),
    SOURCE,
    Option("--size HEIGHT WIDTH", "Size to scale files to, or shape of a CSV's images.", int),
    Option("--channels 1|3", "Grey (1) or colour (3); default: as the files are.", int),
    Option("--pixel-range BLACK WHITE", "Values of black and white (default: detected).", float),
    Option("--label-column COLUMN", "Name or number (from 1) of a CSV's column of labels."),
    Option("--part NAME", "One of several datasets in IDX files, such as EMNIST's letters."),
    flag("--transpose", "Swap rows and columns, as EMNIST's own files need."),
    Option("--test-fraction X", "Fraction for the test, if the source has none.", float, 0.2),
    Option("--seed N", "Seed that draws the test images.", int, 0),
    flag("--skip-unreadable", "Leave out unreadable image files, and list them."),
    flag("--overwrite", "Replace the imported dataset of this name."),
    flag("--show", "Print the first image of each class, in characters."),
    example="""\
mnist-jax import letters scans/letters --size 28 28
mnist-jax train --data.dataset letters --workdir runs/letters""",
)
def import_(args: Namespace) -> dict[str, Any]:
    """Make a dataset of your own images: then train with --data.dataset NAME."""
    from mnist_jax.datasets.importing import describe
    from mnist_jax.datasets.importing.sheet import as_text
    from mnist_jax.progress import show_next

    names = "size channels pixel_range label_column part transpose test_fraction seed"
    options = {name: getattr(args, name) for name in names.split()}
    options |= {"skip_unreadable": args.skip_unreadable, "overwrite": args.overwrite}
    imported = mnist_jax.import_dataset(args.name, args.source, **options)
    print(*describe(imported), sep="\n")
    if args.show:
        print(*as_text(imported.firsts, shutil.get_terminal_size().columns), sep="\n")
    # With batches of 128, few images make few updates. This makes 16 or more of an epoch, which has
    # the 80 % that are not for validation.
    batch_size = 2 ** int(math.log2(max(1, imported.num_train / 20)))
    small = ("--batch-size", str(batch_size)) if batch_size < Config().batch_size else ()
    show_next("train", "--data.dataset", args.name, *small, "--workdir", f"runs/{args.name}")
    found, files = imported._asdict(), imported.source._asdict()
    del found["firsts"], files["parts"]
    return found | {"path": str(imported.path), "source": files}


@command(
    *TRAINED,
    Option(
        "--format stablehlo|onnx", "Format: for JAX; for ONNX Runtime and others.", required=True
    ),
    Option("--output FILE", "File, described by FILE.md and FILE.json.", path, required=True),
    example="mnist-jax export runs/fast --format onnx --output fast.onnx",
)
def export(args: Namespace) -> dict[str, Any]:
    """Write a trained network as one file that runs without this package."""
    model = _own_parts(args, args.workdir).model
    card = mnist_jax.export(
        args.workdir, args.output, format=args.format, step=args.step, model=model
    )
    print(f"{args.output}: {args.output.stat().st_size:,} bytes")
    print(f"next: run it as described in {args.output}.md")
    return {"output": str(args.output), "card": card}


@command(
    RECIPE,
    Option("--image-shape HEIGHT WIDTH CHANNELS", "Shape (default: the dataset's).", int),
    Option("--num-classes N", "Number of classes (default: the dataset's).", int),
    takes_recipe=True,
    example="mnist-jax summary --config fast",
)
def summary(args: Namespace) -> list[dict[str, Any]]:
    """Print the layers of the network: output shape, parameters, FLOPs and purpose of each."""
    from mnist_jax.parts import recipe_parts
    from mnist_jax.reporting.summary import format_table, summarize_recipe

    own = recipe_parts(args.config, args.recipe)
    shape, layers = summarize_recipe(
        args.recipe, args.image_shape, args.num_classes, model=own.model, splits=own.splits
    )
    lines = format_table(layers, shape).split("\n")
    _print_rows(lines, lines[0].index("purpose"))
    print("next: mnist-jax train, with the same options")
    return [layer._asdict() for layer in layers]


@command(
    RECIPE,
    Option("--seeds N", "Number of seeds, counted up from --seed.", int, required=True),
    VARY,
    Option("--against PATH", "Finished population of the same seeds to compare with.", Path),
    NEW_WORKDIR._replace(help="Directory (default: runs/RECIPE-population)."),
    NO_TEST,
    flag("--overwrite", "Delete the old population and retrain."),
    takes_recipe=True,
    example="mnist-jax population --config fast --seeds 10 --vary ema-decay=0,0.99",
)
def population(args: Namespace) -> dict[str, Any]:
    """Train many seeds as one program: mean, deviation and interval of their accuracy."""
    from mnist_jax.laboratory.comparison import check_pairs, comparison_line
    from mnist_jax.laboratory.members import create_members, identity
    from mnist_jax.laboratory.population import read_population
    from mnist_jax.parts import recipe_parts

    workdir = _new_workdir(args, "-population")
    vary = dict(args.vary)
    if len(vary) < len(args.vary):
        raise ValueError("--vary must be given once for a field, with all its values")
    other = read_population(args.against) if args.against else None
    if other:
        check_pairs(other, identity(create_members(args.recipe, args.seeds, vary)))
    result = mnist_jax.population(
        args.recipe,
        workdir,
        seeds=args.seeds,
        vary=vary,
        **recipe_parts(args.config, args.recipe)._asdict(),
        test=not args.no_test,
        overwrite=args.overwrite,
        listeners=[mnist_jax.console()],
    )
    if other:
        print(f"A is {args.against}, B is {workdir}")
        comparison = mnist_jax.compare(other, result)
        print(comparison_line(comparison, "validation"))
        if comparison["test_accuracy"]["difference"] is not None:
            print(comparison_line(comparison, "test"))
    else:
        print(f"next: a population with one change, --workdir NEW and --against {workdir}")
    return {**result}


@command(
    RECIPE._replace(help="Recipe with get_search_space(), such as sweep.", required=True),
    Option("--trials N", "Number of trials; a larger number adds to a search.", int, required=True),
    NEW_WORKDIR._replace(help="Directory for the results (default: runs/RECIPE-sweep)."),
    Option("--storage URL", "Database of several machines (default: SQLite, in the workdir)."),
    takes_recipe=True,
    example="mnist-jax sweep --config sweep --trials 30",
)
def sweep(args: Namespace) -> list[dict[str, Any]]:
    """Search for better values of a recipe's fields, or resume the search in the workdir."""
    from mnist_jax.laboratory.sweep import load_search_space
    from mnist_jax.parts import recipe_parts

    trials = mnist_jax.sweep(
        args.recipe,
        load_search_space(args.config),
        _new_workdir(args, "-sweep"),
        trials=args.trials,
        storage=args.storage,
        parts=lambda config: recipe_parts(args.config, config),
        tell=print,
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


@command(
    WORKDIR, OWN_PARTS, is_good=lambda it: it["same_bits"], example="mnist-jax verify runs/fast"
)
def verify(args: Namespace) -> dict[str, Any]:
    """Train a finished run again, in a temporary directory, and compare the bits."""
    differences = mnist_jax.verify(args.workdir, **_own_parts(args, args.workdir)._asdict())
    for line in differences:
        print(f"in {args.workdir} {line}")
    print(f"the bits {'differ' if differences else 'agree'}")
    if not differences:
        _show_next(args, "report", args.workdir)
    return {"same_bits": not differences, "differences": differences}


@command(needs_jax=False, example="mnist-jax recipes --json")
def recipes(_: Namespace) -> list[dict[str, str]]:
    """List the recipes of the package, with their test accuracy and training time."""
    described = [describe_recipe(name) for name in recipe_names()]
    print("accuracy and time on a two-core CPU:")
    row = "{name:<12}{accuracy:>8}  {time:<7}{purpose}"
    _print_rows([row.format(**recipe) for recipe in described], 29)
    print("next: mnist-jax train --config NAME")
    return described


@command(is_good=lambda result: result["works"], example="mnist-jax doctor --json")
def doctor(_: Namespace) -> dict[str, Any]:
    """Check accelerator, versions, devices, data and caches; and say what to fix."""
    from mnist_jax.cli.doctor import doctor
    from mnist_jax.progress import show_next

    findings = []
    for finding in doctor():  # printed at once: the next one may take long
        print(f"{'!' if finding.problem else ' '} {finding.what:<19} {finding.value}")
        if finding.advice:
            print(f"{'':>19}-> {finding.advice}")
        findings.append(finding)
    problems = sum(finding.problem for finding in findings)
    print(f"{problems} to fix, marked with !" if problems else "Everything needed works.")
    if not problems:
        show_next("train")
    return {"works": not problems, "findings": [finding._asdict() for finding in findings]}
