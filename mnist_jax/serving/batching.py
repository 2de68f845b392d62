"""Batching of requests: those that arrive during one batch form the next."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any


class BusyError(Exception):
    """Too many items are waiting."""


class Batcher:
    """Computes items in batches, in order of arrival; an idle batcher starts at once."""

    def __init__(
        self,
        compute: Callable[[list[Any]], Sequence[Any]],
        executor: Executor,
        *,
        largest: int,
        waiting: int,
    ):
        """Creates a batcher for one event loop.

        Args:
            compute: function from items to their results, in order; an error fails the whole batch.
            executor: single thread that runs it.
            largest: maximum batch size.
            waiting: maximum number of waiting items.
        """
        self._compute, self._executor = compute, executor
        self._largest, self._limit = largest, waiting
        self._waiting: deque[tuple[Any, asyncio.Future[Any]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self.items = self.batches = 0  # computed so far

    async def __call__(self, item: Any) -> Any:
        """Computes an item; raises BusyError, or the error of `compute`."""
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
            batch = [each for each in batch if not each[1].done()]  # the others were cancelled
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
