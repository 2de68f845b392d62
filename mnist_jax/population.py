"""Trains many seeds of a recipe as one compiled program: mean, spread and interval."""

import contextlib
import dataclasses
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax import clock
from mnist_jax.checkpoint import delete_checkpoints, open_saver, prune, restore_state
from mnist_jax.config import Config, config_differences
from mnist_jax.hashing import network_sha256
from mnist_jax.history import json_number, read_json, write_history, write_json
from mnist_jax.members import (
    Member,
    create_members,
    identity,
    member_rows,
    write_member,
)
from mnist_jax.metrics import mean_metrics, total_sums
from mnist_jax.models import create_model
from mnist_jax.optimizer import create_optimizer
from mnist_jax.overfitting import rate_scale
from mnist_jax.population_program import Parts, PopulationProgram, compile_population, member_sums
from mnist_jax.retention import kept_steps
from mnist_jax.sharding import create_mesh, replicated
from mnist_jax.signals import Stopped, stop_requests
from mnist_jax.state import TrainState
from mnist_jax.statistics import check_pairs, compare, comparison_line, mean_and_spread
from mnist_jax.task import (
    BEGINNING,
    Row,
    create_task,
    how_to_go_on,
    last_checkpoint,
    progress_bar,
    step_options,
    transferred,
)
from mnist_jax.train import IMPORT_SECONDS, PHASES
from mnist_jax.transfer import frozen_parameters
from mnist_jax.workdir import (
    MEMBERS,
    delete_leftovers,
    delete_run,
    holds_run,
    lock_workdir,
)

Divergence = dict[str, int]  # where a member diverged: `epoch` and `step`, counted from 1


def population(
    config: Config,
    workdir: str | Path,
    *,
    seeds: int,
    vary: Mapping[str, Sequence[float]] | None = None,
    overwrite: bool = False,
    against: str | Path | None = None,
) -> dict[str, Any]:
    """Trains a population, or continues the unfinished one in `workdir`; prints a line an epoch.

    All members are one compiled program: on a CPU `jax.lax.map` takes them in turn inside it, which
    gives a member the bits that `train` gives its seed alone; on accelerators `jax.vmap` takes them
    at once, and several devices share them: then they agree as far as rounding goes. Varied values
    are arguments of the program, where `train` has constants: there, too, rounding may differ.

    A member whose loss is not finite any more is told and recorded, and counts with the accuracy
    that is measured. It has no work directory: `train` would not have given it one.

    Args:
        config: the recipe. Its seed is that of the first member.
        workdir: a directory for the results, made where there is none. It receives config.json,
            metrics.jsonl with lists over the members, population.json, and members/NAME/, a
            directory as `train` writes it for each member, with its last step.
        seeds: how many, counted up from the recipe's.
        vary: fields of `members.VARIABLE` and their values; every combination gets all seeds.
        overwrite: deletes a population that is in `workdir` and starts anew.
        against: a finished population of the same seeds, with which this one is compared at the
            end, see `statistics.compare`.

    Returns:
        What population.json holds: `members` (names), `seeds`, `values` by varied field,
        `test_accuracy`, `val_accuracy`, `test_loss`, `params_sha256` and `diverged`, each in the
        order of the members; `mean`, `std` and `ci95` of the test accuracy (None where values
        vary); with varied values the same of each of the `combinations`; and, as in result.json,
        `steps`, `data_sha256`, `seconds` and the environment. One seed has no `std` and no `ci95`.

    Raises:
        As `train`, but not FloatingPointError.
    """
    workdir = Path(workdir)
    if config.watch.patience:
        raise ValueError(
            "watch.patience must be 0 in a population, whose members train equally long, got "
            f"{config.watch.patience}"
        )
    if config.data.loader != "memory":
        raise ValueError(
            "data.loader must be memory in a population, which gathers its batches on the device, "
            f"got {config.data.loader!r}"
        )
    members = create_members(config, seeds, vary or {})
    for member in members:
        create_model(num_classes=2, **vars(member.config.model))  # or it says what does not fit
    other = None
    if against is not None:
        other = read_population(against)
        check_pairs(other, identity(members))
    result = _previous_result(workdir, config, members, overwrite)
    if result:
        if (workdir / "checkpoints").exists() or (workdir / ".lock").exists():  # it was killed
            with contextlib.suppress(OSError), lock_workdir(workdir):
                _delete_own_checkpoints(workdir)
        print(f"{workdir} is complete; --overwrite trains anew, another --workdir beside it.")
    else:
        absolute = workdir.absolute()  # wherever the program goes meanwhile
        with lock_workdir(absolute):
            result = _population(config, members, absolute, overwrite)
    for line in _table(result):
        print(line)
    if other:
        found = compare(other, result)
        print(f"A is {against}, B is {workdir}")
        for split in ("validation", "test"):
            print(comparison_line(found, split))
    return result


