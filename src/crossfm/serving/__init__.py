"""Serving: a model file behind HTTP, for predictions, rankings, recommendations and their reasons.

Needs the extra ``crossfm[serve]``: FastAPI, uvicorn, httptools and the Prometheus client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossfm.errors import require
from crossfm.serving.settings import Limits, Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["Limits", "Settings", "create_app", "expect_extra", "serve"]


def create_app(settings: Settings) -> FastAPI:
    """The application, for an ASGI server of your own; `serve` runs it.

    Raises:
        MissingExtraError: the extra is not installed.
        ModelFileError, DataError, SchemaError: files that cannot be served.
    """
    expect_extra()
    from crossfm.serving.app import create_app as create

    return create(settings)


def serve(settings: Settings) -> None:
    """Serve until interrupted (SIGINT, SIGTERM); requests in progress are answered first.

    Args:
        settings: the model, where to listen, the limits.

    Raises:
        MissingExtraError: the extra is not installed.
        ModelFileError, DataError, SchemaError: files that cannot be served; an address that is
            taken, or not this machine's.
    """
    expect_extra()
    from crossfm.serving.running import serve as run

    run(settings)


def expect_extra() -> None:
    """Raise MissingExtraError where the extra ``crossfm[serve]`` is not installed."""
    for name in ("fastapi", "uvicorn", "httptools", "prometheus_client"):
        require(name, "serve")
