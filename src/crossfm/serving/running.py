"""Running: a socket, an event loop, and an end that leaves no request unanswered."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import socket
import threading
from collections.abc import Callable

import uvicorn

from crossfm.errors import DataError
from crossfm.serving.app import create_app
from crossfm.serving.protocol import protocol_of
from crossfm.serving.settings import Settings

__all__ = ["serve"]

BACKLOG = 1024


def serve(settings: Settings, told: Callable[[str], None] = lambda url: None) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: the model, where to listen, the limits.
        told: called with the address once it listens.

    Raises:
        ModelFileError, DataError, SchemaError: files that cannot be served; an address that is
            taken, or not this machine's.
    """
    app = create_app(settings)
    listening = _listen(settings)
    host, port = listening.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    seconds = settings.limits.seconds
    config = uvicorn.Config(
        app, http=protocol_of(seconds), loop="auto", ws="none", lifespan="on", log_config=None,
        access_log=False, timeout_keep_alive=max(5, round(seconds)), server_header=False,
        date_header=False, backlog=BACKLOG, timeout_graceful_shutdown=round(seconds) + 1,
        limit_concurrency=4 * settings.limits.in_flight,
    )  # fmt: skip
    gc.collect()
    gc.freeze()  # the model is never garbage: full collections need not look at it
    told(url)
    logging.getLogger("crossfm.serving").info("listening", extra={"url": url})
    if threading.current_thread() is threading.main_thread():
        # uvicorn ends when it is told to, and then sends itself the signal again.
        signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        with contextlib.suppress(KeyboardInterrupt):  # after the last answer
            uvicorn.Server(config).run([listening])
    finally:
        listening.close()


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise DataError(
            f"cannot listen at {settings.host}, port {settings.port}: {error.strerror or error};"
            " choose another --port (0: any free one) or --host"
        ) from error
    return listening
