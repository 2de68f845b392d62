"""A search for better values of a recipe's fields, with Optuna: each trial is a run of `train`.

    WORKDIR/sweep.db        the study: parameters and validation accuracies of all trials
    WORKDIR/trials/NUMBER/  a trial's workdir; `train` there adds the missing test
    WORKDIR/best.json       the config of the best trial
    WORKDIR/plots/          Optuna's figures

A trial belongs to the process that holds the lock of its `.claim`. The kernel releases the lock
when that process ends, and another one resumes the trial at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_jax.config import Config, completed, config_differences, recipe_function, replace_fields
from mnist_jax.events import Begin, Done, Epoch, Event, Listener
from mnist_jax.laboratory.trials import draw_figures, format_trials, short
from mnist_jax.machine.extras import require
from mnist_jax.models import check_model
from mnist_jax.parts import NONE, Parts, own_names
from mnist_jax.processes.signals import Stopped
from mnist_jax.rules import stops_early
from mnist_jax.start import create_task
from mnist_jax.training import train
from mnist_jax.workdir.checkpoint import delete_checkpoints
from mnist_jax.workdir.files import write_json
from mnist_jax.workdir.history import Row, best_row, check_monitors
from mnist_jax.workdir.lock import lock_workdir
from mnist_jax.workdir.run import checked_workdir, read_config

if TYPE_CHECKING:  # an extra, imported in half a second
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

SearchSpace = Mapping[str, "BaseDistribution"]

DATABASE = "sweep.db"
LISTED = 10  # trials in the table at the end
CHECKED = 10_000  # combinations of extreme values; more would take too long
BUSY_SECONDS = 60  # longest wait for another process's write to SQLite


def load_search_space(path: str | Path) -> SearchSpace:
    """Calls a recipe's `get_search_space()`.

    Raises FileNotFoundError if there is no file, and ValueError if it does not define a search
    space or Optuna is not installed.
    """
    require("a sweep", "optuna", extra="sweep")
    function = recipe_function(path, "get_search_space")
    space: Any = function() if function else None
    if not _is_search_space(space):
        raise ValueError(
            f"{path} must define get_search_space() -> dict of field names and Optuna's "
            "distributions, beside get_config(), as configs/sweep.py does"
        )
    return space


def _is_search_space(space: Any) -> bool:
    from optuna.distributions import BaseDistribution

    if not isinstance(space, Mapping) or not space:
        return False
    return all(isinstance(n, str) and isinstance(v, BaseDistribution) for n, v in space.items())


def sweep(
    config: Config,
    search_space: SearchSpace,
    workdir: str | Path,
    *,
    trials: int,
    storage: str | None = None,
    parts: Callable[[Config], Parts] = lambda _: NONE,
    listeners: Sequence[Listener] = (),
    tell: Callable[[str], object] = lambda _: None,
) -> list[FrozenTrial]:
    """Searches for the values with the best validation accuracy, or resumes the search.

    Each trial trains a network in `trials/NUMBER` of the workdir, and is pruned if below the median
    of the others at the same epoch. Its value is the validation accuracy of the last epoch, or with
    early stopping of the best; 0 if it diverges. The test split is never measured.

    Any number of processes may search together. One alone always tries the same values; those of
    several depend on timing.

    Args:
        config: recipe; its seed is also the search's.
        search_space: Optuna's distributions by field name, such as
            {"optimizer.learning_rate": FloatDistribution(1e-4, 1e-2)}.
        workdir: directory for the results, created if missing.
        trials: number of finished or pruned trials at which the search ends.
        storage: URL of a database, whose study has the workdir's name; by default SQLite's sweep.db
            in the workdir. Killed trials resume in their own workdir.
        parts: function from a trial's config to the user's own parts.
        listeners: functions called with each event of every trial; a pruned one ends with `Failed`.
        tell: function called with a line per trial of this process, then lines about the search.

    Returns:
        The finished trials, the best first, the pruned last.

    Raises:
        ValueError: the search space does not fit the config, the workdir holds something else, or
            the storage cannot be opened.
        OSError: a file cannot be written; finished trials stay.
        Stopped: a signal arrived; the next call resumes the stopped trial.

    References:
        Akiba et al. 2019, Optuna: A Next-generation Hyperparameter Optimization Framework.
        Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization (the sampler, TPE).
        Golovin et al. 2017, Google Vizier, 3.2.2 (stopping below the median).
    """
    from optuna.distributions import distribution_to_json

    workdir = checked_workdir(config, workdir)
    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}")
    _check_search_space(config, search_space)
    _check_workdir(workdir, storage)
    workdir = workdir.absolute()
    spaces = {name: json.loads(distribution_to_json(each)) for name, each in search_space.items()}
    made_of: dict[str, Any] = {"config": dataclasses.asdict(config), "search_space": spaces}
    if own_names(own := parts(config)):
        origin = create_task(config, own).origin
        made_of |= {"own": origin.own, "environment": origin.environment}
    try:
        with _open_study(workdir, storage, made_of) as study:
            while True:
                with contextlib.ExitStack() as claim:
                    with _turn(workdir):
                        trial = _next_trial(study, workdir, trials, config.seed, search_space)
                        if trial is None:
                            return _conclude(study, config, workdir, trials, tell, parts)
                        claim.enter_context(_claim(workdir, trial.number))
                    own = replace_fields(config, trial.params)
                    tell(_run_trial(study, trial, own, parts(own), workdir, listeners))
    except Stopped as stopped:
        raise Stopped(
            stopped.signum,
            "; all trials are saved, the unfinished one too; to resume, run the same command again",
        ) from None


def _check_workdir(workdir: Path, storage: str | None) -> None:
    """Raises ValueError if a directory does not fit a search in `storage`."""
    has_own = (workdir / DATABASE).exists()
    if read_config(workdir):
        raise ValueError(f"{workdir} holds a run of `train`: choose another --workdir")
    if storage is not None and has_own:
        raise ValueError(f"{workdir} holds a search in its own {DATABASE}: leave out --storage")
    if storage is None and (workdir / "trials").exists() and not has_own:
        raise ValueError(
            f"{workdir} holds trials but no {DATABASE}: give their --storage or another --workdir"
        )


def _check_search_space(config: Config, search_space: Mapping[str, Any]) -> None:
    """Raises ValueError if a combination of extreme values does not make a config."""
    if not _is_search_space(search_space):
        raise ValueError(
            "search_space must be a dict of field names and Optuna's distributions, such as "
            f'{{"epochs": IntDistribution(1, 9)}}, got {search_space!r}'
        )
    for name in search_space:
        if name.startswith("data."):
            raise ValueError(
                f"the search space must not hold {name}: accuracies on different data cannot be "
                "compared"
            )
    ends = [
        getattr(each, "choices", None) or (each.low, each.high) for each in search_space.values()
    ]
    for values in itertools.islice(itertools.product(*ends), CHECKED):
        try:
            tried = replace_fields(config, dict(zip(search_space, values, strict=True)))
            check_model(**vars(tried.model))
            check_monitors(tried.watch)
        except ValueError as error:
            raise ValueError(f"the search space does not fit the config: {error}") from error


@contextlib.contextmanager
def _turn(workdir: Path) -> Iterator[None]:
    """Waits for the lock under which one process at a time chooses its trial."""
    with contextlib.ExitStack() as turn:
        while True:
            try:
                turn.enter_context(lock_workdir(workdir))
                break
            except BlockingIOError:
                time.sleep(0.02)
        yield


@contextlib.contextmanager
def _open_study(workdir: Path, storage: str | None, made_of: dict[str, Any]) -> Iterator[Study]:
    """Opens or creates the study; closes its connections at the end.

    Raises ValueError if the storage cannot be opened or its study differs in `made_of`, OSError if
    it fails later.
    """
    import optuna
    import sqlalchemy
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = storage
    if url is None:
        url = str(sqlalchemy.URL.create("sqlite", database=str(workdir / DATABASE)))
    errors = (SQLAlchemyError, StorageInternalError)
    try:
        with contextlib.ExitStack() as stack:
            with _turn(workdir):
                try:
                    is_sqlite = sqlalchemy.make_url(url).get_backend_name() == "sqlite"
                    options = {"connect_args": {"timeout": BUSY_SECONDS}} if is_sqlite else {}
                    database = optuna.storages.RDBStorage(url, options)
                except (*errors, ImportError, RuntimeError, LookupError, ValueError) as error:
                    where = workdir / DATABASE if storage is None else "--storage"
                    raise ValueError(f"{where} cannot be opened: {_reason(error)}") from error
                stack.callback(database.engine.dispose)
                stack.callback(database.remove_session)
                study = optuna.create_study(
                    storage=database,
                    study_name="sweep" if storage is None else workdir.name,
                    direction="maximize",
                    pruner=optuna.pruners.MedianPruner(),
                    load_if_exists=True,
                )
                before = study.user_attrs.get("made_of")
                if before is None:
                    study.set_user_attr("made_of", made_of)
            _check_same_search(workdir, before or made_of, made_of)
            yield study
    except errors as error:
        raise OSError(
            f"the study cannot be read or written: {_reason(error)}; finished trials stay: run the "
            "same command again to resume"
        ) from error


def _check_same_search(workdir: Path, before: dict[str, Any], made_of: dict[str, Any]) -> None:
    """Raises ValueError if the study was made of something else."""
    both = [dict(made) for made in (before, made_of)]
    owns = [made.pop("own", {}) for made in both]
    then, now = (made.pop("environment", None) for made in both)
    if then != now:  # hashes of code depend on it
        owns = [dict.fromkeys(own, "") for own in owns]
    if changed := {name for name, _ in owns[0].items() ^ owns[1].items()}:
        raise ValueError(
            f"{workdir} holds a search with a different {', '.join(sorted(changed))}: pass the "
            "same own parts, or choose another --workdir"
        )
    differences = config_differences(
        *(made | {"config": completed(made["config"])} for made in both)
    )
    if differences:
        raise ValueError(
            f"{workdir} holds a search with a different config or search space "
            f"({'; '.join(differences)}): choose another --workdir"
        )


def _reason(error: BaseException) -> str:
    """Returns the database's message, without its statement and advice."""
    error = error.__cause__ or error
    return str(getattr(error, "orig", None) or error).partition("\n")[0]


