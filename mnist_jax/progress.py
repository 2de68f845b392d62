"""The progress of a training on the console."""

import dataclasses
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from mnist_jax.config import Config
from mnist_jax.events import Begin, Chunk, Diverged, Done, Epoch, Event, Failed, Listener, Plateau
from mnist_jax.machine.extras import has_extra
from mnist_jax.metrics import (
    mean_and_spread,
    mean_metrics,
    no_better_than_guessing,
    spelled_loss,
)
from mnist_jax.processes.distributed import by_first_process
from mnist_jax.workdir.history import Row, best_row
from mnist_jax.workdir.origin import length_dependence
from mnist_jax.workdir.run import is_tested, read_config

BAR: Any = {  # shown on a terminal only
    "unit": " steps",
    "leave": False,
    "disable": None,
    "dynamic_ncols": True,
    "bar_format": "{desc}{percentage:3.0f}% {bar} {n}/{total}, {rate_fmt}, {remaining} left"
    "{postfix}",
}
OVERFIT = "fewer --epochs, a lower --optimizer.learning-rate, or more images"
TRY = "a lower --optimizer.learning-rate, and check that the labels are right"


def console() -> Listener:
    """Returns a listener that prints the progress of a training or a population."""
    begin: Any = None
    bar: Any = None
    computed: Any = None  # the previous chunk; the sums of the last one are not ready

    @by_first_process
    def show(event: Event) -> None:
        nonlocal begin, bar, computed
        match event:
            case Begin(step=step, total_steps=total):
                begin, computed = event, None
                bar = tqdm(total=total, initial=step, **BAR)
                resumed = [f"resuming after step {step} of {total}"]
                for line in [*_header(event), *(resumed if step else event.messages)]:
                    print(line)
            case Chunk():
                if not bar.disable:
                    epochs = f"epoch {len(event.history) + 1}/{begin.config.epochs} "
                    bar.set_description_str(epochs, refresh=False)
                    bar.set_postfix_str(_so_far(computed, event.history), refresh=False)
                computed = event
                bar.update(event.chunk_steps)
            case Epoch(row):
                bar.write(_epoch_line(row, begin.config))
            case Diverged(member, epoch, step):
                name = begin.members[member]
                bar.write(f"{name} diverged in epoch {epoch}, step {step}; the others continue")
            case Plateau(_, after) if not begin.members:
                bar.write(f"plateau: learning rate times {after:.3g} from here on")
            case Plateau(before, after):
                for name, old, new in zip(begin.members, before, after, strict=True):
                    if old != new:
                        bar.write(f"plateau of {name}: learning rate times {new:.3g}")
            case Done() | Failed():
                if bar:
                    bar.close()
                if isinstance(event, Done):
                    for line in _end(event, begin):
                        print(line)
                begin = bar = None

    return show


def show_result(workdir: Path, result: Mapping[str, Any], *, recipe: Path | None = None) -> None:
    """Prints the next command for a workdir, or the problem of a network that learned nothing.

    The command names a `recipe` that defines parts of the run.
    """
    guessed = result.get("guessing")
    figures = result["test_loss"], result["test_accuracy"]
    if guessed and (problem := no_better_than_guessing(*figures, guessed)):
        advice = OVERFIT if figures[1] > guessed["accuracy"] else TRY
        print(f"note: {problem}", f"try {advice}", sep="\n")
        return
    drawn = has_extra("report")
    command = "report" if drawn else "verify"
    why = "its curves and mistakes, on a page" if drawn else "train again, and compare the bits"
    show_next(command, workdir, *(("--config", recipe) if recipe else ()), why=why)


def show_next(*words: str | Path, why: str = "") -> None:
    """Prints a command to call next, and the reason if the line has room."""
    told = [
        f"./{word}" if isinstance(word, Path) and f"{word}"[0] == "-" else f"{word}"
        for word in words
    ]
    line = f"next: {_program()} {shlex.join(told)}"
    print(f"{line}  # {why}" if why and len(line + why) + 4 <= _columns() else line)


def _header(begin: Begin) -> list[str]:
    """Describes model, devices, data and workdir, in one line if it fits."""
    module = type(begin.model).__module__
    name = module.rpartition(".")[2]  # every architecture's class is `Model`
    name = name if module.startswith("mnist_jax.models.") else type(begin.model).__name__
    count, kind = jax.device_count(), jax.devices()[0].device_kind
    kind = kind.upper() if kind == "cpu" else kind
    devices = f"{count} x {kind}" if count > 1 else kind
    sizes = [f"{len(begin.splits[split].labels):,}" for split in begin.splits]
    members = f"{len(begin.members)} x " if begin.members else ""
    workdir, here = begin.workdir, Path.cwd()
    workdir = workdir.relative_to(here) if workdir.is_relative_to(here) else workdir
    return _joined(
        [
            f"{members}{name} ({begin.num_params:,} parameters) on {devices}",
            f"{begin.config.data.dataset} {'/'.join(sizes)}",
            f"in {workdir}",
        ],
        ", ",
    )


def _columns() -> int:
    return shutil.get_terminal_size((80, 24)).columns