def read_population(workdir: str | Path) -> dict[str, Any]:
    """Returns what `population` has returned for a finished population.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it cannot be read.
    """
    path = Path(workdir) / "population.json"
    if not path.exists():
        raise FileNotFoundError(f"there is no finished population in {workdir}")
    result = read_json(path)
    kinds = {"seeds": list, "values": dict, "test_accuracy": list, "val_accuracy": list}
    if not isinstance(result, dict) or any(
        not isinstance(result.get(name), kind) for name, kind in kinds.items()
    ):
        raise ValueError(f"{path} is not a result of a population")
    return result


def _previous_result(
    workdir: Path, config: Config, members: list[Member], overwrite: bool
) -> dict[str, Any] | None:
    """The result of the population in `workdir`, if it is complete and not to be overwritten."""
    if not holds_run(workdir, config, overwrite, of_population=True):
        return None
    try:
        result = read_population(workdir)
    except FileNotFoundError:
        return None
    except ValueError as error:
        warnings.warn(f"{error}; it is made anew", stacklevel=3)
        return None
    now = identity(members)
    differences = config_differences({name: result[name] for name in now}, now)
    if differences:
        raise ValueError(
            f"{workdir} holds a population of other members ({'; '.join(differences)}): choose "
            "another --workdir, or start anew with --overwrite"
        )
    return result


