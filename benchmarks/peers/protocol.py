"""The line protocol between a peer and the driver.

    python PEER.py DATA.npz [OPTIONS]

A peer builds its network, reports its versions, and waits for commands. A command is a word on
standard input, an answer a line of JSON on standard output. So peers train in turn.

    (ready)  {"versions": {...}}
    epoch    {"seconds": s, "steps": n, "val_accuracy": a}     train an epoch, then validate
    test     {"test_accuracy": a}
    reset    {}                                                a new network, with the next seed

In whole trainings, `epoch` trains all epochs. `train_seconds` in its answer excludes validation.
"""

import json
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

Data = dict[str, tuple[np.ndarray, np.ndarray]]
Peer = tuple[Callable[[], dict[str, Any]], Callable[[], float]]


def serve(create: Callable[[Data, int], Peer], *modules: ModuleType) -> None:
    """Answers the driver until its input ends.

    Args:
        create: function (data, seed) -> (epoch, test). The data are images uint8 [N, 28, 28, 1] and
            labels int32 [N] by split. `epoch()` returns `steps` and `val_accuracy`, `test()` the
            accuracy.
        modules: packages whose versions are reported.
    """
    with np.load(sys.argv[1]) as file:
        data = {
            split: (file[f"{split}_images"], file[f"{split}_labels"])
            for split in ("train", "validation", "test")
        }
    seed = 0
    epoch, test = create(data, seed)
    _answer(versions={module.__name__: module.__version__ for module in modules})
    for command in map(str.strip, sys.stdin):
        if command == "epoch":
            start = time.perf_counter()
            result = epoch()
            _answer(seconds=time.perf_counter() - start, **result)
        elif command == "test":
            _answer(test_accuracy=test())
        elif command == "reset":
            seed += 1
            epoch, test = create(data, seed)
            _answer()
        else:
            raise ValueError(f"unknown command {command!r}; expected epoch, test or reset")


def _answer(**values: Any) -> None:
    print(json.dumps(values), flush=True)
