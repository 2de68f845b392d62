"""Kills and resumes a small training a thousand times, and compares every bit of its result.

    python tests/faults/torture.py --kills 1000

Half of the kills come at random times, half at random changes of the file system. One line at the
end tells what was done; the exit code is 1 if anything was lost. What was lost is kept and named.
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))  # where pytest finds what tests share
import harness

KILLS_A_CHAIN = 5


def chain(root: Path, seed: int, kills: int) -> Counter[str] | str:
    """Kills one training after another; returns what was lost as text."""
    try:
        seen = harness.kill_and_resume(root, harness.random_faults(random.Random(seed)), kills)
    except Exception as error:  # of any kind: an unreadable workdir is lost, too
        return f"{type(error).__name__}: {error}"
    shutil.rmtree(root)
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(description="Kills and resumes a small training.")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side")
    args = parser.parse_args()
    if sys.flags.optimize:
        print("error: `python -O` drops the asserts that compare the bits", file=sys.stderr)
        return 2
    if harness.MISSING:
        print(f"error: {harness.MISSING}", file=sys.stderr)
        return 2

    harness.undisturbed()
    directory = Path(tempfile.mkdtemp(prefix="mnist_jax_torture_"))
    totals, lost = Counter[str](), 0
    with ThreadPoolExecutor(args.jobs) as pool, tqdm(total=args.kills, disable=None) as bar:
        chains = {}
        for number, first in enumerate(range(0, args.kills, KILLS_A_CHAIN)):
            seed, kills = args.seed + number, min(KILLS_A_CHAIN, args.kills - first)
            root = directory / f"seed-{seed}"
            chains[pool.submit(chain, root, seed, kills)] = (root, seed, kills)
        for future in as_completed(chains):
            (root, seed, kills), seen = chains[future], future.result()
            bar.update(kills)
            if isinstance(seen, Counter):
                totals += seen
            else:
                lost += 1
                again = f"python tests/faults/torture.py --seed {seed} --kills {kills}"
                tqdm.write(f"lost: {root} ({again}): {seen}", file=sys.stderr)
    if not lost:
        shutil.rmtree(directory)
    print(
        f"{totals['times'] + totals['calls']} kills ({totals['times']} at random times, "
        f"{totals['calls']} at file-system boundaries), {totals['resumes']} resumes, "
        f"{totals['compared']} runs compared, {f'{lost} runs lost' if lost else '0 bits lost'}"
    )
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