def _next_trial(
    study: Study, workdir: Path, trials: int, seed: int, search_space: SearchSpace
) -> Trial | None:
    """Chooses a trial, interrupted ones first; None if enough are finished or running.

    In a shared storage, trials without a directory here belong to other machines.
    """
    import optuna
    from optuna.trial import TrialState

    is_local = (workdir / DATABASE).exists()
    interrupted, under_way = [], 0
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        is_here = is_local or _directory(workdir, trial.number).exists()
        if not is_here or _is_claimed(workdir, trial.number):
            under_way += 1
        elif trial.params.keys() == search_space.keys():
            interrupted.append(trial)
        else:  # killed while its values were drawn
            study.tell(trial.number, state=TrialState.FAIL)
    if len(_finished(study)) + under_way >= trials:
        return None
    if interrupted:
        return optuna.Trial(study, interrupted[0]._trial_id)
    number = len(study.get_trials(deepcopy=False))
    # One seed per trial, so a resumed search does not repeat itself.
    [own_seed] = np.random.SeedSequence([seed, number]).generate_state(1).tolist()
    study.sampler = optuna.samplers.TPESampler(seed=own_seed)
    return study.ask(dict(search_space))


def _directory(workdir: Path, number: int) -> Path:
    return workdir / "trials" / str(number)


