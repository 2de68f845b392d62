"""The command line: parse, call one function, turn errors into one line and an exit code."""

import contextlib
import io
import itertools
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import numpy as np
import tyro

import mnist_jax
from mnist_jax.compilation_cache import use_compilation_cache
from mnist_jax.config import LARGEST, Config, load_config
from mnist_jax.datasets import load_splits
from mnist_jax.evaluate import evaluate
from mnist_jax.history import atomic_file
from mnist_jax.model import create_model
from mnist_jax.predict import predict
from mnist_jax.signals import SIGNALS, Stopped, raise_stopped
from mnist_jax.summary import format_table, summarize
from mnist_jax.train import train
from mnist_jax.verify import verify
from mnist_jax.workdir import trained_config

# Exit codes: 0 done; 128 + N stopped by signal N; and
UNEXPECTED, BAD_INPUT, DIVERGED, CLOSED_PIPE = 1, 2, 3, 141
DIFFERENT = 4  # the bits, for `verify`

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
    """Measure a trained network on a split of its dataset."""

    workdir: Path
    """A directory that `train` has written."""
    split: Literal["test", "validation", "train"] = "test"
    """Which examples."""
    step: str = "latest"
    """A saved step, latest, or best (by validation accuracy)."""

    def run(self) -> None:
        found = evaluate(self.workdir, self.split, self.step)
        print(
            f"{self.split} loss {found['loss']:.4f}  accuracy {found['accuracy']:.2%} of "
            f"{found['count']:,} images  (step {found['step']})"
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


Command = Train | Evaluate | Predict | Summary | Verify
COMMANDS = ("train", "evaluate", "predict", "summary", "verify")


def main(args: Sequence[str] | None = None) -> int:
    """Runs `mnist-jax ARGS` and returns the exit code."""
    args = list(sys.argv[1:] if args is None else args)
    if args == ["--version"]:
        print(f"mnist-jax {mnist_jax.__version__}")
        return 0
    try:
        command = _parse(args)
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _show_warning
            if not command.no_compilation_cache:
                use_compilation_cache()
            return command.run() or 0
    except SystemExit:  # of --help
        return 0
    except KeyboardInterrupt as error:
        stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
        code, message = 128 + stopped.signum, str(stopped)
    except BrokenPipeError:  # `| head` has read enough
        return CLOSED_PIPE
    except Exception as error:
        if "--debug" in args:
            traceback.print_exc()
        code, message = _explain(error, args)
    print("error:", _one_line(message), file=sys.stderr)
    return code


def run() -> NoReturn:
    """The `mnist-jax` command."""
    for signum in SIGNALS:
        signal.signal(signum, raise_stopped)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # also in a pipe or a file
    code = main()
    if code:
        # At once: threads that were saving, or compiling, would hold up or crash a tidy exit.
        sys.stderr.flush()
        os._exit(code)
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)  # it is done
    sys.exit(code)


def _show_warning(message: Warning | str, *_: object) -> None:
    print("warning:", _one_line(str(message)), file=sys.stderr)


def _one_line(message: str) -> str:
    """The message without line ends, and with what a terminal would obey spelled out."""
    line = " ".join(message.split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def _explain(error: Exception, args: Sequence[str]) -> tuple[int, str]:
    """The exit code and the message for an error."""
    if isinstance(error, FloatingPointError):
        return DIVERGED, str(error)
    if isinstance(error, OSError) and error.errno:
        where = f"{error.filename}: " if error.filename else ""
        hint = "; what is saved stays, and the same command goes on" if args[0] == "train" else ""
        return BAD_INPUT, f"{where}{error.strerror}{hint}"
    if isinstance(error, ValueError | OSError):
        return BAD_INPUT, str(error)
    return UNEXPECTED, f"unexpected {type(error).__name__}: {error} (--debug shows where)"


def _parse(args: Sequence[str]) -> Command:
    """Turns arguments into a command; raises ValueError, with tyro's message, for wrong ones."""
    for arg, following in itertools.zip_longest(args, args[1:]):
        if arg == "--workdir=" or (arg == "--workdir" and following == ""):
            raise ValueError("--workdir must name a directory, got ''")  # a Path would make it "."
    recipe = _recipe(args)
    commands = (
        Annotated[Train, tyro.conf.subcommand("train", default=Train(recipe))]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Predict, tyro.conf.subcommand("predict")]
        | Annotated[Summary, tyro.conf.subcommand("summary", default=Summary(recipe))]
        | Annotated[Verify, tyro.conf.subcommand("verify")]
    )
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                commands, prog="mnist-jax", args=args, config=(tyro.conf.FlagCreatePairsOff,)
            )
    except SystemExit as stop:
        if not stop.code:
            raise
    # tyro draws a box: a title, the message, a rule, further help. The message is what is wanted.
    lines = [line.strip("│ ") for line in printed.getvalue().splitlines()[1:]]
    rules = [number for number, line in enumerate(lines) if not line.strip("─-╰╯")]
    start = 1 if rules[0] == 0 else 0  # without Unicode there is a rule below the title
    message = " ".join(lines[start : rules[start]])
    message = re.sub(r"^Error parsing (?!--)\S+: ", "", message)
    if "Perhaps you meant:" in lines:
        message += f"; perhaps you meant {lines[lines.index('Perhaps you meant:') + 1].split()[0]}"
    command = next((f" {arg}" for arg in args if arg in COMMANDS), "")
    raise ValueError(f"{message} (see mnist-jax{command} --help)")


def _recipe(args: Sequence[str]) -> Config:
    """The config of `--config FILE`: its fields are the defaults of the other options."""
    recipe = Config()
    for arg, following in itertools.zip_longest(args, args[1:]):
        if arg.startswith("--config="):
            recipe = load_config(arg.partition("=")[2])
        elif arg == "--config" and following is not None:
            recipe = load_config(following)
    return recipe  # of the last one, as for every option
