"""``python -m benchmarks.serving``: the server under load from a second process.

A model of 10,000 users and 100,000 items, 16 factors; 8 connections that are kept, each sending its
next request when the last was answered:

- ``/rank``: 200 candidates by id for one user;
- ``/recommend``: the best 10 of all items for one user;
- with ``--minutes``, both in turn while a new model file takes over every 10 seconds: requests that
  failed, and the server's memory after each minute.

Before anything is timed, answers of the server are held against the model itself. The server, the
load and the machine's own work share its cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure, Report, Spread, show_table
from benchmarks.harness import Disagreement, machine

USERS, ITEMS, FACTORS = 10_000, 100_000, 16
CANDIDATES, K, CONNECTIONS = 200, 10, 8
BAR_RANK, BAR_RANK_P99, BAR_RECOMMEND = 1_000, 20.0, 300
BAR_MEMORY = 1.05  # of the last third of the minutes over the one before
SWAP = 10.0  # seconds between new files


def main() -> int:
    """The loads, the bars, the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="end with JSON; exit 1 on a missed bar"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=0.0, help="of load with new models")
    arguments = parser.parse_args()
    report = Report("serving", details={"machine": machine()})
    with tempfile.TemporaryDirectory() as folder:
        files = make(Path(folder))
        with server(files) as (port, process), load() as ask:
            agree(port, files)
            bodies = requests_of()
            rounds(port, ask, bodies, arguments.rounds, arguments.seconds, report)
            if arguments.minutes:
                soak(port, process, ask, bodies, files, arguments.minutes, report)
    return report.finish(check=arguments.check)


