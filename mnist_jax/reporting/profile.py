"""Training chunks as a trace of JAX's profiler."""

import warnings
from pathlib import Path

import jax

from mnist_jax.events import Begin, Chunk, Done, Event, Failed, Listener, Stop
from mnist_jax.processes.distributed import by_first_process


def profile(workdir: str | Path, *, chunks: int = 3) -> Listener:
    """Creates a listener that records `chunks` chunks of a training in WORKDIR/profile.

    The first, a warm-up, is left out. A training without a second gives a warning and no trace.

    Raises ValueError if `chunks` is less than 1.
    """
    if chunks < 1:
        raise ValueError(f"chunks must be at least 1, got {chunks}")
    directory = Path(workdir).absolute() / "profile"
    begun, last_step, is_recording = 0, 0, False

    @by_first_process
    def record(event: Event) -> None:
        nonlocal begun, last_step, is_recording
        if isinstance(event, Begin):
            begun, last_step = 0, event.total_steps
        if isinstance(event, Chunk):
            begun += 1
            if begun in (1, 1 + chunks):
                jax.block_until_ready(event.sums)  # until the device is done
            if begun == 1 and event.step < last_step:
                jax.profiler.start_trace(directory)
                is_recording = True
        is_over = isinstance(event, Stop | Failed) or begun == 1 + chunks
        if is_recording and is_over:
            is_recording = False  # even if writing fails
            jax.profiler.stop_trace()
        if isinstance(event, Done) and begun < 2:
            warnings.warn(
                f"no profile: chunks trained: {begun}, of which the first is left out; use "
                "--overwrite or a smaller --chunk-steps",
                stacklevel=2,
            )

    return record
