"""HTTP connections that end when a request's head is slow or huge, which uvicorn waits for."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["PatientProtocol", "protocol_of"]

MOST_HEAD = 64 << 10  # bytes of a request line and its headers


class PatientProtocol(HttpToolsProtocol):
    """As uvicorn's, with a time and a size for the head of a request.

    A connection that sends nothing, or its headers a byte at a time, would else be held for ever;
    bodies have their limits in `Guard`.
    """

    head_seconds = 10.0
    _head: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Count what comes before a head is complete."""
        waiting = self._head is not None
        if waiting:
            self._head_bytes += len(data)
        elif self.cycle is None or self.cycle.response_complete:
            self._await_head()  # the next request of a connection that is kept
            waiting, self._head_bytes = True, len(data)
        super().data_received(data)
        if waiting and self._head is not None and self._head_bytes > MOST_HEAD:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._stop()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._stop()
        self._head = self.loop.call_later(
            self.head_seconds, self._refuse, b"408 Request Timeout"
        )  # fmt: skip

    def _stop(self) -> None:
        if self._head is not None:
            self._head.cancel()
        self._head, self._head_bytes = None, 0

    def _refuse(self, status: bytes) -> None:
        self._stop()
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
            self.transport.close()


def protocol_of(seconds: float) -> type[PatientProtocol]:
    """The protocol with a time of its own."""
    return type("Protocol", (PatientProtocol,), {"head_seconds": seconds})
