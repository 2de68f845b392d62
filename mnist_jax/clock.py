"""Where the seconds of a run go."""

import importlib
import time
from types import ModuleType

IMPORT_SECONDS = 0.0  # what the package has needed to import its own modules, with JAX


def timed_import(name: str) -> ModuleType:
    """Imports a module, and adds what it takes to `IMPORT_SECONDS`."""
    global IMPORT_SECONDS
    start = time.perf_counter()
    try:
        return importlib.import_module(name)
    finally:
        IMPORT_SECONDS += time.perf_counter() - start


class Stopwatch:
    """Gives every second since it was made to one of the named phases.

    `seconds` maps each phase to wall-clock seconds. JAX works asynchronously: a phase must wait for
    its own results, or its work is counted in the next one.
    """

    def __init__(self, phases: tuple[str, ...]):
        self.seconds = dict.fromkeys(phases, 0.0)
        self._last = time.perf_counter()

    def lap(self, phase: str) -> float:
        """Counts the time since the last lap as `phase`, and returns it."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self.seconds[phase] += seconds
        return seconds