def _population(
    config: Config, members: list[Member], workdir: Path, overwrite: bool
) -> dict[str, Any]:
    watch = clock.Stopwatch(PHASES)
    watch.seconds["import"] = IMPORT_SECONDS
    checkpoints = workdir / "checkpoints"

    task = create_task(config)
    splits, num_steps, total_steps = task.splits, task.steps_per_epoch, task.total_steps
    num_examples = len(splits["train"].labels)
    whose = identity(members)
    origin = task.origin | {"config": task.origin["config"] | {"population": whose}}
    saved, progress = [], BEGINNING
    if not overwrite:
        saved, _, progress = last_checkpoint(checkpoints, origin)
    watch.lap("data")

    # Compiling comes before the first write: what does not fit leaves the workdir as it was.
    program = _compile(config, members, splits, len(task.info.label_names), total_steps)
    state = program.state
    frozen = frozen_parameters(state.params, config.freeze)
    if saved:
        shapes = jax.eval_shape(program.collect, state)
        whole = replicated(create_mesh())
        state = program.place(restore_state(checkpoints, saved[-1], shapes, whole))
        origin = progress["origin"] | origin  # with the network that it began from
    elif config.init_from:
        singles = [_member_state(program.collect(state), member) for member in range(len(members))]
        singles, origin["init_sha256"] = transferred(singles, config, workdir)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *singles)
        state = program.place(stacked.replace(step=stacked.step[0]))
    watch.lap("compile")

    if overwrite:
        (workdir / "population.json").unlink(missing_ok=True)
        delete_run(workdir)
        for member in (workdir / MEMBERS).glob("*"):
            shutil.rmtree(member)
    delete_leftovers(workdir)
    (workdir / MEMBERS).mkdir(exist_ok=True)
    if overwrite or not (workdir / "config.json").exists():
        write_json(workdir / "config.json", dataclasses.asdict(config))
    history = list(progress["history"])
    sums = [_with_nan(chunk) for chunk in progress["sums"]]
    diverged: list[Divergence | None] = progress.get("diverged", [None] * len(members))
    write_history(workdir, history)  # without what was written after the checkpoint
    step = saved[-1] if saved else 0
    if step:
        print(f"continuing after step {step} of {total_steps}")
    elif frozen:
        print(f"frozen: {', '.join(frozen)}")
    saved_at = how_to_go_on(total_steps, overwrite)

    def note(values: Any, step: int) -> None:
        """Records the first value [N, k] of each member that is not finite; the last is of step."""
        values = np.asarray(values)
        for member in np.flatnonzero(~np.isfinite(values).all(axis=1)):
            if not diverged[member]:
                first = step - values.shape[1] + int(np.argmin(np.isfinite(values[member]))) + 1
                epoch = (first - 1) // num_steps + 1
                diverged[member] = {"epoch": epoch, "step": first}
                name = members[member].name
                bar.write(f"{name} diverged in epoch {epoch}, step {first}; the others go on")

    with contextlib.ExitStack() as stack:
        saver = stack.enter_context(open_saver(checkpoints, saved))
        requests = stack.enter_context(stop_requests())
        bar = stack.enter_context(progress_bar(step, total_steps))
        watch.lap("checkpoint")
        epoch_started = time.perf_counter() - progress["seconds"]
        scales = _rate_scales(history, config, len(members))
        pending = None
        for chunk in program.train_chunks(step, total_steps):
            state, chunk_sums = program.run_chunk(state, chunk, scales)
            # Waits for the chunk before: the device always has one to go on with.
            if pending:
                note(pending["loss_sum"], step)
            pending = chunk_sums
            sums.append(chunk_sums)
            step += chunk.num_steps
            bar.update(chunk.num_steps)

            ends_epoch = step % num_steps == 0
            stops = bool(requests)
            saves = stops or task.scheduled(step)
            if not ends_epoch and not saves:
                continue
            note(chunk_sums["loss_sum"], step)
            sums, pending = jax.device_get(sums), None
            watch.lap("train")
            if ends_epoch:
                measured = program.measure(state, "validation")
                seconds = time.perf_counter() - epoch_started
                history.append(_row(step // num_steps, step, sums, measured, seconds, num_examples))
                note([[metrics["loss"]] for metrics in measured], step)
                sums, epoch_started = [], time.perf_counter()
                watch.lap("eval")
                bar.write(_epoch_line(history[-1], config.epochs))
                write_history(workdir, history)
            if saves:
                saver.wait()
                prune(checkpoints, kept_steps(saved, [], task.scheduled))
                progress = {
                    "history": history,
                    "sums": [_without_nan(sums, len(members))] if sums else [],
                    "seconds": time.perf_counter() - epoch_started,
                    "origin": origin,
                    "diverged": diverged,
                }
                saver.save(program.collect(state), progress)
                saved.append(step)
            if stops:
                saver.wait()
                raise Stopped(requests[0], saved_at.format(step))
            watch.lap("checkpoint")
            if ends_epoch:
                now = _rate_scales(history, config, len(members))
                for member, before, after in zip(members, scales, now, strict=True):
                    if before != after:
                        bar.write(
                            f"a plateau of {member.name}: the learning rate times {after:.3g}"
                        )
                scales = now

        saver.wait()
        watch.lap("checkpoint")
        test = program.measure(state, "test")
        watch.lap("eval")
        state = program.collect(state)
        results = []
        for number, member in enumerate(members):
            if requests:
                raise Stopped(requests[0], saved_at.format(step))
            single = _member_state(state, number)
            if not member.config.ema_decay:
                single = single.replace(average={})
            rows = member_rows(history, number)
            result = {
                "test_loss": json_number(test[number]["loss"]),
                "test_accuracy": test[number]["accuracy"],
                "val_accuracy": rows[-1]["val_accuracy"],
                "best_step": step,  # of those that are saved
                "steps": step,
                "params_sha256": network_sha256(single.eval_variables),
                **{name: sha for name, sha in origin.items() if name.endswith("_sha256")},
                "seconds": watch.seconds | {"total": sum(watch.seconds.values())},
                **origin["environment"],
            }
            if not diverged[number]:
                directory = workdir / MEMBERS / member.name
                write_member(directory, member, single, rows, result, origin)
            results.append(result)
            watch.lap("checkpoint")

    watch.seconds["total"] = sum(watch.seconds.values())
    result = {
        "members": [member.name for member in members],
        **whose,
        **{
            name: [result[name] for result in results]
            for name in ("test_accuracy", "val_accuracy", "test_loss", "params_sha256")
        },
        "diverged": diverged,
        **_summary(members, [result["test_accuracy"] for result in results]),
        "steps": step,
        "data_sha256": origin["data_sha256"],
        "seconds": watch.seconds,
        **origin["environment"],
    }
    write_json(workdir / "population.json", result)
    _delete_own_checkpoints(workdir)
    return result


def _compile(
    config: Config, members: list[Member], splits: Any, num_classes: int, total_steps: int
) -> PopulationProgram:
    def build(values: dict[str, Any]) -> Parts:
        def varied(section: str) -> dict[str, Any]:
            prefix = f"{section}."
            return {
                name.removeprefix(prefix): value
                for name, value in values.items()
                if name.startswith(prefix)
            }

        tx = create_optimizer(
            **(vars(config.optimizer) | varied("optimizer")),
            freeze=config.freeze,
            num_steps=total_steps,
        )
        options = {name: value for name, value in values.items() if "." not in name}
        return Parts(
            create_model(num_classes=num_classes, **(vars(config.model) | varied("model"))),
            tx,
            step_options(config) | options | varied("augment"),
        )

    whose = identity(members)
    return compile_population(
        build,
        splits,
        seeds=whose["seeds"],
        values=whose["values"],
        averaged=any(member.config.ema_decay for member in members),
        batch_size=config.batch_size,
        chunk_steps=config.chunk_steps,
    )


def _member_state(state: TrainState, member: int) -> TrainState:
    """One member's own state, out of a collected one."""
    single = jax.tree.map(lambda x: x[member], state.replace(step=()))
    return single.replace(step=state.step)


def _rate_scales(history: list[Row], config: Config, count: int) -> list[float]:
    watch = config.watch
    losses = [
        [{"val_loss": float("inf") if loss is None else loss} for loss in of_member]
        for of_member in zip(*(row["val_loss"] for row in history), strict=True)
    ]
    return [
        rate_scale(rows, watch.plateau_patience, watch.plateau_factor)
        for rows in losses or [[]] * count
    ]


def _row(
    epoch: int,
    step: int,
    sums: list[Any],
    measured: list[dict[str, float]],
    seconds: float,
    num_examples: int,
) -> Row:
    """A row of the history as `train` has it, with a list over the members for each metric."""
    trained = [mean_metrics(member_sums(sums, member)) for member in range(len(measured))]
    pairs = list(zip(trained, measured, strict=True))
    return {
        "epoch": epoch,
        "step": step,
        "train_loss": [json_number(train["loss"]) for train, _ in pairs],
        "train_accuracy": [train["accuracy"] for train, _ in pairs],
        "val_loss": [json_number(val["loss"]) for _, val in pairs],
        "val_accuracy": [val["accuracy"] for _, val in pairs],
        "generalization_gap": [train["accuracy"] - val["accuracy"] for train, val in pairs],
        "seconds": seconds,
        "examples_per_second": len(pairs) * num_examples / seconds,
    }


def _without_nan(sums: list[Any], count: int) -> dict[str, Any]:
    """The sums of an unfinished epoch as JSON can hold them: lists over the members."""
    totals = [total_sums(member_sums(sums, member)) for member in range(count)]
    for total in totals:
        total["loss_sum"] = [json_number(loss) for loss in total["loss_sum"]]
    return {name: [total[name] for total in totals] for name in totals[0]}


def _with_nan(sums: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `_without_nan`: to NumPy, None is NaN."""
    losses = np.asarray(sums["loss_sum"], float)
    return {name: np.asarray(values) for name, values in sums.items()} | {"loss_sum": losses}


def _summary(members: list[Member], accuracies: list[float]) -> dict[str, Any]:
    if not members[0].values:
        return mean_and_spread(accuracies)
    combinations: list[dict[str, Any]] = []
    for values in {tuple(member.values.items()): None for member in members}:
        own = [a for m, a in zip(members, accuracies, strict=True) if m.values == dict(values)]
        combinations.append({"values": dict(values), **mean_and_spread(own)})
    return {"mean": None, "std": None, "ci95": None, "combinations": combinations}


def _delete_own_checkpoints(workdir: Path) -> None:
    """What they hold is in the members' directories."""
    delete_checkpoints(workdir / "checkpoints")
    with contextlib.suppress(OSError):  # a link to a larger disk stays
        (workdir / "checkpoints").rmdir()


def _epoch_line(row: Row, epochs: int) -> str:
    width = len(str(epochs))
    return (
        f"epoch {row['epoch']:{width}}/{epochs}  "
        f"train accuracy {_spelled(mean_and_spread(row['train_accuracy']))}  "
        f"validation accuracy {_spelled(mean_and_spread(row['val_accuracy']))}  "
        f"{row['seconds']:.1f} s, {row['examples_per_second']:,.0f} images/s"
    )


def _spelled(spread: dict[str, Any]) -> str:
    deviation = "" if spread["std"] is None else f" ± {100 * spread['std']:.2f}"
    return f"{100 * spread['mean']:.2f}{deviation} %"


def _table(result: dict[str, Any]) -> list[str]:
    """The lines at the end: of each member, or of each combination, and the summary."""
    lines = []
    width = max(map(len, result["members"]))
    columns = ("members", "test_accuracy", "val_accuracy", "diverged")
    for name, test, val, diverged in zip(*(result[column] for column in columns), strict=True):
        note = "  diverged in epoch {epoch}, step {step}".format(**diverged) if diverged else ""
        if diverged or not result["values"]:
            lines.append(f"{name:{width}}  test {test:.2%}  validation {val:.2%}{note}")
    for spread in result.get("combinations", [result]):
        values = [f"{name}={value!r}" for name, value in spread.get("values", {}).items()]
        count = len(result["seeds"]) // len(result.get("combinations", [result]))
        interval = "one seed: no spread, no interval"
        if spread["ci95"]:
            low, high = (100 * end for end in spread["ci95"])
            interval = f"95 % interval {low:.2f} to {high:.2f}, {count} seeds"
        lines.append(f"{' '.join([*values, 'test accuracy'])} {_spelled(spread)} ({interval})")
    return lines
