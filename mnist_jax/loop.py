"""The training loop: it computes and decides, but writes and prints nothing.

It serves one network and a population, new and resumed runs; program and rules differ.
"""

import contextlib
from collections.abc import Callable, Generator
from typing import Any

from mnist_jax.clock import Stopwatch
from mnist_jax.events import Chunk, Epoch, Event, Plateau, Save, Stop
from mnist_jax.program import Program
from mnist_jax.start import Start


def training_events(
    program: Program,
    rules: Any,
    start: Start,
    *,
    stop_signal: Callable[[], int],
    stopwatch: Stopwatch,
) -> Generator[Event]:
    """Runs the chunks of a training and yields its events.

    The order is a promise: `Save` comes before `Epoch`, so every epoch shown is saved, and only
    states whose losses and values are finite are saved. The first chunk consumes the start's state.

    `stop_signal` returns the signal that asks to stop, or 0. Raises FloatingPointError if the
    network diverged.
    """
    state, step, progress, _ = start
    history, sums = (*progress.history,), [*progress.sums]
    seconds, input_seconds = progress.seconds, progress.input_seconds
    rate_factor, unchecked = rules.rate_factor(history), None
    last_step = step if rules.stops_early(history) else rules.total_steps
    with contextlib.closing(program.train_chunks(step, last_step)) as chunks:
        for chunk in chunks:
            waited = stopwatch.lap("data")
            state, chunk_sums = program.run_chunk(state, chunk, rate_factor)
            # This waits for the previous chunk only, so the device stays busy.
            if unchecked:
                yield from rules.check_losses(unchecked, step)
            unchecked = chunk_sums
            sums.append(chunk_sums)
            chunk_steps = chunk_sums["loss_sum"].shape[-1]
            step += chunk_steps
            yield Chunk(step, chunk_steps, chunk_sums, history)

            ends_epoch = step % rules.steps_per_epoch == 0
            signum = stop_signal()
            saves = signum or rules.is_scheduled(step)
            if ends_epoch or saves:
                yield from rules.check_losses(unchecked, step)
                unchecked = None
            seconds += waited + stopwatch.lap("train")
            input_seconds += waited
            if not (ends_epoch or saves):
                continue

            if ends_epoch:
                measured = program.measure(state, "validation")
                seconds += stopwatch.lap("eval")
                history += (rules.row(step, sums, measured, rate_factor, seconds, input_seconds),)
                sums, seconds, input_seconds = [], 0.0, 0.0
            # Each loss precedes its update, so the last update is checked apart.
            yield from rules.check_state(state, step, history[-1] if ends_epoch else None)
            if saves:
                progress = progress._replace(
                    history=history,
                    sums=[rules.totals(sums)] if sums else [],
                    seconds=seconds,
                    input_seconds=input_seconds,
                )
                yield Save(step, program.collect(state), progress)
                seconds += stopwatch.lap("checkpoint")
            if ends_epoch:
                yield Epoch(history[-1], state, history)
                stopwatch.lap("eval")
            if signum or (ends_epoch and rules.stops_early(history)):
                break
            before, rate_factor = rate_factor, rules.rate_factor(history)
            if rate_factor != before and step < last_step:
                yield Plateau(before, rate_factor)
        else:
            signum = 0
    yield Stop(step, state, history, signum)
