"""The application: paths, and what each does with a request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.staticfiles import StaticFiles

import crossfm
from crossfm.errors import CrossfmError, DataError
from crossfm.retrieval import TopK
from crossfm.serving import wire
from crossfm.serving.about import about, examples
from crossfm.serving.arrow import ARROW, read_stream, write_stream
from crossfm.serving.batching import Batcher
from crossfm.serving.guard import Guard, failure
from crossfm.serving.holder import Holder
from crossfm.serving.metrics import CONTENT_TYPE, Metrics
from crossfm.serving.pool import Pool
from crossfm.serving.served import Served, Wanted, plain
from crossfm.serving.settings import Settings

__all__ = ["create_app"]

log = logging.getLogger("crossfm.serving")
PAGE = Path(__file__).parent / "page"
AT_ONCE = 2_000  # candidates that are ranked without leaving the event loop
JSON = "application/json"
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none';"
    " form-action 'none'"
)
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": wire.Failure, "description": words}
    for status, words in (
        (400, "The client went away, or its headers are broken."),
        (401, "The token is missing or another."),
        (408, "The body did not arrive in time."),
        (413, "The body is too large."),
        (415, "The body is of a type that is not read."),
        (421, "The host name is not this server's."),
        (422, "The request cannot be answered as it stands; the message says why."),
        (503, "Too busy, or no answer in time."),
    )
}
Body = TypeVar("Body", bound=BaseModel)


def create_app(settings: Settings) -> FastAPI:
    """The application of a model; see `crossfm.serving.serve`.

    Raises:
        ModelFileError, DataError, SchemaError: files that cannot be served.
    """
    return Service(settings).app


class Service:
    """One application: its model, its workers, its paths."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self._workers = Pool(4, "crossfm-score")
        self._reader = Pool(1, "crossfm-read")
        self.holder = Holder(settings, self._reader, self._told)
        self._told("loaded")
        self.ready = True
        seen = self.metrics.batch.labels
        self._recommend: Batcher[tuple[Served, Wanted], TopK] = Batcher(
            _recommend_all, self._workers, seen=seen("/recommend").observe
        )
        self._predict: Batcher[tuple[Served, list[Any]], Any] = Batcher(
            _predict_all, self._workers, seen=seen("/predict").observe
        )
        self.app = self._make()

    def _told(self, result: str) -> None:
        self.metrics.models.labels(result).inc()
        if result == "loaded":
            self.metrics.model.clear()
            self.metrics.model.labels(self.holder.current.version).set(time.time())

    def _make(self) -> FastAPI:
        app = FastAPI(
            title="crossfm", version=crossfm.__version__, lifespan=self._lifespan,
            description="Predictions, rankings, recommendations and their reasons from one"
            " factorization machine.",
            docs_url=None, redoc_url=None,
        )  # fmt: skip
        run: Callable[..., Any]
        for path, asked, answered, run in (
            ("/predict", wire.PredictRequest, wire.Predicted, self.predict),
            ("/rank", wire.RankRequest, wire.Ranked, self.rank),
            ("/recommend", wire.RecommendRequest, wire.Recommended, self.recommend),
            ("/explain", wire.ExplainRequest, wire.Explained, self.explain),
        ):
            app.add_api_route(
                path, run, methods=["POST"], responses={200: {"model": answered}, **REFUSALS},
                response_class=Response, openapi_extra=_body_of(asked, path != "/explain"),
                summary=(asked.__doc__ or "").rstrip("."),
            )  # fmt: skip
        for path, answer, run in (
            ("/model", wire.About, self.model),
            ("/values/{field}", wire.Values, self.values),
        ):
            app.add_api_route(
                path, run, methods=["GET"], response_class=Response,
                responses={200: {"model": answer}, **REFUSALS}, summary=answer.__doc__,
            )  # fmt: skip
        app.add_api_route(
            "/model/reload", self.reload, methods=["POST"], response_class=Response,
            responses={200: {"model": wire.About}, **REFUSALS},
        )  # fmt: skip
        for path, run in (
            ("/healthz", self.healthz), ("/readyz", self.readyz), ("/metrics", self.counted),
            ("/", self.page),
        ):  # fmt: skip
            app.add_api_route(path, run, methods=["GET"], include_in_schema=path != "/",
                              response_class=Response)  # fmt: skip
        if PAGE.is_dir():
            app.mount("/page", StaticFiles(directory=PAGE))
        for kind in (
            CrossfmError, RequestValidationError, ValidationError, StarletteHTTPException,
            RecursionError,
        ):  # fmt: skip
            app.add_exception_handler(kind, _explain_failure)
        make = app.openapi

        def openapi() -> dict[str, Any]:
            return examples(make(), self.holder.current)

        app.openapi = openapi  # type: ignore[method-assign]
        paths = {route.path for route in app.routes if hasattr(route, "path")}
        app.add_middleware(
            Guard, settings=self.settings, metrics=self.metrics, paths=paths
        )  # fmt: skip
        return app

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self.ready = True
        watching = asyncio.create_task(self.holder.watch())
        try:
            yield
        finally:
            self.ready = False
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            self._workers.shutdown(wait=True, cancel_futures=True)
            self._reader.shutdown(wait=True, cancel_futures=True)

    # --- answers ----------------------------------------------------------------------------

    async def predict(self, request: Request) -> Response:
        """Rows in, predictions out. Rows of an Arrow stream come back as one."""
        served, limits = self.holder.current, self.settings.limits
        if _is_arrow(request):
            body = await request.body()
            table = read_stream(body, limits.rows)
            columns = await self._in_thread(_predict_table, served, table)
            return _arrow_answer(columns, served)
        asked = await _parsed(request, wire.PredictRequest)
        _expect_at_most("rows", len(asked.rows), limits.rows)
        predictions, probabilities = await self._predict((served, asked.rows))
        answer = {"predictions": predictions, "model": served.version}
        if probabilities is not None:
            answer["probabilities"] = probabilities
            answer["classes"] = _classes(served)
        return _json_answer(answer)

    async def rank(
        self,
        request: Request,
        query: str | None = None,
        k: Annotated[int | None, Query(ge=1)] = None,
    ) -> Response:
        """Candidates in order of their scores for one query.

        With an Arrow stream of candidates, the query is JSON in the parameter `query`.
        """
        served, limits = self.holder.current, self.settings.limits
        if _is_arrow(request):
            if query is None:
                raise DataError("candidates in an Arrow stream need the parameter query, in JSON")
            table = read_stream(await request.body(), limits.candidates)
            top, mode = await self._in_thread(_rank_table, served, _record(query), table, k)
            return _arrow_answer({"id": top.ids, "score": top.scores}, served, mode=mode)
        asked = await _parsed(request, wire.RankRequest)
        _expect_at_most("candidates", len(asked.candidates), limits.candidates)
        ids = not asked.candidates or not isinstance(asked.candidates[0], dict)
        if ids and len(asked.candidates) <= AT_ONCE:
            top, mode = served.rank(asked.query, asked.candidates, asked.k)
        else:
            top, mode = await self._in_thread(served.rank, asked.query, asked.candidates, asked.k)
        return _json_answer(
            {
                "ids": [plain(id) for id in top.ids.tolist()], "scores": top.scores.tolist(),
                "mode": mode, "model": served.version,
            }
        )  # fmt: skip

    async def recommend(self, request: Request, k: Annotated[int, Query(ge=1)] = 10) -> Response:
        """The best items for one query; or, as an Arrow stream, for each of many."""
        served, limits = self.holder.current, self.settings.limits
        if _is_arrow(request):
            _expect_at_most("k", k, limits.k)
            table = read_stream(await request.body(), limits.rows)
            columns = await self._in_thread(_recommend_table, served, table, k)
            return _arrow_answer(columns, served)
        asked = await _parsed(request, wire.RecommendRequest)
        _expect_at_most("k", asked.k, limits.k)
        _expect_at_most("exclude", len(asked.exclude), limits.candidates)
        _expect_at_most("only", len(asked.only or ()), limits.candidates)
        # A filter looks at all items; without one it is microseconds.
        wanted = (
            await self._in_thread(served.wanted, asked) if asked.filter else served.wanted(asked)
        )
        top = await self._recommend((served, wanted))
        return _json_answer(
            {
                "ids": [plain(id) for id in top.ids.tolist()], "scores": top.scores.tolist(),
                "columns": served.columns(top.ids, asked.columns), "model": served.version,
            }
        )  # fmt: skip

    async def explain(self, request: Request) -> Response:
        """A score as the sum of its terms."""
        served = self.holder.current
        asked = await _parsed(request, wire.ExplainRequest)
        found = await self._in_thread(served.explain, asked)
        return _json_answer({**found, "model": served.version})

    async def model(self) -> Response:
        """The model that answers."""
        return _json_answer(about(self.holder.current, self.settings, self.holder.refused))

    async def reload(self) -> Response:
        """Take up the files as they are now. Refused ones leave the model of before."""
        await self.holder.reload()
        return await self.model()

    async def values(
        self, field: str, prefix: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 20
    ) -> Response:
        """Known values of a field, the most frequent first."""
        served = self.holder.current
        found = await self._in_thread(served.values, field, prefix, limit)
        return _json_answer({"field": field, "values": found})

    async def healthz(self) -> Response:
        """The process answers."""
        return _json_answer({"status": "ok"})

    async def readyz(self) -> Response:
        """A model is loaded, and the server is not about to end."""
        if not self.ready:
            raise HTTPException(503, "the server is about to end")
        return _json_answer({"status": "ready", "model": self.holder.current.version})

    async def counted(self) -> Response:
        """For Prometheus."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def page(self) -> Response:
        """The page to try the model with."""
        path = PAGE / "index.html"
        if not path.exists():
            raise HTTPException(404, "this build has no page")
        return Response(
            path.read_bytes(), media_type="text/html",
            headers={"content-security-policy": PAGE_POLICY},
        )  # fmt: skip

    async def _in_thread(self, work: Callable[..., Any], *given: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, partial(work, *given))


# --- requests -----------------------------------------------------------------------------------


async def _parsed(request: Request, kind: type[Body]) -> Body:
    """The body as a type."""
    given = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if given != JSON:
        raise HTTPException(415, f"the body is {given!r}, expected {JSON}")
    return kind.model_validate_json(await request.body())


def _is_arrow(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == ARROW


def _record(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"query is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError("query is no JSON object")
    return found


def _expect_at_most(name: str, found: int, most: int) -> None:
    if found > most:
        raise DataError(f"{name}: {found:,} asked for, at most {most:,} are allowed")


# --- work ---------------------------------------------------------------------------------------


def _recommend_all(many: Sequence[tuple[Served, Wanted]]) -> list[TopK]:
    """Requests of one model together."""
    found: dict[int, TopK] = {}
    for served, places in _by_model(many):
        tops = served.recommend([many[at][1] for at in places])
        found.update(zip(places, tops, strict=True))
    return [found[at] for at in range(len(many))]


def _predict_all(many: Sequence[tuple[Served, list[Any]]]) -> list[Any]:
    found: dict[int, Any] = {}
    for served, places in _by_model(many):
        records = [record for at in places for record in many[at][1]]
        predictions, probabilities = served.predict(records)
        low = 0
        for at in places:
            part = slice(low, low + len(many[at][1]))
            low = part.stop
            found[at] = predictions[part], None if probabilities is None else probabilities[part]
    return [found[at] for at in range(len(many))]


def _by_model(many: Sequence[tuple[Served, Any]]) -> list[tuple[Served, list[int]]]:
    groups: dict[int, tuple[Served, list[int]]] = {}
    for at, (served, _) in enumerate(many):
        groups.setdefault(id(served), (served, []))[1].append(at)
    return list(groups.values())


def _predict_table(served: Served, table: Any) -> dict[str, Any]:
    estimator = served.estimator
    columns: dict[str, Any] = {"prediction": estimator.predict(table)}
    classes = _classes(served)
    if classes is not None and hasattr(estimator, "predict_proba"):
        for name, column in zip(classes, estimator.predict_proba(table).T, strict=True):
            columns[f"probability_{name}"] = np.ascontiguousarray(column)
    return columns


def _rank_table(served: Served, query: Any, table: Any, k: int | None) -> tuple[TopK, str]:
    if served.ranker is not None:
        columns = set(table.column_names)
        if served.item_columns <= columns and not columns & served.query_columns:
            top = served.ranker.query(query).rank(table, k)
            return TopK(top.ids[0], served.shown(top.scores[0])), "vectors"
        if columns == {served.ranker.id}:
            return served.rank(query, table.column(0).to_pylist(), k)
    return served.rank(query, table.to_pylist(), k)


def _recommend_table(served: Served, table: Any, k: int) -> dict[str, Any]:
    if served.shop is None:
        raise DataError("the server has no items to recommend; start it with --items")
    top = served.shop.recommend(table, k)
    there = np.isfinite(top.scores)
    row, rank = np.nonzero(there)
    return {
        "query": row, "rank": rank + 1, "id": top.ids[there].tolist(),
        "score": served.shown(top.scores[there]),
    }  # fmt: skip


def _classes(served: Served) -> list[Any] | None:
    """What the probabilities are of: classes, or ordered levels."""
    estimator = served.estimator
    classes = getattr(estimator, "classes_", getattr(estimator, "levels_", None))
    return None if classes is None else [plain(one) for one in classes.tolist()]


# --- answers ------------------------------------------------------------------------------------


def _json_answer(content: Any) -> Response:
    return Response(to_json(content), media_type=JSON)


def _arrow_answer(columns: dict[str, Any], served: Served, **more: str) -> Response:
    return Response(write_stream(columns, {"model": served.version, **more}), media_type=ARROW)


def _body_of(kind: type[BaseModel], arrow: bool) -> dict[str, Any]:
    """What OpenAPI is told of a body that the handler reads itself."""
    content: dict[str, Any] = {
        JSON: {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}
    }  # fmt: skip
    if arrow:
        content[ARROW] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": content}}


async def _explain_failure(request: Request, error: Exception) -> Response:
    status, kind, words = 422, type(error).__name__, str(error)
    if isinstance(error, StarletteHTTPException):
        status, kind = error.status_code, "HTTPException"
        words = str(error.detail)
    elif isinstance(error, ValidationError):
        kind, words = "ValidationError", _in_words(error.errors(include_url=False))
    elif isinstance(error, RequestValidationError):
        kind, words = "ValidationError", _in_words(error.errors())
    status, body = failure(status, kind, words)
    headers = getattr(error, "headers", None)
    return Response(body, status, media_type=JSON, headers=headers)


def _in_words(errors: Sequence[Any]) -> str:
    """The first few things that are wrong with a body."""
    words = [
        f"{'.'.join(map(str, one['loc'])) or 'the body'}: {one['msg']}" for one in errors[:3]
    ]  # fmt: skip
    more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
    return "; ".join(words) + more
