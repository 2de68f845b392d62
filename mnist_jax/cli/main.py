"""The command line: parse, call one function, turn errors into one line and an exit code."""

import contextlib
import io
import itertools
import json
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import jax
import tyro

import mnist_jax
from mnist_jax.cli.commands import COMMANDS, Common, Distributed, create_parser
from mnist_jax.cli.compilation_cache import use_compilation_cache
from mnist_jax.config import Config, load_config
from mnist_jax.messages import PrintableStream, one_line
from mnist_jax.processes.group import LOST, LostError, joined
from mnist_jax.processes.signals import SIGNALS, Stopped, raise_stopped, raise_unraisable
from mnist_jax.workdir.origin import JAX_SETTINGS

# Exit codes: 0 done; LOST if one of several processes was lost; 128 + N stopped by signal N; and
UNEXPECTED, BAD_INPUT, DIVERGED, CLOSED_PIPE = 1, 2, 3, 141
DIFFERENT = 4  # `verify` found different bits, `doctor` a problem, `predict` an unreadable file
# With these set otherwise, JAX refuses what the libraries do.
PINNED = {
    "jax_disable_jit": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
}


def main(args: Sequence[str] | None = None) -> int:
    """Runs `mnist-jax ARGS` and returns the exit code."""
    args = list(sys.argv[1:] if args is None else args)
    if args == ["--version"]:
        print(f"mnist-jax {mnist_jax.__version__}")
        return 0
    try:
        command = _parse(args)
        silence = _streams(out=False, err=False, warn=False)  # what others would say, one says
        with _streams(out=not (command.quiet or command.json), err=not command.quiet):
            if not command.no_compilation_cache:
                use_compilation_cache()
            processes = getattr(command, "distributed", Distributed(num_processes=1))
            with joined(**vars(processes)) as first, nullcontext() if first else silence:
                result = command.run()
        if command.json and first:
            print(json.dumps(result, indent=2, allow_nan=False))
        return 0 if command.is_good(result) else DIFFERENT
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
        code, message = _explain(error)
    print("error:", one_line(message), file=sys.stderr)
    return code


def run() -> NoReturn:
    """The `mnist-jax` command."""
    for signum in SIGNALS:
        signal.signal(signum, raise_stopped)
    sys.unraisablehook = raise_unraisable
    for name in ("PIL", "absl"):  # what Pillow and Orbax log, they also raise
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(  # of Orbax's writes that fail after the first one has
        lambda record: not record.getMessage().startswith("Task exception was never retrieved")
    )
    # Whatever the JAX_* variables of the shell are for, the command has the same bits.
    for name, value in (JAX_SETTINGS | PINNED).items():
        jax.config.update(name, value)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # At once, also in a pipe or a file; and a name that it has no letters for is spelled out.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    code = main()
    if code:
        # At once: threads that were saving, or compiling, would hold up or crash a tidy exit.
        sys.stderr.flush()
        os._exit(code)
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)  # it is done
    sys.exit(code)


@contextlib.contextmanager
def _streams(*, out: bool, err: bool, warn: bool = True) -> Iterator[None]:
    """Warnings go to standard error, a line each; progress and messages nowhere, if so wanted.

    A progress bar shows itself on a terminal: standard error.
    """
    stderr = sys.stderr

    def show_warning(message: Warning | str, *_: object) -> None:
        print("warning:", one_line(message), file=stderr)

    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always" if warn else "ignore", UserWarning if warn else Warning)
        warnings.showwarning = show_warning
        nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        stdout: Any = PrintableStream(sys.stdout) if out and sys.stdout else nowhere
        stack.enter_context(contextlib.redirect_stdout(stdout))
        if not err:
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


def _explain(error: Exception) -> tuple[int, str]:
    """The exit code and the message for an error."""
    if isinstance(error, FloatingPointError):
        return DIVERGED, str(error)
    if isinstance(error, LostError):
        return LOST, str(error)
    if isinstance(error, OSError) and error.errno:
        where = f"{error.filename}: " if error.filename else ""
        return BAD_INPUT, "; ".join([f"{where}{error.strerror}", *getattr(error, "__notes__", ())])
    if isinstance(error, ValueError | OSError):
        return BAD_INPUT, str(error)
    return UNEXPECTED, f"unexpected {type(error).__name__}: {error} (--debug shows where)"


def _parse(args: Sequence[str]) -> Common:
    """Turns arguments into a command; raises ValueError, with tyro's message, for wrong ones."""
    command = next((arg for arg in args if arg in COMMANDS), "")
    see = f"(see mnist-jax{' ' * bool(command)}{command} --help)"
    for arg in args:
        if re.match("--[^a-zA-Z]", arg):  # tyro takes it for the name of a file
            raise ValueError(f"Unrecognized options: {arg} {see}")
    workdirs = _values(args, "--workdir")
    if "" in workdirs:
        raise ValueError("--workdir must name a directory, got ''")  # a Path would make it "."
    if command == "predict" and any(a[:2] != "--" and not b for a, b in itertools.pairwise(args)):
        raise ValueError("an image must be the name of a file or a folder, got ''")
    if command in ("evaluate", "report") and len(workdirs) > 1:
        raise ValueError("--workdir must be given once, with all directories behind it")
    recipe = Config()  # the defaults of the other options; the last --config counts
    for file in _values(args, "--config"):
        recipe = recipe if file is None else load_config(file)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                create_parser(recipe),
                prog="mnist-jax",
                args=args,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
    # tyro draws a box: a title (in ASCII, a rule below it), the message, a rule or nothing, help.
    plain = re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue())  # on a terminal it has colours
    box = re.match(
        r"(?:╭.*|.*\n-+)\n(?:Error\sparsing\s(?!--)\S+:\s)?((?s:.+?))\n[─-]*$"
        r"(?:(?s:.*?)\nPerhaps you meant:\n(\S+))?",
        "\n".join(line.strip("│ ") for line in plain.splitlines()),
        re.MULTILINE,
    )
    message, similar = box.groups() if box else (plain, None)
    raise ValueError(f"{message}{f'; perhaps you meant {similar}' if similar else ''} {see}")


def _values(args: Sequence[str], option: str) -> list[str | None]:
    """Each value that is given to an option; None where it stands at the end."""
    pairs = itertools.zip_longest(args, args[1:])
    return [
        arg.partition("=")[2] if "=" in arg else following
        for arg, following in pairs
        if arg.partition("=")[0] == option
    ]
