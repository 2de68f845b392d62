"""The training of many seeds of a recipe as one compiled program."""

import contextlib
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import jax

from mnist_jax import clock
from mnist_jax.config import Config, config_differences
from mnist_jax.events import Begin, Done, Listener
from mnist_jax.laboratory import member_program
from mnist_jax.laboratory.members import (
    Member,
    MemberRules,
    create_members,
    identity,
    member_rows,
    write_member,
)
from mnist_jax.loop import training_events
from mnist_jax.metrics import mean_and_spread
from mnist_jax.models import check_model
from mnist_jax.parts import OwnMetrics, OwnModel, OwnOptimizer, Parts
from mnist_jax.processes.signals import stop_requests
from mnist_jax.program import Program
from mnist_jax.start import (
    Start,
    Task,
    create_task,
    finished_parts,
    initial_state,
    last_checkpoint,
    learning_rate,
)
from mnist_jax.state import TrainState, count_params
from mnist_jax.steps import LossFn
from mnist_jax.training import PHASES, follow, make_ready, resumable, stopped, telling, train
from mnist_jax.workdir.checkpoint import delete_checkpoints, open_saver
from mnist_jax.workdir.files import json_number, read_json, write_json
from mnist_jax.workdir.history import Progress, read_history
from mnist_jax.workdir.lock import lock_workdir
from mnist_jax.workdir.run import (
    MEMBERS,
    Made,
    checked_workdir,
    create_result,
    holds_run,
    previous_result,
)

BY_MEMBER = ("test_accuracy", "val_accuracy", "test_loss", "params_sha256")


class Spread(TypedDict):
    """The fields of `metrics.mean_and_spread`."""

    mean: Any
    std: Any
    ci95: Any


class Combination(Spread):
    """The test accuracies of members with the same varied values, and their `validation`."""

    values: dict[str, float]
    validation: Spread


class PopulationResult(Spread, Made):
    """The content of population.json; lists are in the order of the members.

    `validation` describes the validation accuracies, by which to choose; `mean`, `std` and `ci95`
    the test's. If values vary, all are None, and each of the `combinations` has them. Without a
    test its values are None, with one seed `std` and `ci95`. `values` are by varied field;
    `diverged` is None or a member's first bad epoch and step. The others are as in
    `workdir.run.Result`.
    """

    members: list[str]
    seeds: list[int]
    values: dict[str, list[float]]
    test_accuracy: list[Any]
    val_accuracy: list[float]
    test_loss: list[Any]
    params_sha256: list[str]
    diverged: list[dict[str, int] | None]
    guessing: NotRequired[dict[str, float]]
    validation: Spread
    combinations: NotRequired[list[Combination]]


def population(
    config: Config,
    workdir: str | Path,
    *,
    seeds: int,
    vary: Mapping[str, Sequence[float]] | None = None,
    model: OwnModel = None,
    tx: OwnOptimizer = None,
    loss_fn: LossFn | None = None,
    splits: Any = None,
    metrics: OwnMetrics = None,
    test: bool = True,
    overwrite: bool = False,
    listeners: Sequence[Listener] = (),
) -> PopulationResult:
    """Trains a population, or resumes the unfinished one in `workdir`.

    All members are one compiled program. On a CPU `jax.lax.map` runs them in turn, so a member with
    one of this package's networks has the bits of `train` with its config. On accelerators
    `jax.vmap` runs them at once, on all devices; their bits, and those of other modules, agree up
    to rounding.

    A member with a non-finite value is reported and recorded, and counts with its measured
    accuracy. It has no work directory.

    Args:
        config: recipe with the first member's seed.
        workdir: directory for the results, created if missing: config.json, metrics.jsonl with
            lists over the members, population.json, and members/NAME/, each member's work directory
            as by `train`, with its last step.
        seeds: number of seeds, counted up from the recipe's.
        vary: fields of `start.NUMBERS` and their values; every combination gets all seeds.
        model: own module, as in `train`; likewise the next four.
        tx: own optimizer.
        loss_fn: own loss.
        splits: own data.
        metrics: own metrics.
        test: False to skip the test split; a later call with True measures it alone.
        overwrite: True to delete the population in `workdir` and retrain.
        listeners: functions called with each event.

    Returns:
        The content of population.json.

    Raises the errors of `train` except FloatingPointError.
    """
    workdir = checked_workdir(config, workdir)
    if config.watch.patience:
        raise ValueError(
            "watch.patience must be 0 in a population, whose members train equally long, got "
            f"{config.watch.patience}"
        )
    if config.data.loader != "memory":
        raise ValueError(
            "data.loader must be memory in a population, which gathers batches on the device, got "
            f"{config.data.loader!r}"
        )
    if jax.process_count() > 1:
        raise ValueError(
            f"a population trains in one process, with all its devices, got {jax.process_count()} "
            "processes"
        )
    parts = Parts(model, tx, loss_fn, splits, metrics)
    members = create_members(config, seeds, vary or {})
    for section, own in (("model", model), ("optimizer", tx)):
        varied = [field for field in vary or {} if field.startswith(f"{section}.")]
        if varied and own is not None:
            raise ValueError(f"{varied[0]} cannot vary: your own {section} ignores it")
    for member in members:
        check_model(**vars(member.config.model))
    result = _previous_result(workdir, config, members, parts, overwrite)
    if result and test and None in result["test_accuracy"]:
        result = _add_test(result, members, workdir.absolute(), parts)
    with telling(listeners) as tell:
        if result:
            if (workdir / "checkpoints").exists() or (workdir / ".lock").exists():  # was killed
                with contextlib.suppress(OSError), lock_workdir(workdir):
                    _delete_own_checkpoints(workdir)
            tell(Done(workdir, result, [], trained=False))
        else:
            absolute = workdir.absolute()  # the program may change its directory
            with resumable(absolute, overwrite), lock_workdir(absolute):
                result = _population(
                    config, members, absolute, parts, tell, test=test, overwrite=overwrite
                )
                tell(Done(absolute, result, read_history(absolute)))
    return result