def _joined(pieces: Sequence[str], separator: str) -> list[str]:
    """Joins whole pieces into lines that fit the terminal."""
    lines = [*pieces[:1]]
    for piece in pieces[1:]:
        if len(lines[-1] + separator + piece) <= _columns():
            lines[-1] += separator + piece
        else:
            lines.append(piece)
    return lines


def _accuracy(result: Mapping[str, Any]) -> str:
    """Spells a result's accuracy on the test split, if measured."""
    if is_tested(result):
        return f"test accuracy {result['test_accuracy']:.2%}"
    return f"validation accuracy {result['val_accuracy']:.2%}, test not measured"


def _program() -> str:
    """Returns the words that call this program, even outside its environment."""
    if shutil.which("mnist-jax"):
        return "mnist-jax"
    called = Path(sys.argv[0])
    return shlex.quote(str(called)) if called.name == "mnist-jax" else "python -m mnist_jax"


def _so_far(computed: Chunk | None, history: Sequence[Row]) -> str:
    """Describes the last computed chunk and validation."""
    shown = []
    if computed:
        mean = mean_metrics([computed.sums])
        shown.append(f"loss {mean['loss']:.3f}, train {mean['accuracy']:.1%}")
    if history:
        shown.append(f"validation {np.mean(history[-1]['val_accuracy']):.1%}")
    return ", ".join(shown)


def _epoch_line(row: Any, config: Config) -> str:
    """Describes an epoch in the longest form that fits the terminal."""
    epoch = f"{row['epoch']:{len(str(config.epochs))}}/{config.epochs}"
    took = f"{row['seconds']:.1f} s"
    rate = f"{took}, {row['examples_per_second']:,.0f} images/s"
    if config.data.loader == "stream":
        rate = f"{rate}, waited {row['input_seconds']:.2f} s for images"
    if isinstance(row["val_accuracy"], list):
        train, val = (_spelled(mean_and_spread(row[f"{x}_accuracy"])) for x in ("train", "val"))
        full = middle = f"train accuracy {train}  validation accuracy {val}"
    else:
        train, val = f"{row['train_accuracy']:.2%}", f"{row['val_accuracy']:.2%}"
        losses = f"{row['train_loss']:.4f}", f"{row['val_loss']:.4f}"
        full = "train loss {} accuracy {}  validation loss {} accuracy {}"
        full = full.format(losses[0], train, losses[1], val)
        middle = f"loss {losses[0]} acc {train}  val loss {losses[1]} acc {val}"
    forms = [
        f"epoch {epoch}  {full}  {rate}",
        f"epoch {epoch}  {middle}  {took}",
        f"{epoch}  train {train}  val {val}  {took}",
        f"{epoch}  {val}  {took}",
    ]
    return next((form for form in forms if len(form) <= _columns()), forms[-1])


def _spelled(spread: dict[str, Any]) -> str:
    """Spells a mean with its standard deviation: "98.58 ± 0.08 %"."""
    deviation = "" if spread["std"] is None else f" ± {100 * spread['std']:.2f}"
    return f"{100 * spread['mean']:.2f}{deviation} %"


def _end(done: Done, begin: Begin | None) -> list[str]:
    result, of_population = done.result, "members" in done.result
    lines = []
    if not done.trained:
        accuracy = "" if of_population else f": {_accuracy(result)}"
        config = read_config(done.workdir)
        fixed = of_population or (config and length_dependence(dataclasses.asdict(config)))
        ways = ["to retrain: --overwrite", "to keep it: another --workdir"]
        if not fixed:
            ways.append("to train on: more --epochs, and --extend")
        lines = [f"{done.workdir} is already trained{accuracy}", *_joined(ways, "; ")]
    if of_population:
        return [*lines, *_members(result)]
    if not begin:
        return lines
    if result["steps"] < begin.total_steps:
        last = done.history[-1]["epoch"]
        best = best_row(done.history, begin.config.watch.monitor)["epoch"]
        lines.append(f"stopped early after epoch {last}; the best was epoch {best}")
    if is_tested(result):
        count = len(begin.splits["test"].labels)
        accuracy = f"accuracy {result['test_accuracy']:.2%} of {count:,} images"
        lines += _joined([f"test loss {spelled_loss(result['test_loss'])}", accuracy], "  ")
    else:
        lines.append(_accuracy(result))
    seconds = {name: value for name, value in result["seconds"].items() if value >= 0.05}
    total = seconds.pop("total", 0.0)
    phases = [f"{name} {value:.1f}" for name, value in seconds.items()] or ["all"]
    return lines + _joined([f"{total:.1f} s: {phases[0]}", *phases[1:]], ", ")


def _members(result: dict[str, Any]) -> list[str]:
    """Describes each member or combination in validation, then the final test."""
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
    """Spells the varied values of a combination, "" for none."""
    values = combination.get("values", {}) if "members" not in combination else {}
    return " ".join(f"{name}={value!r}" for name, value in values.items())


def _with_interval(what: str, spread: dict[str, Any], count: int) -> str:
    if spread["mean"] is None:
        return f"{what} not measured"
    interval = "one seed: no spread, no interval"
    if spread["ci95"]:
        std, low, high = (100 * x for x in (spread["std"], *spread["ci95"]))
        interval = f"std {std:.2f}, 95 % interval {low:.2f} to {high:.2f}, {count} seeds"
    return f"{what} {100 * spread['mean']:.2f} % ({interval})"
