"""Where the seconds of a run go."""

import contextlib
import time
from collections.abc import Iterator

START = time.perf_counter()  # the package imports this module before anything slow


class Stopwatch:
    """Adds up the seconds spent in named phases.

    `seconds` maps each phase to wall-clock seconds. JAX works asynchronously: a phase must wait for
    its own results, or its work is counted in the next one.
    """

    def __init__(self, phases: tuple[str, ...]):
        self.seconds = dict.fromkeys(phases, 0.0)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time spent in the `with` block as `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start
