"""How much memory this process may take."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["memory_limit"]

# Limits of a container, by version of Linux's control groups.
CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
PLENTY = 2**63 - 1


def memory_limit() -> int:
    """Bytes: of the machine, the container, or the limits set for the process, whichever is least.

    2^63 - 1 where the system does not say.

    >>> memory_limit() > 0
    True
    """
    found = [PLENTY]
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in CGROUP:
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(path).read_text()))
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            soft = resource.getrlimit(limit)[0]
            if soft != resource.RLIM_INFINITY:
                found.append(soft)
    return min(found)
