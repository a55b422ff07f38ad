"""How many threads a call uses, and calls on several."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

from crossfm.errors import DataError

__all__ = ["ahead", "on_threads", "thread_count", "threads_for"]

FEW_ROWS = 16_384  # with fewer, starting threads takes longer than the work

A = TypeVar("A")
B = TypeVar("B")


def thread_count(n_jobs: int) -> int:
    """Threads for an `n_jobs`: itself, or for -1 the cores that this process may run on.

    Raises:
        DataError: neither -1 nor a positive integer.

    Example:
        >>> thread_count(3)
        3
    """
    if not isinstance(n_jobs, int) or isinstance(n_jobs, bool) or n_jobs == 0 or n_jobs < -1:
        raise DataError(f"n_jobs must be a positive integer or -1 (all), got {n_jobs!r}")
    if n_jobs > 0:
        return n_jobs
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def threads_for(n_rows: int) -> int:
    """Threads for work on columns of a table: as many as Arrow uses, where there is enough of it.

    Example:
        >>> threads_for(10)
        1
    """
    if n_rows < FEW_ROWS:
        return 1
    import pyarrow as pa

    return min(thread_count(-1), int(pa.cpu_count()))


def on_threads(work: Callable[[A], B], items: Sequence[A], threads: int) -> list[B]:
    """What `work` makes of each item, in order; of errors the first in that order is raised.

    Example:
        >>> on_threads(len, ["a", "bc"], 2)
        [1, 2]
    """
    if threads <= 1 or len(items) <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        return list(pool.map(work, items))


def ahead(items: Generator[A, None, None]) -> Iterator[A]:
    """The items, each made on another thread while the caller works on the one before.

    Errors are raised where the item would have come. When the caller is done, `items` is closed.

    Example:
        >>> list(ahead(c for c in "ab"))
        ['a', 'b']
    """
    end = object()
    with contextlib.closing(items), ThreadPoolExecutor(1) as other:
        coming = other.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = other.submit(next, items, end)
            yield cast(A, item)
