"""Threads that begin with the first task, and anew after a shutdown."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

__all__ = ["Pool"]


class Pool(Executor):
    """A `ThreadPoolExecutor` for an application that may be started more than once.

    Args:
        n_threads: at most.
        name: what the threads' names begin with.
    """

    def __init__(self, n_threads: int, name: str) -> None:
        self._n_threads, self._name = n_threads, name
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        """See `concurrent.futures.Executor.submit`."""
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self._n_threads, self._name)
            return self._threads.submit(work, *given, **named)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads; the next task begins new ones."""
        with self._lock:
            ended, self._threads = self._threads, None
        if ended is not None:
            ended.shutdown(wait=wait, cancel_futures=cancel_futures)
