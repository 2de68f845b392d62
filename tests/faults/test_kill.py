"""Killed runs: the same command resumes them, and no bit is lost."""

import random
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import harness
import pytest

pytestmark = pytest.mark.skipif(bool(harness.MISSING), reason=harness.MISSING)

RANDOM_KILLS, CREATIONS = 2, 2
# What a kill hits: `call path` as fnmatch takes it, how many such calls are let pass before, and
# whether the call is still made.
Place = tuple[str, int, bool]


def pattern(call: str) -> str:
    """Replaces the process ids and names of data in a call, which differ between runs."""
    call = re.sub(r"\S*/run\b", "*/run", call)
    return re.sub(r"[0-9a-f]{32}|(?<=\.)[0-9]+(?=\.tmp)", "*", call)


def kind(call: str) -> str:
    """Returns the purpose of a call, for any checkpoint and array."""
    return re.sub(r"\bvariables\b|\boptimizer\b|\bprogress\b|\b[0-9]+\b", "_", pattern(call))


def chains_of_saving() -> list[list[Place]]:
    """Lists both sides of every kind of rename, and places before some kinds of new files."""
    calls = harness.undisturbed().outcome.calls
    by_kind: dict[str, list[int]] = {}
    for number, call in enumerate(calls):
        by_kind.setdefault(kind(call), []).append(number)
    rng = random.Random(0)
    renames = [numbers for name, numbers in by_kind.items() if name.startswith("rename ")]
    creations = [by_kind[name] for name in by_kind if name.startswith(("mkdir ", "open "))]
    chosen = [(rng.choice(numbers), made) for numbers in renames for made in (False, True)]
    chosen += [(rng.choice(numbers), False) for numbers in rng.sample(creations, CREATIONS)]

    # In the order of the run: what comes later in a chain is still to come after a resume. Saves
    # run beside the training, so the files that training writes have a chain of their own.
    chosen.sort()
    patterns = [pattern(call) for call in calls]
    places = [
        (patterns[number], min(1, patterns[:number].count(patterns[number])), made)
        for number, made in chosen
    ]
    saves = [place for place in places if "/checkpoints/" in place[0]]
    return [[place for place in places if place not in saves], saves[0::2], saves[1::2]]


def places_of_deleting() -> list[list[Place]]:
    """Lists places before the first, a middle and the last deletion in an old checkpoint."""
    one, two, *_ = (f"*{directory}" for directory in harness.deleted_directories())
    return [
        [(f"unlink {one}/*", 0, False), (f"unlink {two}/*", 5, False)],
        [(f"unlink {one}/*", 5, True), (f"rmdir {two}", 0, False)],
    ]


def kill_at(root: Path, places: list[Place]) -> int:
    """Runs the command, killed at one place after another, then to its end; returns the kills."""
    for at, passed, made in places:
        fault = {"FAULT_AT": at, "FAULT_KILL": f"{passed + 1}{'+' if made else ''}"}
        outcome = harness.run(root, fault)
        assert outcome.code == harness.KILLED, f"{fault} of {root}: {outcome._replace(calls=[])}"
        assert (root / "run" / ".lock").exists()  # that of a killed process is in nobody's way
    harness.assert_finished(root, harness.run(root, {}))
    return len(places)


def test_a_run_killed_while_it_saves_resumes_to_the_same_bits(tmp_path):
    visible = "rename */run/checkpoints/12.orbax-checkpoint-tmp */run/checkpoints/12"
    assert kill_at(tmp_path / "root", [(visible, 0, False)]) == 1


@pytest.mark.slow
def test_runs_killed_on_both_sides_of_every_rename_resume_to_the_same_bits(tmp_path):
    chains = chains_of_saving()
    with ThreadPoolExecutor(2) as pool:
        roots = [tmp_path / str(number) for number in range(len(chains))]
        kills = sum(pool.map(kill_at, roots, chains))
    assert kills == sum(map(len, chains)) >= 18


@pytest.mark.slow
def test_runs_killed_while_an_old_checkpoint_is_deleted_resume_to_the_same_bits(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        roots = [tmp_path / "one", tmp_path / "two"]
        assert sum(pool.map(kill_at, roots, places_of_deleting())) == 4


@pytest.mark.slow
def test_runs_killed_at_random_times_resume_to_the_same_bits(tmp_path):
    def chain(seed: int) -> Counter[str]:
        rng, seconds = random.Random(seed), harness.undisturbed().outcome.seconds
        times = iter(lambda: ({}, rng.uniform(0, seconds)), None)
        return harness.kill_and_resume(tmp_path / str(seed), times, RANDOM_KILLS // 2)

    harness.undisturbed()
    with ThreadPoolExecutor(2) as pool:
        assert sum(seen["times"] for seen in pool.map(chain, [0, 1])) == RANDOM_KILLS
