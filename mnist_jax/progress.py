"""The console of a training: a line for each epoch, a bar on a terminal, the result at the end."""

import dataclasses
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mnist_jax.config import Config
from mnist_jax.events import Begin, Chunk, Diverged, Done, Epoch, Event, Failed, Listener, Plateau
from mnist_jax.messages import printable
from mnist_jax.metrics import mean_and_spread, mean_metrics, no_better_than_guessing
from mnist_jax.processes.distributed import by_first_process
from mnist_jax.workdir.history import Row, best_row
from mnist_jax.workdir.origin import length_dependence
from mnist_jax.workdir.run import Result, is_tested, read_config

NEXT = {
    "report": "curves and mistakes, on a page",
    "serve": "draw, and see what it sees",
    "verify": "train again, compare the bits",
}
BAR: Any = {  # on a terminal: steps, rate, time left; elsewhere nothing
    "unit": " steps",
    "leave": False,
    "disable": None,
    "dynamic_ncols": True,
    "bar_format": "{percentage:3.0f}% {bar} {n}/{total}, {rate_fmt}, {remaining} left{postfix}",
}
TRY = "a lower --optimizer.learning-rate; and look whether the labels are right"


def console() -> Listener:
    """Returns a listener that prints the progress of a training, or of a population."""
    begin: Any = None
    bar: Any = None
    computed: Any = None  # the chunk before: reading the sums of the last one would wait

    @by_first_process
    def show(event: Event) -> None:
        nonlocal begin, bar, computed
        match event:
            case Begin(step=step, total_steps=total):
                begin, computed = event, None
                bar = tqdm(total=total, initial=step, **BAR)
                resumed = [f"continuing after step {step} of {total}"]
                for line in resumed if step else event.messages:
                    print(line)
            case Chunk():
                if not bar.disable:
                    bar.set_postfix_str(_accuracies(computed, event.history), refresh=False)
                computed = event
                bar.update(event.chunk_steps)
            case Epoch(row):
                bar.write(_epoch_line(row, begin.config))
            case Diverged(member, epoch, step):
                name = begin.members[member]
                bar.write(f"{name} diverged in epoch {epoch}, step {step}; the others go on")
            case Plateau(_, after) if not begin.members:
                bar.write(f"a plateau: from here on the learning rate times {after:.3g}")
            case Plateau(before, after):
                for name, old, new in zip(begin.members, before, after, strict=True):
                    if old != new:
                        bar.write(f"a plateau of {name}: the learning rate times {new:.3g}")
            case Done() | Failed():
                if bar:
                    bar.close()  # of the bar nothing stays
                if isinstance(event, Done):
                    for line in _end(event, begin):
                        print(line)
                begin = bar = None

    return show


def show_result(workdir: Path, result: Result, *, recipe: Path | None = None) -> None:
    """Prints the result as a panel on a terminal that is wide enough, elsewhere as plain lines.

    `recipe` is the file with the run's own parts, which the next commands need, if it has any.
    """
    options = f"--workdir {shlex.quote(str(workdir))}"
    options += f" --config {shlex.quote(str(recipe))}" if recipe else ""
    seconds = {name: value for name, value in result["seconds"].items() if value >= 0.05}
    total = seconds.pop("total", 0.0)
    files = sorted(path.name for path in workdir.iterdir() if not path.name.startswith("."))
    rows = [
        ("time", f"{total:.1f} s: " + ", ".join(f"{name} {s:.1f}" for name, s in seconds.items())),
        ("bits", f"params_sha256 {result['params_sha256'][:16]}..."),
        ("files", f"{workdir}: {', '.join(files)}"),
    ]
    if problem := _problem(result):
        rows += [("note", problem), ("try", TRY)]
    else:
        program = _program()
        rows += [("next", f"{program} {name} {options}  # {why}") for name, why in NEXT.items()]
    title = _accuracy(result)
    needed = max(len(text) for _, text in rows) + 12  # with names and frame
    if sys.stdout.isatty() and needed <= shutil.get_terminal_size().columns:
        _draw(title, rows)
    else:  # lines that a frame would break are to be copied
        print(title, *(f"{name:6}{text}" for name, text in rows), sep="\n")


def _accuracy(result: Mapping[str, Any]) -> str:
    """Spells the accuracy of a result: on the test split, where that is measured."""
    if is_tested(result):
        return f"test accuracy {result['test_accuracy']:.2%}"
    return f"validation accuracy {result['val_accuracy']:.2%}, test not measured"


def _problem(result: Mapping[str, Any]) -> str | None:
    """Describes in which way a result is no better than guessing; None if it is better."""
    guessed = result.get("guessing")
    return guessed and no_better_than_guessing(
        result["test_loss"], result["test_accuracy"], guessed
    )


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
        table.add_row(Text(name, "bold"), Text(printable(text)))
    # Its colours are for the terminal.
    Console(file=getattr(sys.stdout, "stream", None)).print(
        Panel(table, title=Text(title, "bold"), title_align="left", expand=False)
    )


