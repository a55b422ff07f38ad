"""Guard: what every request passes before the application sees it, and what is told of it."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from crossfm.serving.metrics import Metrics
from crossfm.serving.settings import Settings

__all__ = ["Guard", "failure"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("crossfm.serving")
OPEN = ("/healthz", "/readyz", "/", "/page/")  # need no token: they tell nothing
LOCAL = ("localhost", "127.0.0.1", "[::1]")
PORT = re.compile(r":\d*$")
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
)


def failure(status: int, kind: str, message: str) -> tuple[int, bytes]:
    """The status and body of an answer that is not 2xx."""
    return status, json.dumps({"error": {"type": kind, "message": message}}).encode()


class Guard:
    """Token, host, size and time limits around an application; its metrics and log.

    The body is read here, whole, before the application is called: a client that is slow costs
    nothing but its connection.

    Args:
        app: the application.
        settings: limits, and the token.
        metrics: what is counted.
        paths: that have their own line in metrics; others share one.
    """

    def __init__(self, app: App, settings: Settings, metrics: Metrics, paths: set[str]) -> None:
        self._app, self._settings, self._metrics, self._paths = app, settings, metrics, paths
        self._n = 0
        self._token = None if settings.token is None else f"Bearer {settings.token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        answer = _Answer(send, _request_id(scope))
        self._n += 1
        self._metrics.in_flight.set(self._n)
        size = 0
        try:
            refused = self._refusal(scope)
            if refused is None:
                body, refused = await self._body(scope, receive)
                size = len(body)
            if refused is not None:
                await answer.fail(*refused)
                return
            await self._run(scope, body, receive, answer)
        finally:
            self._n -= 1
            self._metrics.in_flight.set(self._n)
            seconds = time.perf_counter() - began
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(answer.status)).inc()
            self._metrics.seconds.labels(path).observe(seconds)
            if log.isEnabledFor(logging.INFO):
                log.info(
                    "request",
                    extra={
                        "method": scope["method"], "path": scope["path"][:200],
                        "status": answer.status, "ms": round(seconds * 1000, 3), "bytes": size,
                        "request": answer.id,
                    },
                )  # fmt: skip

    async def _run(self, scope: Scope, body: bytes, receive: Receive, answer: _Answer) -> None:
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()  # tells when the client goes
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        seconds = self._settings.limits.seconds
        try:
            await asyncio.wait_for(self._app(scope, replay, answer), seconds)
        except TimeoutError:
            log.warning("timeout", extra={"request": answer.id})
            await answer.fail(
                *failure(503, "Timeout", f"no answer within {seconds:g} s; ask for less")
            )
        except Exception:
            log.exception("failure", extra={"request": answer.id})
            await answer.fail(*failure(500, "InternalError", "the server failed; see its log"))

    def _refusal(self, scope: Scope) -> tuple[int, bytes] | None:
        """Why a request is not even read."""
        headers = dict(scope["headers"])
        path = scope["path"]
        if self._settings.is_local and self._token is None:
            # A page elsewhere may have a name of its own lead to this machine (DNS rebinding).
            host = PORT.sub("", headers.get(b"host", b"").decode("latin-1").lower())
            if host not in LOCAL:
                return failure(
                    421, "MisdirectedRequest", "this server answers to localhost only; give it a"
                    " token, or another host, to serve other names",
                )  # fmt: skip
        is_open = path in OPEN or path.startswith("/page/")
        given = headers.get(b"authorization", b"")
        if self._token is not None and not is_open and not hmac.compare_digest(given, self._token):
            return failure(401, "Unauthorized", "bring the header Authorization: Bearer TOKEN")
        if self._n > self._settings.limits.in_flight and path not in ("/healthz", "/metrics"):
            return failure(503, "Overloaded", "too many requests at a time; come again")
        try:
            length = int(headers.get(b"content-length", b"0"))
        except ValueError:
            return failure(400, "BadRequest", "the content length is no number")
        if length > self._settings.limits.bytes:
            return self._too_large()
        return None

    async def _body(self, scope: Scope, receive: Receive) -> tuple[bytes, tuple[int, bytes] | None]:
        parts: list[bytes] = []
        size = 0
        seconds = self._settings.limits.seconds
        try:
            async with asyncio.timeout(seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return b"", failure(400, "BadRequest", "the client went away")
                    part = message.get("body", b"")
                    size += len(part)
                    if size > self._settings.limits.bytes:
                        return b"", self._too_large()
                    parts.append(part)
                    if not message.get("more_body"):
                        return b"".join(parts), None
        except TimeoutError:
            return b"", failure(408, "Timeout", f"the body did not arrive within {seconds:g} s")

    def _too_large(self) -> tuple[int, bytes]:
        most = self._settings.limits.bytes
        return failure(413, "TooLarge", f"the body is larger than {most:,} bytes")


class _Answer:
    """The way back: remembers the status, and adds the headers that all answers have."""

    def __init__(self, send: Send, id: str) -> None:
        self._send, self.id, self.status, self._begun = send, id, 0, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun, self.status = True, message["status"]
            there = {name for name, _ in message["headers"]}
            more = [pair for pair in HEADERS if pair[0] not in there]
            message["headers"] = [*message["headers"], *more, (b"x-request-id", self.id.encode())]
        await self._send(message)

    async def fail(self, status: int, body: bytes) -> None:
        """Send a failure, where nothing was sent yet."""
        if self._begun:
            return
        headers = [
            (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())
        ]  # fmt: skip
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if status == 503:
            headers.append((b"retry-after", b"1"))
        if status in (408, 413):
            headers.append((b"connection", b"close"))
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def _request_id(scope: Scope) -> str:
    """The id that a proxy gave, where it is one; else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text: str = value.decode("latin-1")
            if 0 < len(text) <= 64 and text.isascii() and text.replace("-", "").isalnum():
                return text
    return uuid.uuid4().hex[:16]