def read_population(workdir: str | Path) -> PopulationResult:
    """Reads the result of a finished population.

    Raises FileNotFoundError if there is none, ValueError if it is unreadable.
    """
    path = Path(workdir) / "population.json"
    if not path.exists():
        raise FileNotFoundError(f"there is no finished population in {workdir}")
    result: Any = read_json(path)
    lists = ("seeds", "test_accuracy", "val_accuracy", "diverged")
    kinds = {"values": dict, **dict.fromkeys(lists, list)}
    values = result if isinstance(result, dict) else {}
    if not all(isinstance(values.get(name), kind) for name, kind in kinds.items()):
        raise ValueError(f"{path} is not a result of a population")
    if "validation" not in values:  # of an older version
        values |= _summary(values["values"], values["test_accuracy"], values["val_accuracy"])
    return cast("PopulationResult", values)


def _previous_result(
    workdir: Path, config: Config, members: list[Member], parts: Parts, overwrite: bool
) -> PopulationResult | None:
    """Reads the population in `workdir`, if complete and not to be overwritten."""
    if not holds_run(workdir, config, overwrite, of_population=True):
        return None
    try:
        result = read_population(workdir)
    except FileNotFoundError:
        return None
    except ValueError as error:
        warnings.warn(f"{error}; retraining the population", stacklevel=3)
        return None
    now = identity(members)
    differences = config_differences({name: result[name] for name in now}, now)
    if differences:
        raise ValueError(
            f"{workdir} holds a population of different members ({'; '.join(differences)}): choose "
            "another --workdir, or retrain with --overwrite"
        )
    for member, diverged in zip(members, result["diverged"], strict=True):
        directory, steps = workdir / MEMBERS / member.name, result["steps"]
        if diverged:
            continue
        if previous_result(directory, member.config, overwrite=False) is None:
            problem = f"{directory} is incomplete; retraining the population"
            warnings.warn(problem, stacklevel=3)
            return None
        finished_parts(directory, member.config, parts, steps, steps)
    return result


def _population(
    config: Config,
    members: list[Member],
    workdir: Path,
    parts: Parts,
    tell: Listener,
    *,
    test: bool,
    overwrite: bool,
) -> PopulationResult:
    stopwatch = clock.Stopwatch(PHASES)
    stopwatch.seconds["import"] = clock.IMPORT_SECONDS
    task, program, rules, start, saved = _compiled(
        config, members, workdir, parts, overwrite, stopwatch
    )
    history, origin = start.progress.history, start.progress.origin
    total_steps = rules.total_steps
    if overwrite:
        (workdir / "population.json").unlink(missing_ok=True)
        for member in (workdir / MEMBERS).glob("*"):
            shutil.rmtree(member)
    (workdir / MEMBERS).mkdir(exist_ok=True)
    make_ready(workdir, config, history, overwrite)
    begin = Begin(
        config,
        workdir,
        task.build({}).model,
        count_params(start.state.params, members=True),
        task.splits,
        start.step,
        total_steps,
        history,
        start.messages,
        [member.name for member in members],
    )
    with contextlib.ExitStack() as stack:
        saver = stack.enter_context(open_saver(workdir / "checkpoints", saved))
        requests = stack.enter_context(stop_requests())

        def stop_signal() -> int:
            return max(requests, default=0)

        tell(begin)
        stopwatch.lap("checkpoint")
        events = training_events(
            program, rules, start, stop_signal=stop_signal, stopwatch=stopwatch
        )
        end = follow(events, workdir, saver, saved, rules.kept_steps, tell)
        if end.signum:
            raise stopped(end, total_steps, overwrite)
        stopwatch.lap("checkpoint")
        measured = program.measure(end.state, "test") if test and "test" in task.splits else []
        tested: Any = [each | {"loss": json_number(each["loss"])} for each in measured]
        tested = tested or [None] * len(members)
        stopwatch.lap("eval")
        state, results = program.collect(end.state), []
        alone = origin._replace(step_sha256=None)  # a member alone has a different program
        for number, member in enumerate(members):
            if stop_signal():
                raise stopped(end._replace(signum=stop_signal()), total_steps, overwrite)
            own, rows = _member_state(state, number, member), member_rows(end.history, number)
            result = create_result(
                own.eval_variables,
                tested[number],
                rows[-1],
                guessing=task.guessing,
                best_step=end.step,  # the only saved one
                steps=end.step,
                origin=alone,
                seconds=_with_total(stopwatch),
            )
            if not rules.diverged[number]:
                directory = workdir / MEMBERS / member.name
                write_member(directory, member, own, rows, result, alone)
            results.append(result)
            stopwatch.lap("checkpoint")

    whole: Any = {
        "members": list(begin.members),
        **identity(members),
        **_measured(identity(members)["values"], results),
        "diverged": rules.diverged,
        "steps": end.step,
        "data_sha256": origin.data_sha256,
        "seconds": _with_total(stopwatch),
        **origin.environment,
    }
    write_json(workdir / "population.json", whole)
    _delete_own_checkpoints(workdir)
    return whole


