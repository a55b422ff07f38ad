"""What a server is told: which model and items, where to listen, and how much it takes."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossfm.errors import DataError

__all__ = ["Limits", "Settings"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one request may ask for, and all together.

    Attributes:
        k: items of an answer.
        candidates: of one ranking.
        rows: of one prediction.
        bytes: of a body.
        seconds: for a request to arrive whole, and again to be answered.
        in_flight: requests at a time; more are told to come again.

    Raises:
        DataError: a limit that is not above 0.
    """

    k: int = 1_000
    candidates: int = 10_000
    rows: int = 10_000
    bytes: int = 8 << 20
    seconds: float = 10.0
    in_flight: int = 256

    def __post_init__(self) -> None:
        for name in ("k", "candidates", "rows", "bytes", "in_flight"):
            _expect_number(name, getattr(self, name), int)
        _expect_number("seconds", self.seconds, (int, float))


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server is told.

    Attributes:
        model: a model file; when it changes, the new one takes over.
        items: a catalogue to recommend from (Parquet or CSV, a row an item); None: there is none.
        item_fields: the model's fields that describe an item; None: those whose columns `items`
            has.
        id: the column of `items` with what names an item; None: the first item field.
        host: address to listen at; only this machine reaches the default.
        port: 0 picks a free one.
        token: what requests must bring as ``Authorization: Bearer TOKEN``; None: nothing.
        limits: on requests.
        poll: seconds between looks at the files; 0: only when asked to.
        n_jobs: threads of a search.

    Raises:
        DataError: a value out of range.
    """

    model: Path
    items: Path | None = None
    item_fields: tuple[str, ...] | None = None
    id: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    limits: Limits = field(default_factory=Limits)
    poll: float = 1.0
    n_jobs: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", Path(os.fspath(self.model)))
        if self.items is not None:
            object.__setattr__(self, "items", Path(os.fspath(self.items)))
        if not 0 <= self.port < 2**16:
            raise DataError(f"port is {self.port}, expected 0 to 65535")
        if not 0 <= self.poll < math.inf:
            raise DataError(f"poll is {self.poll}, expected seconds, or 0")
        if self.token is not None and (len(self.token) < 8 or not self.token.isascii()):
            raise DataError("the token is shorter than 8 characters, or holds others than ASCII")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in ("127.0.0.1", "localhost", "::1")


def _expect_number(name: str, value: Any, kind: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < math.inf:
        raise DataError(f"limits: {name} is {value!r}, expected a number above 0")
