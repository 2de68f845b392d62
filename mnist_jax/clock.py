"""A stopwatch for the phases of a run."""

import importlib
import time
from types import ModuleType

IMPORT_SECONDS = 0.0  # spent importing the package's modules and JAX


def timed_import(name: str) -> ModuleType:
    """Imports a module, and adds its seconds to `IMPORT_SECONDS`."""
    global IMPORT_SECONDS
    start = time.perf_counter()
    try:
        return importlib.import_module(name)
    finally:
        IMPORT_SECONDS += time.perf_counter() - start


class Stopwatch:
    """Divides the wall-clock seconds since its creation among named phases, in `seconds`.

    JAX is asynchronous: a phase must wait for its own results, or the next one is charged for them.
    """

    def __init__(self, phases: tuple[str, ...]):
        self.seconds = dict.fromkeys(phases, 0.0)
        self._last = time.perf_counter()

    def lap(self, phase: str) -> float:
        """Adds the seconds since the last lap to a phase, and returns them."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self.seconds[phase] += seconds
        return seconds
