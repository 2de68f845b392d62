"""One call for all that wait: what arrives while a batch is computed makes the next one."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any


class BusyError(Exception):
    """More is waiting already than is to wait."""


class Batcher:
    """Computes items in batches, in the order in which they came.

    Nothing waits for company: an item that finds the computer idle is computed alone.
    """

    def __init__(
        self,
        compute: Callable[[list[Any]], Sequence[Any]],
        executor: Executor,
        *,
        largest: int,
        waiting: int,
    ):
        """Makes a batcher for one event loop.

        Args:
            compute: items -> their results, in their order. An error is that of all items.
            executor: the thread it runs in, one call at a time.
            largest: the largest number of items in a batch.
            waiting: the largest number of items that wait at a time.
        """
        self._compute, self._executor = compute, executor
        self._largest, self._limit = largest, waiting
        self._waiting: deque[tuple[Any, asyncio.Future[Any]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self.items = self.batches = 0  # computed so far

    async def __call__(self, item: Any) -> Any:
        """Returns the result of an item; raises `BusyError`, or what `compute` has raised."""
        if len(self._waiting) >= self._limit:
            raise BusyError
        result = asyncio.get_running_loop().create_future()
        self._waiting.append((item, result))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await result

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            count = min(self._largest, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
            batch = [each for each in batch if not each[1].done()]  # the others have gone away
            if not batch:
                continue
            self.items, self.batches = self.items + len(batch), self.batches + 1
            items, results = zip(*batch, strict=True)
            try:
                values = await loop.run_in_executor(self._executor, self._compute, [*items])
            except Exception as error:
                for result in results:
                    if not result.done():
                        result.set_exception(error)
            else:
                for result, value in zip(results, values, strict=True):
                    if not result.done():
                        result.set_result(value)
