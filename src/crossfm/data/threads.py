"""How many threads a call uses."""

from __future__ import annotations

import os

from crossfm.errors import DataError

__all__ = ["thread_count"]


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
