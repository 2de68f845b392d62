"""Batches of waiting items: order, limits, errors and cancellation."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mnist_jax.serving.batching import Batcher, BusyError


class Doubler:
    """Doubles numbers, the first batch only when it is let go; keeps its batches."""

    def __init__(self):
        self.batches: list[list[int]] = []
        self.go = threading.Event()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        assert self.go.wait(120)
        if -1 in items:
            raise ValueError("-1 cannot be doubled")
        return [2 * item for item in items]


@pytest.fixture
def doubler() -> Doubler:
    return Doubler()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


async def started(batcher: Batcher, doubler: Doubler, items: list[int]) -> list[asyncio.Task]:
    """Lets items wait behind item 0, which is being computed."""
    tasks = [asyncio.create_task(batcher(0))]
    while not doubler.batches:
        await asyncio.sleep(0.001)
    tasks += [asyncio.create_task(batcher(item)) for item in items]
    await asyncio.sleep(0)
    return tasks


def test_items_that_wait_are_computed_together_in_order(doubler, executor):
    async def run():
        batcher = Batcher(doubler, executor, largest=4, waiting=100)
        tasks = await started(batcher, doubler, [1, 2, 3, 4, 5, 6])
        doubler.go.set()
        assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8, 10, 12]
        assert await batcher(7) == 14  # after it was idle
        assert (batcher.items, batcher.batches) == (8, 4)

    asyncio.run(run())
    assert doubler.batches == [[0], [1, 2, 3, 4], [5, 6], [7]]


def test_a_batcher_refuses_more_than_may_wait(doubler, executor):
    async def run():
        batcher = Batcher(doubler, executor, largest=4, waiting=2)
        tasks = await started(batcher, doubler, [1, 2])
        with pytest.raises(BusyError):
            await batcher(3)
        doubler.go.set()
        assert await asyncio.gather(*tasks) == [0, 2, 4]
        assert await batcher(3) == 6

    asyncio.run(run())


def test_cancelled_items_are_not_computed_and_the_others_are(doubler, executor):
    async def run():
        batcher = Batcher(doubler, executor, largest=4, waiting=9)
        first, gone, second = await started(batcher, doubler, [1, 2])
        for task in (first, gone):  # the first is being computed: its result is dropped
            task.cancel()
        await asyncio.sleep(0)
        doubler.go.set()
        assert await second == 4
        assert (first.cancelled(), gone.cancelled()) == (True, True)

    asyncio.run(run())
    assert doubler.batches == [[0], [2]]


def test_an_error_fails_only_its_own_batch(doubler, executor):
    async def run():
        batcher = Batcher(doubler, executor, largest=2, waiting=9)
        tasks = await started(batcher, doubler, [1, -1, 3])
        doubler.go.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert (found[0], found[3]) == (0, 6)
        assert all("cannot be doubled" in str(error) for error in found[1:3])

    asyncio.run(run())
