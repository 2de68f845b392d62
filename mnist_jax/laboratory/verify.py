"""Verification of a finished run's bits by repeating it."""

import dataclasses
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnist_jax.config import config_differences
from mnist_jax.events import Listener
from mnist_jax.parts import OwnMetrics, OwnModel, OwnOptimizer, Parts, own_names
from mnist_jax.processes.signals import Stopped
from mnist_jax.steps import LossFn
from mnist_jax.training import train
from mnist_jax.workdir.checkpoint import check_checkpoints, read_progress
from mnist_jax.workdir.history import Row, read_history, without_times
from mnist_jax.workdir.origin import UNTOLD, check_own, environment
from mnist_jax.workdir.run import is_tested, read_result
from mnist_jax.workdir.trained import trained_config


def verify(
    workdir: str | Path,
    *,
    model: OwnModel = None,
    tx: OwnOptimizer = None,
    loss_fn: LossFn | None = None,
    splits: Any = None,
    metrics: OwnMetrics = None,
    listeners: Sequence[Listener] = (),
) -> list[str]:
    """Repeats a finished run from its config.json in a temporary directory and compares the two.

    Warns if versions, devices or cores differ.

    Args:
        workdir: directory written by `train`, which is only read.
        model: own module, as in `train`; likewise the next four.
        tx: own optimizer.
        loss_fn: own loss.
        splits: own data.
        metrics: own metrics.
        listeners: functions called with each event of the repetition.

    Returns:
        A line for each different value of result.json and metrics.jsonl, except times and the
        environment.

    Raises FileNotFoundError if there is no finished run, and ValueError if it cannot be read or
    retrained.
    """
    workdir, parts = Path(workdir), Parts(model, tx, loss_fn, splits, metrics)
    config = trained_config(workdir)
    result = read_result(workdir)
    if result is None:
        raise FileNotFoundError(f"the run in {workdir} is not finished; `train` resumes it")
    saved, _ = check_checkpoints(workdir / "checkpoints")
    for step in saved[-1:]:
        own = read_progress(workdir / "checkpoints", step).origin.own
        check_own(own, dict.fromkeys(own_names(parts), ""), workdir, compare=False)
    now = environment(dataclasses.asdict(config))
    then = UNTOLD | {name: result[name] for name in now if name in result}
    if then != now:
        warnings.warn(
            f"the run in {workdir} was made in a different environment "
            f"({'; '.join(config_differences(then, now))}): its bits may differ",
            stacklevel=2,
        )
    with tempfile.TemporaryDirectory() as directory:
        try:
            run = train(
                config,
                directory,
                **parts._asdict(),
                test=is_tested(result),
                listeners=listeners,
            )
        except Stopped as stopped:
            raise Stopped(stopped.signum) from None  # there is nothing to resume
    before = _bits(result, read_history(workdir), now)
    later = {*run.result} - {*result}  # fields that an older version did not record
    again = _bits(run.result, run.history, now)
    return config_differences(before, {name: again[name] for name in again if name not in later})


def _bits(
    result: Mapping[str, Any], history: Sequence[Row], environment: dict[str, Any]
) -> dict[str, Any]:
    left_out = {*environment, "step_sha256"}  # depends on the environment
    values = {name: result[name] for name in without_times(result) if name not in left_out}
    return values | {f"epoch {row['epoch']}": without_times(row) for row in history}
