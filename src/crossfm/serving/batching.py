"""Requests that arrive while others are worked on are answered together, by one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

__all__ = ["Batcher"]

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Gathers without waiting: a request that finds the worker free goes at once, alone.

    Args:
        work: several requests to as many results. When it fails for many, each is tried alone, so
            that one request cannot fail others.
        executor: where it runs.
        most: requests of one call.
        seen: told how many each call had.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Sequence[R]],
        executor: Executor,
        most: int = 64,
        seen: Callable[[int], None] = lambda n: None,
    ) -> None:
        self._work, self._executor, self._most, self._seen = work, executor, most, seen
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, request: T) -> R:
        """The result of one request."""
        loop = asyncio.get_running_loop()
        if self._running is not None and self._running.get_loop() is not loop:
            self._running, self._waiting = None, []  # of a loop that has ended
        result: asyncio.Future[R] = loop.create_future()
        self._waiting.append((request, result))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._drain())
        return await result

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            taken, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            taken = [one for one in taken if not one[1].done()]  # given up
            if not taken:
                continue
            self._seen(len(taken))
            results: Sequence[R | BaseException]
            try:
                given = [request for request, _ in taken]
                results = await loop.run_in_executor(self._executor, self._do, given)
            except Exception as error:  # no thread to be had: told, not waited for
                results = [error] * len(taken)
            for (_, future), result in zip(taken, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, BaseException):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _do(self, requests: Sequence[T]) -> Sequence[R | BaseException]:
        try:
            return self._work(requests)
        except Exception as error:  # handed to whoever asked
            if len(requests) == 1:
                return [error]
        return [self._do([request])[0] for request in requests]
