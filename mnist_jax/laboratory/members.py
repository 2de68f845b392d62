"""The members of a population: their recipes, rules and work directories."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mnist_jax.config import CheckpointConfig, Config, did_you_mean, replace_fields
from mnist_jax.events import Diverged
from mnist_jax.laboratory.member_program import member_sums
from mnist_jax.metrics import Sums
from mnist_jax.rules import Rules, finite_leaves, first_bad_step
from mnist_jax.start import NUMBERS
from mnist_jax.state import TrainState
from mnist_jax.training import make_ready
from mnist_jax.workdir.checkpoint import open_saver
from mnist_jax.workdir.files import json_number, write_json
from mnist_jax.workdir.history import TIMES, Progress, Row
from mnist_jax.workdir.origin import Origin
from mnist_jax.workdir.run import Result

Divergence = dict[str, int]  # a member's first bad `epoch` and `step`, counted from 1

LONGEST_NAME = 255  # characters in a file's name, on nearly every system


class Member(NamedTuple):
    """A member of a population: directory, recipe with its varied values, and these values.

    The recipe saves only the last step.
    """

    name: str
    config: Config
    values: dict[str, float]


def create_members(config: Config, seeds: int, vary: Mapping[str, Sequence[float]]) -> list[Member]:
    """Creates all seeds, counted up from the config's, for every combination of varied values.

    Raises ValueError if a field is not one of `NUMBERS`, or a value does not fit it.
    """
    if not hasattr(seeds, "__index__"):
        raise ValueError(f"seeds must be a whole number, got {seeds!r}")
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    varied_values = {}
    for field, values in vary.items():
        if field not in NUMBERS:
            raise ValueError(
                f"{field} cannot vary in a population{did_you_mean(field, NUMBERS)}; "
                f"{', '.join(NUMBERS)} can"
            )
        try:
            numbers = [float(value) for value in values if not isinstance(values, str)]
        except (TypeError, ValueError):
            raise ValueError(f"vary {field} must be a list of numbers, got {values!r}") from None
        if not numbers or len({*numbers}) < len(numbers):
            raise ValueError(f"vary {field} must be distinct values, got {values!r}")
        varied_values[field] = numbers
    config = dataclasses.replace(config, checkpoint=CheckpointConfig(every_epochs=config.epochs))
    members = []
    for numbers in itertools.product(*varied_values.values()):
        combination = dict(zip(vary, numbers, strict=True))
        varied = replace_fields(config, combination)
        parts = [f"{field}={value!r}" for field, value in combination.items()]
        for seed in range(config.seed, config.seed + seeds):
            name = "_".join([*parts, f"seed-{seed}"])
            if len(name) > LONGEST_NAME:
                raise ValueError(f"vary has too many fields: {name} is too long for a directory")
            members.append(Member(name, dataclasses.replace(varied, seed=seed), combination))
    return members


def identity(members: Sequence[Member]) -> dict[str, Any]:
    """Returns `seeds`, and `values` by varied field, in the order of the members."""
    return {
        "seeds": [member.config.seed for member in members],
        "values": {name: [member.values[name] for member in members] for name in members[0].values},
    }


def member_rows(history: Sequence[Mapping[str, Any]], member: int) -> list[Any]:
    """Extracts a member's history from rows with lists over all members."""
    return [
        {name: value[member] if isinstance(value, list) else value for name, value in row.items()}
        for row in history
    ]


class MemberRules(NamedTuple):
    """The decisions of a population, made for each member alone.

    Members that diverge are recorded and reported; the others continue. `each` has the members'
    rules, with their learning rates; checks fill in `diverged`.
    """

    each: Sequence[Rules]
    diverged: list[Divergence | None]

    @property
    def steps_per_epoch(self) -> int:
        return self.each[0].steps_per_epoch

    @property
    def total_steps(self) -> int:
        return self.each[0].total_steps

    def is_scheduled(self, step: int) -> bool:
        return self.each[0].is_scheduled(step)

    def kept_steps(self, saved: list[int], history: Sequence[Row]) -> set[int]:  # noqa: ARG002
        return self.each[0].kept_steps(saved, [])  # the best step is each member's own

    def stops_early(self, history: Sequence[Row]) -> bool:  # noqa: ARG002
        return False  # members train equally long

    def rate_factor(self, history: Sequence[Row]) -> list[float]:
        histories = (member_rows(history, member) for member in range(len(self.each)))
        return [rules.rate_factor(own) for rules, own in zip(self.each, histories, strict=True)]

    def totals(self, sums: Sequence[Sums]) -> dict[str, Any]:
        sums = jax.device_get(sums)
        totals = [rules.totals(member_sums(sums, m)) for m, rules in enumerate(self.each)]
        return {name: [total[name] for total in totals] for name in totals[0]}

    def row(
        self,
        step: int,
        sums: Sequence[Sums],
        measured: Any,
        factors: Sequence[float],
        *times: float,
    ) -> Row:
        sums = jax.device_get(sums)
        rows: list[Any] = [
            rules.row(step, member_sums(sums, m), measured[m], factors[m], *times)
            for m, rules in enumerate(self.each)
        ]
        row: Any = dict(rows[0])
        for name in {*row} - {"epoch", "step", *TIMES}:
            row[name] = [json_number(each[name]) for each in rows]
        row["examples_per_second"] *= len(rows)
        return row

    def check_losses(self, sums: Sums, last_step: int) -> list[Diverged]:
        """Records and returns the members with a non-finite loss."""
        each = enumerate(np.asarray(sums["loss_sum"]))
        return self._record({member: first_bad_step(own, last_step) for member, own in each})

    def check_state(self, state: TrainState, step: int, row: Row | None) -> list[Diverged]:
        """Records and returns the members with a non-finite value after `step`."""
        count = len(self.each)
        finite: Any = np.ones(count, bool)
        for leaf in map(np.asarray, finite_leaves(state, axes=1).values()):
            finite &= np.isfinite(leaf[:count]).reshape(count, -1).all(axis=1)
        if row:
            finite &= [loss is not None for loss in row["val_loss"]]
        return self._record(dict.fromkeys(np.flatnonzero(~finite).tolist(), step))

    def _record(self, bad_steps: dict[int, int | None]) -> list[Diverged]:
        """Records the members that have not diverged before."""
        events = []
        for member, step in bad_steps.items():
            if step and not self.diverged[member]:
                events.append(Diverged(member, (step - 1) // self.steps_per_epoch + 1, step))
                self.diverged[member] = {"epoch": events[-1].epoch, "step": step}
        return events


def write_member(
    directory: Path,
    member: Member,
    state: TrainState,
    history: Sequence[Row],
    result: Result,
    origin: Origin,
) -> None:
    """Writes a work directory as by `train`, with the last step only; the result comes last.

    Replaces the remains of a killed write. State and history are the member's, `origin` the
    population's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    make_ready(directory, member.config, history, overwrite=True)
    own_origin = origin._replace(config=dataclasses.asdict(member.config))
    with open_saver(directory / "checkpoints", ()) as saver:
        saver.save(state, Progress(own_origin, history))
    write_json(directory / "result.json", result)