def _compiled(
    config: Config,
    members: list[Member],
    workdir: Path,
    parts: Parts,
    overwrite: bool,
    stopwatch: clock.Stopwatch,
) -> tuple[Task, Program, MemberRules, Start, list[int]]:
    """Compiles before the first write, so an error leaves the workdir unchanged.

    Also returns the saved steps.
    """
    task, who = create_task(config, parts), identity(members)
    origin = task.origin._replace(config=task.origin.config | {"population": who})
    saved, progress = [], Progress(origin)
    if not overwrite:
        saved, progress = last_checkpoint(workdir / "checkpoints", origin)
    diverged: Any = progress.diverged or [None] * len(members)
    rates = [learning_rate(member.config, parts, task.rules.total_steps) for member in members]
    rules = MemberRules([task.rules._replace(learning_rate=rate) for rate in rates], diverged)
    progress = progress._replace(diverged=diverged)
    stopwatch.lap("data")
    same = {name: [value] * len(members) for name, value in task.numbers.items()}
    program = member_program.compile_population(
        task.build,
        task.splits,
        seeds=who["seeds"],
        values=same | who["values"],
        averaged=any(member.config.ema_decay for member in members),
        batch_size=config.batch_size,
        chunk_steps=config.chunk_steps,
    )
    start = initial_state(program, workdir, config, saved, progress, origin, members=True)
    stopwatch.lap("compile")
    return task, program, rules, start, saved


def _with_total(stopwatch: clock.Stopwatch) -> dict[str, float]:
    return stopwatch.seconds | {"total": sum(stopwatch.seconds.values())}


def _member_state(state: TrainState, number: int, member: Member) -> TrainState:
    """Extracts a member's state from a collected one."""
    own = jax.tree.map(lambda x: x[number], state.replace(step=()))
    return own.replace(step=state.step, average=own.average if member.config.ema_decay else {})


def _add_test(
    result: PopulationResult, members: list[Member], workdir: Path, parts: Parts
) -> PopulationResult:
    """Tests a finished population that lacks it, except members that diverged."""

    def tested(number: int, member: Member) -> Any:
        if result["diverged"][number]:
            return {name: result[name][number] for name in BY_MEMBER}
        own = workdir / MEMBERS / member.name
        return train(member.config, own, **parts._asdict()).result

    with lock_workdir(workdir):
        results = [tested(number, member) for number, member in enumerate(members)]
        whole: Any = {**result, **_measured(result["values"], results)}
        write_json(workdir / "population.json", whole)
    return whole


def _measured(values: dict[str, list[float]], results: Sequence[Mapping[str, Any]]) -> Any:
    """Collects the members' results for population.json."""
    guessed = [result["guessing"] for result in results if "guessing" in result]
    columns = {name: [result[name] for result in results] for name in BY_MEMBER}
    return {
        **columns,
        **({"guessing": guessed[0]} if guessed else {}),
        **_summary(values, columns["test_accuracy"], columns["val_accuracy"]),
    }


def _summary(
    values: dict[str, list[float]], test: list[float | None], validation: list[float]
) -> dict[str, Any]:
    """Computes the spread of all members, or of each combination of varied values."""
    if not values:
        return {**mean_and_spread(test), "validation": mean_and_spread(validation)}
    by_values: dict[tuple[float, ...], list[int]] = {}
    for number, numbers in enumerate(zip(*values.values(), strict=True)):
        by_values.setdefault(numbers, []).append(number)
    combinations = [
        {"values": dict(zip(values, numbers, strict=True))}
        | _summary({}, [test[i] for i in own], [validation[i] for i in own])
        for numbers, own in by_values.items()
    ]
    unknown = dict.fromkeys(("mean", "std", "ci95"))
    return {**unknown, "validation": unknown, "combinations": combinations}


def _delete_own_checkpoints(workdir: Path) -> None:
    """Deletes the population's checkpoints, whose content the members' directories hold."""
    delete_checkpoints(workdir / "checkpoints")
    with contextlib.suppress(OSError):  # a link to a larger disk stays
        (workdir / "checkpoints").rmdir()
