"""A trace of some steps, for the profiler."""

from pathlib import Path

import jax

from mnist_jax.events import Chunk, Done, Event, Failed, Listener

FIRST, LAST = 2, 4  # chunks, from 1: the first one waits for more than the others


def profile(workdir: str | Path) -> Listener:
    """Returns a listener that records a few chunks to profile/ in a work directory.

    TensorBoard with its profile plugin shows them, as does https://ui.perfetto.dev. A run with
    fewer chunks is recorded to its end.

    References:
        https://docs.jax.dev/en/latest/profiling.html
    """
    directory = Path(workdir).absolute() / "profile"
    chunks, is_on = 0, False

    def record(event: Event) -> None:
        nonlocal chunks, is_on
        if isinstance(event, Chunk):
            chunks += 1
            if chunks == FIRST:
                jax.profiler.start_trace(str(directory))
                is_on = True
        is_last = isinstance(event, Chunk) and chunks > LAST
        if is_on and (is_last or isinstance(event, Done | Failed)):
            if isinstance(event, Chunk):
                jax.block_until_ready(event.sums)
            jax.profiler.stop_trace()
            is_on = False

    return record