def _claim(workdir: Path, number: int) -> contextlib.AbstractContextManager[None]:
    """Locks a trial; raises BlockingIOError if another process has it."""
    return lock_workdir(_directory(workdir, number) / ".claim")


def _is_claimed(workdir: Path, number: int) -> bool:
    try:
        with _claim(workdir, number):
            return False
    except BlockingIOError:
        return True


def _run_trial(
    study: Study,
    trial: Trial,
    config: Config,
    parts: Parts,
    workdir: Path,
    listeners: Sequence[Listener],
) -> str:
    """Trains or resumes a trial, reports its value and returns a line about it."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    directory = _directory(workdir, trial.number)
    reported = set(study.get_trials(deepcopy=False)[trial.number].intermediate_values)
    history: list[Row] = []

    def follow_trial(event: Event) -> None:
        """Reports each epoch, and ends the training of a pruned trial."""
        if not isinstance(event, Begin | Epoch | Done):
            return
        history[:] = event.history
        for row in history:
            if row["epoch"] not in reported:
                trial.report(row["val_accuracy"], row["epoch"])
                reported.add(row["epoch"])
        if history and not _is_last(history, config) and trial.should_prune():
            raise TrialPruned

    try:
        with contextlib.suppress(TrialPruned):
            hear = [*listeners, follow_trial]
            train(config, directory, **parts._asdict(), test=False, listeners=hear)
        if _is_last(history, config):
            watch = config.watch
            row = best_row(history, watch.monitor) if watch.patience else history[-1]
            value = row["val_accuracy"]
            study.tell(trial.number, value)
            outcome = f"validation accuracy {value:.2%}"
        else:
            study.tell(trial.number, state=TrialState.PRUNED)
            delete_checkpoints(directory / "checkpoints")
            outcome = f"pruned after epoch {max(reported)} of {config.epochs}"
    except ValueError:  # the values fit no network; the next call draws others
        study.tell(trial.number, state=TrialState.FAIL)
        raise
    except FloatingPointError as error:
        trial.set_user_attr("diverged", str(error))
        study.tell(trial.number, 0.0)
        outcome = str(error)
    values = ", ".join(f"{name} {short(value)}" for name, value in trial.params.items())
    return f"trial {trial.number}: {outcome}  ({values})"


def _is_last(history: Sequence[Row], config: Config) -> bool:
    return history[-1]["epoch"] == config.epochs or stops_early(
        history, config.watch.patience, config.watch.monitor
    )


def _finished(study: Study) -> list[FrozenTrial]:
    """Returns the finished trials, the best first, the pruned last."""
    from optuna.trial import TrialState

    return sorted(
        study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)),
        key=lambda trial: (trial.state == TrialState.PRUNED, -(trial.value or 0.0), trial.number),
    )


def _conclude(
    study: Study,
    config: Config,
    workdir: Path,
    trials: int,
    tell: Callable[[str], object],
    parts: Callable[[Config], Parts],
) -> list[FrozenTrial]:
    """Lists the best trials; writes the best one's config and Optuna's figures."""
    finished = _finished(study)
    missing = trials - len(finished)
    if missing > 0:
        tell(f"{missing} of {trials} trials are still running in other processes")
    else:
        tell(f"the search in {workdir} is complete: {len(finished)} trials")
    if not finished:
        return []
    for line in format_trials(finished[:LISTED]).split("\n"):
        tell(line)
    for line in draw_figures(study, workdir / "plots"):
        tell(line)
    best = finished[0]
    if best.value:
        write_json(workdir / "best.json", dataclasses.asdict(replace_fields(config, best.params)))
        if own_names(parts(config)):
            values = best.params.items()
            options = [f"--{name.replace('_', '-')} {shlex.quote(str(x))}" for name, x in values]
            tell("best.json cannot hold the own parts, which RECIPE defines")
            tell(f"next: mnist-jax train --config RECIPE {' '.join(options)}")
        else:
            tell(f"next: mnist-jax train --config {workdir / 'best.json'}")
    return finished
