"""The last thing that a training shows: result, where it is, and what to do next."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

NEXT = {
    "report": "curves and mistakes, on a page",
    "serve": "draw, and see what it sees",
    "verify": "train again, compare the bits",
}


def show_result(workdir: Path, result: dict[str, Any]) -> None:
    """Prints a panel on a terminal that is wide enough; elsewhere the same as plain lines.

    Args:
        workdir: of the run.
        result: what its result.json holds.
    """
    seconds = {name: value for name, value in result["seconds"].items() if value >= 0.05}
    total = seconds.pop("total", 0.0)
    files = sorted(path.name for path in workdir.iterdir() if not path.name.startswith("."))
    rows = [
        ("time", f"{total:.1f} s: " + ", ".join(f"{name} {s:.1f}" for name, s in seconds.items())),
        ("bits", f"params_sha256 {result['params_sha256'][:16]}..."),
        ("files", f"{workdir}: {', '.join(files)}"),
    ]
    rows += [
        ("next", f"{_program()} {command} --workdir {shlex.quote(str(workdir))}  # {purpose}")
        for command, purpose in NEXT.items()
    ]
    title = f"test accuracy {result['test_accuracy']:.2%}"
    needed = max(len(text) for _, text in rows) + 12  # with names and frame
    if sys.stdout.isatty() and needed <= shutil.get_terminal_size().columns:
        _draw(title, rows)
    else:  # lines that a frame would break are to be copied
        print(title, *(f"{name:6}{text}" for name, text in rows), sep="\n")


def _program() -> str:
    """How to call this program: it may lie in an environment that is not active."""
    if shutil.which("mnist-jax"):
        return "mnist-jax"
    called = Path(sys.argv[0])
    return shlex.quote(str(called)) if called.name == "mnist-jax" else "python -m mnist_jax"


def _draw(title: str, rows: list[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, text in rows:
        table.add_row(Text(name, "bold"), Text(text))
    Console().print(Panel(table, title=Text(title, "bold"), title_align="left", expand=False))
