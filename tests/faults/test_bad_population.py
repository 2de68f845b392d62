"""Bad input to `population`: exit code 2, one line that names it, and nothing written."""

from pathlib import Path
from typing import Any

import pytest

from mnist_jax import population
from mnist_jax.config import config_from_dict

START = "population --config tiny.json"
NEW = f"{START} --workdir new"
FILES = {
    "broken/population.json": '{"seeds": 3}',
    "cut/population.json": '{"seeds": [',
    "theirs/members/list.txt": "mine",
}


@pytest.fixture(scope="module")
def tree(tree: Path, tiny: dict[str, Any]) -> Path:
    """The current directory, with a finished population in many/."""
    population(config_from_dict(tiny), "many", seeds=2)
    return tree


ARGUMENTS = {
    f"{NEW}": "--seeds",
    f"{NEW} --seeds 0": "seeds must be at least 1, got 0",
    f"{NEW} --seeds 2 --seed 4294967295": "seed must be 0 to 2**32 - 1, got 4294967296",
    f"{NEW} --seeds 2 --watch.patience 3": "watch.patience must be 0 in a population",
    f"{NEW} --seeds 2 --data.loader stream": "data.loader must be memory in a population",
    f"{NEW} --seeds 2 --init-from many": "many holds a population, not a network",
    f"{NEW} --seeds 2 --vary ''": "--vary must be FIELD=V1,V2, got ''",
    f"{NEW} --seeds 2 --vary label_smoothing=a": "--vary must be FIELD=V1,V2, got",
    f"{NEW} --seeds 2 --vary epochs=1,2": "epochs cannot vary in a population; optimizer.learn",
    f"{NEW} --seeds 2 --vary lr=1": "lr cannot vary in a population (did you mean optimizer.learn",
    f"{NEW} --seeds 2 --vary label_smoothing=2": "label_smoothing must be at least 0 and below 1",
    f"{NEW} --seeds 2 --vary label_smoothing=0.1,0.1": "must be distinct values, got [0.1, 0.1]",
    f"{NEW} --seeds 2 --vary ema_decay=0 --vary ema-decay=0.5": "--vary must be given once for a",
    f"{NEW} --seeds 2 --against nowhere": "there is no finished population in nowhere",
    f"{NEW} --seeds 2 --against run": "there is no finished population in run",
    f"{NEW} --seeds 2 --against broken": "broken/population.json is not a result of a population",
    f"{NEW} --seeds 3 --against many": "the same seeds to be compared, got [0, 1] and [0, 1, 2]",
    f"{START} --seeds 2 --workdir ''": "--workdir must be a path, got ''",
    f"{START} --seeds 2 --workdir a-file": "the workdir a-file is a file",
    f"{START} --seeds 2 --workdir run": "run holds a single run: choose another --workdir",
    f"{START} --seeds 2 --workdir run --overwrite": "run holds a single run: choose another",
    f"{START} --seeds 2 --workdir theirs --overwrite": "theirs holds members but no config.json",
    f"{START} --seeds 3 --workdir many": "population of different members (seeds is [0, 1], not",
    f"{START} --seeds 2 --workdir many --epochs 2": "another config (epochs is 1, not 2)",
    "train --config tiny.json --workdir many": "many holds a population: choose another --workdir",
    "train --config tiny.json --workdir many --overwrite": "many holds a population: choose",
    "evaluate --workdir many": "a member of it, such as many/members/seed-0",
    f"{NEW} --seeds 2 --vary =1": "--vary must be FIELD=V1,V2, got '=1'",
    f"{NEW} --seeds 2 --vary label_smoothing=nan": "label_smoothing must be at least 0",
    f"{NEW} --seeds 2 --vary optimizer.weight_decay=0,1": "weight_decay has no effect with",
    f"{NEW} --seeds 2 --against cut": "cut/population.json is not JSON",
    f"{START} --seeds 2 --workdir many --vary ema_decay=0.5": "different members",
}


def test_bad_input_for_a_population_is_named(refuse_each):
    refuse_each(ARGUMENTS)
