"""The members of a population: which there are, and the work directory of each."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnist_jax.checkpoint import open_saver
from mnist_jax.config import AugmentConfig, CheckpointConfig, Config, replace_fields
from mnist_jax.history import write_history, write_json
from mnist_jax.state import TrainState
from mnist_jax.workdir import delete_leftovers, delete_run

# What a compiled step takes as a number: members that differ in these still share the program.
VARIABLE = (
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "model.dropout_rate",
    "label_smoothing",
    "ema_decay",
    *(f"augment.{f.name}" for f in dataclasses.fields(AugmentConfig) if f.type in (float, "float")),
)


LONGEST_NAME = 255  # of a file, nearly everywhere


class Member(NamedTuple):
    """A member of a population.

    Attributes:
        name: of its work directory.
        config: the recipe that trains it alone. Only the last step is saved.
        values: what it varies, by field.
    """

    name: str
    config: Config
    values: dict[str, float]


def create_members(config: Config, seeds: int, vary: Mapping[str, Sequence[float]]) -> list[Member]:
    """Returns the members: of every combination of the varied values, all seeds in turn.

    Args:
        config: the recipe; the first seed is its own, the others count up from there.
        seeds: how many.
        vary: the values that a field of `VARIABLE` takes.

    Raises:
        ValueError: a field cannot vary, or a value does not fit it.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    for field, values in vary.items():
        if field not in VARIABLE:
            raise ValueError(f"{field} cannot vary in a population; {', '.join(VARIABLE)} can")
        if not values or len({*values}) < len(values):
            raise ValueError(f"vary {field} must be different values, got {list(values)}")
    only_last = CheckpointConfig(every_epochs=config.epochs)
    members = []
    for numbers in itertools.product(*vary.values()):
        combination = dict(zip(vary, map(float, numbers), strict=True))
        varied = dataclasses.replace(config, checkpoint=only_last)
        varied = replace_fields(varied, combination)
        for seed in range(config.seed, config.seed + seeds):
            parts = [f"{field}={value!r}" for field, value in combination.items()]
            name = "_".join([*parts, f"seed-{seed}"])
            if len(name) > LONGEST_NAME:
                raise ValueError(f"vary must be fewer fields: {name} is too long for a directory")
            members.append(Member(name, dataclasses.replace(varied, seed=seed), combination))
    return members


def identity(members: Sequence[Member]) -> dict[str, Any]:
    """Returns `seeds`, and `values` by varied field, each in the order of the members."""
    return {
        "seeds": [member.config.seed for member in members],
        "values": {name: [member.values[name] for member in members] for name in members[0].values},
    }


def member_rows(history: Sequence[dict[str, Any]], member: int) -> list[dict[str, Any]]:
    """Returns a member's own history: its numbers out of the lists over all members."""
    return [
        {name: value[member] if isinstance(value, list) else value for name, value in row.items()}
        for row in history
    ]


def write_member(
    directory: Path,
    member: Member,
    state: TrainState,
    history: list[dict[str, Any]],
    result: dict[str, Any],
    origin: dict[str, Any],
) -> None:
    """Leaves a work directory as `train` does, with the last step only; the result comes last.

    Args:
        directory: where; what a write that was killed has left there is replaced.
        member: gives the config.
        state: of this member alone, after the last step.
        history: its rows.
        result: what its result.json holds.
        origin: the population's, see `train.Task`; its config becomes the member's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    delete_run(directory)
    delete_leftovers(directory)
    config = dataclasses.asdict(member.config)
    write_json(directory / "config.json", config)
    write_history(directory, history)
    with open_saver(directory / "checkpoints", ()) as saver:
        origin = origin | {"config": config}
        saver.save(state, {"history": history, "sums": [], "seconds": 0.0, "origin": origin})
    write_json(directory / "result.json", result)
