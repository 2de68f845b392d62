"""Where the seconds of a run go."""

import time

START = time.perf_counter()  # the package imports this module before anything slow
IMPORT_SECONDS = 0.0  # what it needed for the rest


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