def _accuracies(computed: Chunk | None, history: Sequence[Row]) -> str:
    """Returns the training accuracy of a computed chunk, and the last validation accuracy."""
    shown = []
    if computed:
        shown.append(f"train {mean_metrics([computed.sums])['accuracy']:.1%}")
    if history:
        shown.append(f"validation {np.mean(history[-1]['val_accuracy']):.1%}")
    return ", ".join(shown)


def _epoch_line(row: Any, config: Config) -> str:
    if isinstance(row["val_accuracy"], list):
        train, val = (_spelled(mean_and_spread(row[f"{x}_accuracy"])) for x in ("train", "val"))
        metrics = f"train accuracy {train}  validation accuracy {val}"
    else:
        metrics = (
            f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.2%}  "
            f"validation loss {row['val_loss']:.4f} accuracy {row['val_accuracy']:.2%}"
        )
    waited = f", waited {row['input_seconds']:.2f} s for images"
    return (
        f"epoch {row['epoch']:{len(str(config.epochs))}}/{config.epochs}  {metrics}  "
        f"{row['seconds']:.1f} s, {row['examples_per_second']:,.0f} images/s"
        f"{waited if config.data.loader == 'stream' else ''}"
    )


def _spelled(spread: dict[str, Any]) -> str:
    """A mean with its standard deviation as people read it: "98.58 ± 0.08 %"."""
    deviation = "" if spread["std"] is None else f" ± {100 * spread['std']:.2f}"
    return f"{100 * spread['mean']:.2f}{deviation} %"


def _end(done: Done, begin: Begin | None) -> list[str]:
    result, of_population = done.result, "members" in done.result
    lines = []
    if not done.trained:
        accuracy = "" if of_population else f": {_accuracy(result)}"
        config = read_config(done.workdir)
        fixed = of_population or (config and length_dependence(dataclasses.asdict(config)))
        extend = "" if fixed else "more --epochs with --extend to train on, "
        lines.append(
            f"{done.workdir} is complete{accuracy}. Use {extend}--overwrite to retrain, or another "
            "--workdir to keep it."
        )
    if of_population:
        return [*lines, *_members(result)]
    if begin and result["steps"] < begin.total_steps:
        last = done.history[-1]["epoch"]
        best = best_row(done.history, begin.config.watch.monitor)["epoch"]
        lines.append(f"stopped after epoch {last}; the best was epoch {best}")
    if begin and is_tested(result):
        count = len(begin.splits["test"].labels)
        figures = f"loss {result['test_loss']:.4f}  accuracy {result['test_accuracy']:.2%}"
        lines.append(f"test {figures} of {count:,} images")
    elif begin:
        lines.append(_accuracy(result))
    return lines


def _members(result: dict[str, Any]) -> list[str]:
    """The lines at the end: of each member or combination in validation, then the final test."""
    lines = []
    width = max(map(len, result["members"]))
    columns = ("members", "test_accuracy", "val_accuracy", "diverged")
    for name, test, val, diverged in zip(*(result[column] for column in columns), strict=True):
        note = "  diverged in epoch {epoch}, step {step}".format(**diverged) if diverged else ""
        shown = "" if result["values"] or test is None else f"  test {test:.2%}"
        if diverged or not result["values"]:
            lines.append(f"{name:{width}}  validation {val:.2%}{shown}{note}")
    combinations = result.get("combinations", [result])
    count = len(result["seeds"]) // len(combinations)
    for each in combinations:
        found = _with_interval("validation accuracy", each["validation"], count)
        lines.append(f"{_values(each)} {found}".lstrip())
    best = max(combinations, key=lambda each: each["validation"]["mean"])
    found = _with_interval("test accuracy", best, count)
    lines.append(f"best in validation: {_values(best)}; {found}" if result["values"] else found)
    measured = zip(result["test_loss"], result["test_accuracy"], strict=True)
    tested = [each for each in measured if each[1] is not None]
    guessed = result.get("guessing")
    if guessed and tested and all(no_better_than_guessing(*each, guessed) for each in tested):
        lines.append(f"none of them is better than guessing; try {TRY}")
    return lines


def _values(combination: dict[str, Any]) -> str:
    """Spells the varied values of a combination, "" where nothing varies."""
    values = combination.get("values", {}) if "members" not in combination else {}
    return " ".join(f"{name}={value!r}" for name, value in values.items())


def _with_interval(what: str, spread: dict[str, Any], count: int) -> str:
    if spread["mean"] is None:
        return f"{what} not measured"
    interval = "one seed: no spread, no interval"
    if spread["ci95"]:
        low, high = (100 * end for end in spread["ci95"])
        interval = f"95 % interval {low:.2f} to {high:.2f}, {count} seeds"
    return f"{what} {_spelled(spread)} ({interval})"
