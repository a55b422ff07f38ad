"""Batching and threads of the server: together, apart, after failures, after a restart."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

import crossfm as cf
from crossfm.serving.app import create_app
from crossfm.serving.batching import Batcher
from crossfm.serving.pool import Pool
from crossfm.serving.settings import Settings

testclient = pytest.importorskip("starlette.testclient")


def doubled(numbers: Sequence[int]) -> list[int]:
    if 13 in numbers:
        raise ValueError("thirteen")
    return [2 * number for number in numbers]


def asked(batcher: Batcher[int, int], numbers: Sequence[int]) -> list[Any]:
    """Several requests at once, in a loop of their own."""

    async def go() -> list[Any]:
        return await asyncio.gather(*map(batcher, numbers), return_exceptions=True)

    return asyncio.run(asyncio.wait_for(go(), 20))


def test_requests_are_answered_together() -> None:
    started, sizes = threading.Event(), list[int]()

    def work(numbers: Sequence[int]) -> list[int]:
        started.wait(20)
        return doubled(numbers)

    def seen(n: int) -> None:
        sizes.append(n)
        started.set()

    with Pool(1, "test") as pool:
        batcher = Batcher(work, pool, most=4, seen=seen)
        assert asked(batcher, range(9)) == [2 * number for number in range(9)]
    assert sum(sizes) == 9
    assert max(sizes) == 4


def test_one_failure_is_its_own() -> None:
    with Pool(1, "test") as pool:
        found = asked(Batcher(doubled, pool), [1, 13, 3])
    assert [found[0], found[2]] == [2, 6]
    assert isinstance(found[1], ValueError)


class Full(Executor):
    """Has no thread to give, at first."""

    def __init__(self, failures: int) -> None:
        self.failures, self.pool = failures, Pool(1, "test")

    def submit(self, work: Any, /, *given: Any, **named: Any) -> Future[Any]:
        self.failures -= 1
        if self.failures >= 0:
            raise RuntimeError("can't start new thread")
        return self.pool.submit(work, *given, **named)


def test_no_thread_is_told_and_the_next_request_answered() -> None:
    batcher = Batcher(doubled, Full(1))
    (failed,) = asked(batcher, [1])
    assert isinstance(failed, RuntimeError)
    assert asked(batcher, [2]) == [4]


def test_a_loop_that_was_broken_off_leaves_nothing_behind() -> None:
    held = threading.Event()

    def work(numbers: Sequence[int]) -> list[int]:
        held.wait(20)
        return doubled(numbers)

    pool = Pool(1, "test")
    batcher = Batcher(work, pool)
    loop = asyncio.new_event_loop()
    lost = loop.create_task(batcher(1))  # type: ignore[arg-type]
    loop.run_until_complete(asyncio.sleep(0.01))  # it is with the worker
    held.set()
    assert asked(batcher, [5]) == [10]
    lost.cancel()
    loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(loop), return_exceptions=True))
    loop.close()
    pool.shutdown()


def test_a_pool_begins_again() -> None:
    pool = Pool(2, "again")
    for _ in range(2):
        name = pool.submit(lambda: threading.current_thread().name).result(20)
        assert name.startswith("again")
        pool.shutdown()
    pool.shutdown()
    assert not [one for one in threading.enumerate() if one.name.startswith("again")]


def test_an_application_is_started_twice(tmp_path: Path) -> None:
    log = {"user": np.arange(40) % 5, "film": np.arange(40) % 7}
    cf.FMRegressor(2, n_epochs=1).fit(log, np.arange(40) % 3).save(tmp_path / "m.crossfm")
    app = create_app(Settings(tmp_path / "m.crossfm"))
    answers = []
    for _ in range(2):
        with testclient.TestClient(app, base_url="http://localhost:8000") as client:
            assert client.get("/readyz").status_code == 200
            answers.append(client.post("/predict", json={"rows": [{"user": 1, "film": 2}]}).json())
    assert answers[0] == answers[1]
    assert len(answers[0]["predictions"]) == 1
