"""Load: HTTP requests from a process of their own, over a few connections that are kept.

Each connection sends its next request when the answer to the last has come. What is sent is made
before, so that the sender takes little of the machine from the server.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any


class Connection(asyncio.Protocol):
    """One kept connection: sends, waits, notes how long it took and what came."""

    def __init__(self, requests: list[bytes], until: float, first: int, found: Any) -> None:
        self.requests, self.until, self.at, self.found = requests, until, first, found
        self.buffer = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self.transport = transport
        self.send()

    def send(self) -> None:
        """The next request, until the time is over."""
        now = time.perf_counter()
        if now >= self.until:
            self.transport.close()
            if not self.done.done():
                self.done.set_result(None)
            return
        self.sent = now
        self.transport.write(self.requests[self.at % len(self.requests)])
        self.at += 1

    def data_received(self, data: bytes) -> None:
        """Until the answer is whole."""
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        low = head.lower().index(b"content-length:") + 15
        length = int(head[low : head.find(b"\r", low) if b"\r" in head[low:] else None])
        if len(body) < length:
            return
        self.buffer = b""
        self.found["seconds"].append(time.perf_counter() - self.sent)
        status = head[9:12].decode()
        self.found["statuses"][status] = self.found["statuses"].get(status, 0) + 1
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection that the server ended before the time is a failure."""
        if not self.done.done():
            self.found["lost"] += 1
            self.done.set_result(None)


async def run(order: dict[str, Any]) -> dict[str, Any]:
    """Send for a while; latencies, statuses, connections lost."""
    host, port, seconds = order["host"], order["port"], order["seconds"]
    requests = [
        (
            f"POST {one['path']} HTTP/1.1\r\nhost: {host}:{port}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(one['body'])}\r\n\r\n"
        ).encode()
        + one["body"].encode()
        for one in order["requests"]
    ]
    found: dict[str, Any] = {"seconds": [], "statuses": {}, "lost": 0}
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    connections = []
    for c in range(order["connections"]):

        def make(first: int = c * 37) -> Connection:
            return Connection(requests, started + seconds, first, found)

        _, connection = await loop.create_connection(make, host, port)
        connections.append(connection.done)
    await asyncio.wait_for(asyncio.gather(*connections), seconds + 30)
    return {**found, "took": time.perf_counter() - started}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(asyncio.run(run(json.loads(line)))), flush=True)