def make(folder: Path) -> dict[str, Path]:
    """Two models of one shape, and the items."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    import crossfm as cf

    rng = np.random.default_rng(0)
    log = {
        "user": np.concatenate([np.arange(USERS), rng.integers(0, USERS, ITEMS - USERS)]),
        "item": np.arange(ITEMS),
    }
    schema = cf.Schema([cf.Categorical("user"), cf.Categorical("item")])
    files = {"items": folder / "items.parquet", "live": folder / "live.crossfm"}
    for number in range(2):
        model = cf.FMRegressor(
            FACTORS, schema=schema, n_epochs=1, early_stopping=False, init_scale=0.3,
            random_state=number,
        )  # fmt: skip
        model.fit(log, rng.normal(3, 1, ITEMS))
        files[f"model {number}"] = folder / f"{number}.crossfm"
        model.save(files[f"model {number}"])
    pq.write_table(pa.table({"item": log["item"]}), files["items"])
    put(files, 0)
    return files


def put(files: dict[str, Path], number: int) -> None:
    """Another model in the place of the one that is served, in one step."""
    new = files["live"].with_suffix(".new")
    new.write_bytes(files[f"model {number}"].read_bytes())
    os.replace(new, files["live"])


@contextmanager
def server(files: dict[str, Path]) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """``crossfm serve`` in a process of its own."""
    command = [
        sys.executable, "-m", "crossfm", "serve", str(files["live"]), "--items",
        str(files["items"]), "--port", "0", "--log", "error", "--poll", "0.5",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r":(\d+)$", line.strip())
            if found is None:
                raise RuntimeError(f"the server did not start: {line}{process.stderr.read()}")
            yield int(found[1]), process
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def load() -> Iterator[Any]:
    """The second process: orders in, what it saw out."""
    command = [sys.executable, "-m", "benchmarks.workers.http_load"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def ask(order: dict[str, Any]) -> dict[str, Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            found: dict[str, Any] = json.loads(process.stdout.readline())
            return found

        yield ask
        assert process.stdin is not None
        process.stdin.close()


def requests_of() -> dict[str, list[dict[str, str]]]:
    """Bodies, made before."""
    rng = np.random.default_rng(1)
    users = rng.integers(0, USERS, 500).tolist()
    return {
        "/rank": [
            {"path": "/rank", "body": json.dumps(
                {"query": {"user": user}, "candidates": rng.choice(ITEMS, CANDIDATES).tolist()}
            )} for user in users
        ],
        "/recommend": [
            {"path": "/recommend", "body": json.dumps({"query": {"user": user}, "k": K})}
            for user in users
        ],
    }  # fmt: skip


def post(port: int, path: str, body: Any) -> Any:
    """One request."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(),
        {"content-type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def agree(port: int, files: dict[str, Path]) -> None:
    """Refuse to time answers that are not the model's."""
    import crossfm as cf

    model = cf.load(files["live"])
    candidates = np.random.default_rng(2).choice(ITEMS, CANDIDATES, replace=False)
    expected = model.predict({"user": np.full(CANDIDATES, 7), "item": candidates})
    ranked = post(port, "/rank", {"query": {"user": 7}, "candidates": candidates.tolist()})
    if not np.allclose(ranked["scores"], np.sort(expected)[::-1], rtol=1e-4, atol=1e-4):
        raise Disagreement("/rank gives other scores than the model")
    every = model.predict({"user": np.full(ITEMS, 7), "item": np.arange(ITEMS)})
    best = post(port, "/recommend", {"query": {"user": 7}, "k": K})
    if not np.allclose(best["scores"], np.sort(every)[::-1][:K], rtol=1e-4, atol=1e-4):
        raise Disagreement("/recommend does not give the model's best items")


def rounds(
    port: int, ask: Any, bodies: dict[str, Any], n: int, seconds: float, report: Report
) -> None:
    """Each load in turn."""
    rates: dict[str, list[float]] = {path: [] for path in bodies}
    tails: dict[str, list[float]] = {path: [] for path in bodies}
    middles: dict[str, list[float]] = {path: [] for path in bodies}
    for _ in range(n):
        for path, requests in bodies.items():
            found = ask(order(port, requests, seconds))
            expect_answers(found)
            milliseconds = 1e3 * np.array(found["seconds"])
            rates[path].append(len(milliseconds) / found["took"])
            tails[path].append(float(np.percentile(milliseconds, 99)))
            middles[path].append(float(np.median(milliseconds)))
    report.add(
        Figure("rank_requests_per_second", Spread.of(rates["/rank"]).median, BAR_RANK, ">="),
        Figure("rank_p99_ms", Spread.of(tails["/rank"]).median, BAR_RANK_P99, "<="),
        Figure(
            "recommend_requests_per_second", Spread.of(rates["/recommend"]).median, BAR_RECOMMEND,
            ">=",
        ),
    )  # fmt: skip
    show_table(
        f"{CONNECTIONS} connections, median of {n} rounds of {seconds:g} s",
        ("path", "requests/s", "spread", "p50 ms", "p99 ms"),
        [
            (
                path, f"{Spread.of(rates[path]).median:,.0f}",
                f"{min(rates[path]):,.0f} to {max(rates[path]):,.0f}",
                f"{Spread.of(middles[path]).median:.2f}", f"{Spread.of(tails[path]).median:.2f}",
            )
            for path in bodies
        ],
    )  # fmt: skip


def order(port: int, requests: Any, seconds: float) -> dict[str, Any]:
    """What the load is to do."""
    return {
        "host": "127.0.0.1", "port": port, "seconds": seconds, "requests": requests,
        "connections": CONNECTIONS,
    }  # fmt: skip


def expect_answers(found: dict[str, Any]) -> None:
    """Refuse rates of failures."""
    if set(found["statuses"]) != {"200"} or found["lost"]:
        raise Disagreement(f"requests failed: {found['statuses']}, {found['lost']} lost")


def soak(
    port: int, process: Any, ask: Any, bodies: dict[str, Any], files: dict[str, Path],
    minutes: float, report: Report,
) -> None:  # fmt: skip
    """Load while models come and go."""
    mixed = [one for pair in zip(*bodies.values(), strict=True) for one in pair]
    failed = answered = swaps = 0
    memory: list[float] = []
    versions = set()
    end = time.perf_counter() + 60 * minutes
    while time.perf_counter() < end:
        swaps += 1
        put(files, swaps % 2)
        found = ask(order(port, mixed, min(SWAP, 60 * minutes)))
        good = found["statuses"].get("200", 0)
        answered += good
        failed += sum(found["statuses"].values()) - good + found["lost"]
        versions.add(post(port, "/recommend", {"query": {"user": 1}, "k": 1})["model"])
        memory.append(resident(process.pid))
    third = max(1, len(memory) // 3)
    late, middle = np.median(memory[-third:]), np.median(memory[third : 2 * third] or memory)
    report.add(
        Figure("failed_requests", failed, 0, "<="),
        Figure("memory_growth", float(late / middle), BAR_MEMORY, "<="),
        Figure("models_that_answered", len(versions), 2, ">="),
    )
    report.details["memory_mb"] = memory
    print(
        f"{minutes:g} minutes: {answered:,} requests, {swaps} new models, {failed} failed; memory"
        f" {memory[0]:.0f} MB at first, {middle:.0f} MB in the middle, {late:.0f} MB at the end"
    )


def resident(pid: int) -> float:
    """Memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    sys.exit(main())
