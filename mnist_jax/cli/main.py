"""The command line: arguments, a call of one function, errors as one line and an exit code."""

import contextlib
import gc
import io
import json
import logging
import os
import signal
import sys
import traceback
import warnings
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import mnist_jax
from mnist_jax import clock
from mnist_jax.cli import parser
from mnist_jax.cli.commands import COMMANDS
from mnist_jax.cli.help import command_help, overview
from mnist_jax.messages import PrintableStream, one_line
from mnist_jax.processes.signals import SIGNALS, Stopped, raise_stopped, raise_unraisable

# Exit codes: 0 done; 128 + N stopped by signal N; and
UNEXPECTED, BAD_INPUT, DIVERGED, CLOSED_PIPE = 1, 2, 3, 141
DIFFERENT = 4  # `verify` found different bits, `doctor` a problem, `predict` an unreadable file
LOST = 5  # one of several processes, as in `processes.group`, which imports JAX
# JAX's libraries fail with other values.
PINNED = {
    "jax_disable_jit": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
}


def main(args: Sequence[str] | None = None, *, own_process: bool = False) -> int:
    """Runs `mnist-jax ARGS`, with JAX and signals set up in its `own_process`; returns its code."""
    args = list(sys.argv[1:] if args is None else args)
    try:
        if text := help_text(args):
            print(text)
            return 0
        command = parse(args)
        if own_process:
            _set_up_process(jax_too=command.command.needs_jax)
        return _run(command)
    except KeyboardInterrupt as error:
        stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
        print(one_line(stopped), file=sys.stderr)
        return 128 + stopped.signum
    except BrokenPipeError:  # `| head` has read enough
        return CLOSED_PIPE
    except Exception as error:
        if "--debug" in args:
            traceback.print_exc()
        code, message = _explain(error)
    print("error:", one_line(message), file=sys.stderr)
    return code


def help_text(args: Sequence[str]) -> str:
    """Returns the version or help that the arguments ask for, or ""."""
    if list(args) == ["--version"]:
        return f"mnist-jax {mnist_jax.__version__}"
    if not args or args[0] in ("--help", "-h", "--help-all"):
        return overview(COMMANDS)
    before = args[: args.index("--")] if "--" in args else args
    if args[0] in COMMANDS and {"--help", "-h", "--help-all"} & {*before}:
        return command_help(COMMANDS[args[0]], everything="--help-all" in before)
    return ""


def parse(args: Sequence[str]) -> Namespace:
    """Reads a command and its options; ValueError if invalid."""
    return parser.parse(args, COMMANDS)


def _run(args: Namespace) -> int:
    command = args.command
    with _streams(out=not (args.quiet or args.json), err=not args.quiet):
        if not command.needs_jax:
            result, first = command.run(args), True
        else:
            from mnist_jax.cli.compilation_cache import use_compilation_cache
            from mnist_jax.processes.group import joined

            if not args.no_compilation_cache:
                use_compilation_cache()
            processes: dict[str, Any] = {"num_processes": 1}
            if "distributed.process_id" in args:
                names = ("coordinator", "num_processes", "process_id")
                processes = {name: getattr(args, f"distributed.{name}") for name in names}
            silence = _streams(out=False, err=False, warn=False)  # one process prints for all
            with joined(**processes) as first, nullcontext() if first else silence:
                result = command.run(args)
    if args.json and first:
        print(json.dumps(result, indent=2, allow_nan=False))
    return 0 if command.is_good(result) else DIFFERENT


def run() -> NoReturn:
    """The `mnist-jax` command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Lines at once, also in a pipe; letters that it lacks are escaped.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    code = main(own_process=True)
    if code:
        # At once: threads that save or compile would delay or crash a tidy exit.
        sys.stderr.flush()
        os._exit(code)
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    sys.exit(code)


def _set_up_process(*, jax_too: bool) -> None:
    """Imports JAX and the training; sets up signals, settings and logs."""
    if jax_too:
        gc.disable()  # objects of imports stay: the collector would search them in vain
        clock.timed_import("mnist_jax.training")
        import jax

        from mnist_jax.workdir.origin import JAX_SETTINGS

        gc.freeze()
        gc.enable()
        # The same bits, whatever the shell's JAX_* variables are.
        for name, value in (JAX_SETTINGS | PINNED).items():
            jax.config.update(name, value)
    for signum in SIGNALS:  # until here, `entry` ends the process at once
        signal.signal(signum, raise_stopped)
    sys.unraisablehook = raise_unraisable
    for name in ("PIL", "absl"):  # Pillow and Orbax also raise what they log
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(  # Orbax's writes that fail after the first failure
        lambda record: not record.getMessage().startswith("Task exception was never retrieved")
    )


@contextlib.contextmanager
def _streams(*, out: bool, err: bool, warn: bool = True) -> Iterator[None]:
    """Prints each warning in one line; hides standard output or error."""
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
    """Returns the exit code and the message for an error."""
    if isinstance(error, FloatingPointError):
        return DIVERGED, str(error)
    if type(error).__name__ == "LostError":
        return LOST, str(error)
    if isinstance(error, OSError) and error.errno:
        where = f"{error.filename}: " if error.filename else ""
        return BAD_INPUT, "; ".join([f"{where}{error.strerror}", *getattr(error, "__notes__", ())])
    if isinstance(error, ValueError | OSError):
        return BAD_INPUT, str(error)
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms and "jax" in sys.modules:
        from mnist_jax.cli.doctor import local_devices

        if not local_devices()[0]:
            message = f"JAX_PLATFORMS is {platforms}, but JAX finds no such device"
            return BAD_INPUT, f"{message}; unset it (see mnist-jax doctor)"
    return UNEXPECTED, f"unexpected {type(error).__name__}: {error} (--debug shows where)"
