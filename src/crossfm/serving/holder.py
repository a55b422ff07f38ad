"""Holder: the model that answers now, and its replacement while requests go on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from crossfm.errors import CrossfmError
from crossfm.serving.served import Served
from crossfm.serving.settings import Settings

__all__ = ["Holder"]

log = logging.getLogger("crossfm.serving")


class Holder:
    """Who answers. Requests in progress keep the model that they began with.

    Args:
        settings: names the files.
        executor: where files are read.
        told: called with "loaded" or "refused" after each try to take a new file.

    Attributes:
        current: the model.
        refused: why the last new file was not taken; None: it was.
    """

    def __init__(self, settings: Settings, executor: Executor, told: Callable[[str], None]) -> None:
        self.settings, self._executor, self._told = settings, executor, told
        self._stamp = self._look()
        self.current = Served.load(settings)
        self.refused: str | None = None
        self._lock = asyncio.Lock()

    async def reload(self) -> str:
        """Read the files again; the version that answers from now on.

        Raises:
            CrossfmError: they are refused, and the model of before goes on answering.
        """
        async with self._lock:
            stamp = self._look()
            loop = asyncio.get_running_loop()
            try:
                served = await loop.run_in_executor(self._executor, Served.load, self.settings)
            except CrossfmError as error:
                self._refuse(stamp, error)
                raise
            except Exception as error:  # a file that breaks its reader must not end the server
                self._refuse(stamp, error)
                raise CrossfmError(f"the new files cannot be read: {error!r}") from error
            self._stamp, self.refused = stamp, None
            before, self.current = self.current.version, served
            self._told("loaded")
            log.info("model loaded", extra={"was": before, "version": served.version})
            return served.version

    async def watch(self) -> None:
        """Take up new files when they appear; ends when it is cancelled."""
        while self.settings.poll:
            await asyncio.sleep(self.settings.poll)
            if self._look() != self._stamp:
                with contextlib.suppress(CrossfmError):  # logged, and told by /model
                    await self.reload()

    def _refuse(self, stamp: Any, error: Exception) -> None:
        self._stamp, self.refused = stamp, str(error)  # tried again when they change again
        self._told("refused")
        log.error("model refused", extra={"reason": str(error), "version": self.current.version})

    def _look(self) -> tuple[Any, ...]:
        """What changes when a file does."""
        stamps: list[Any] = []
        for path in (self.settings.model, self.settings.items):
            if path is None:
                continue
            try:
                found = os.stat(path)
                stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
            except OSError:
                stamps.append(None)
        return tuple(stamps)
