"""``crossfm serve`` as a process: slow and hostile clients, new files under load, its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from serving_runs import post, serving

import crossfm as cf

for _module in ("fastapi", "uvicorn", "httptools", "prometheus_client"):
    pytest.importorskip(_module)

N = 300


def make(folder: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    log = {"user": rng.integers(0, 9, N), "film": rng.integers(0, 20, N)}
    schema = cf.Schema([cf.Categorical("user"), cf.Categorical("film")])
    model = cf.FMRegressor(3, schema=schema, n_epochs=3, early_stopping=False, random_state=seed)
    model.fit(log, rng.normal(size=N)).save(folder / "m.crossfm")
    pq.write_table(pa.table({"film": list(range(20))}), folder / "films.parquet")
    return folder / "m.crossfm"


def talk(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """Bytes sent to the port, and what came back until it was closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except OSError:
                break
            time.sleep(pause)
        found = b""
        try:
            while part := connection.recv(65536):
                found += part
        except ConnectionResetError:
            pass
        return found


BODY = json.dumps({"query": {"user": 1}, "k": 3}).encode()
HEAD = (
    b"POST /recommend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n"
)


def test_slow_and_hostile_clients_cost_the_others_nothing(tmp_path: Path) -> None:
    with serving(make(tmp_path), "--timeout", "1", "--max-mb", "0.01") as (port, _):
        assert b"408" in talk(port)  # nothing
        assert b"408" in talk(port, b"POST /rec", b"ommend HTTP/1.1\r\nho")
        assert b"408" in talk(port, HEAD % 100, b"{", b'"a"')
        assert b"413" in talk(port, HEAD % 10**12)
        assert b"431" in talk(port, b"GET / HTTP/1.1\r\n" + b"a: " + b"b" * 100_000)
        assert b"400" in talk(port, b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        assert b"400" in talk(port, HEAD.replace(b"%d", b"many") + BODY)
        chunked = HEAD.replace(b"content-length: %d", b"transfer-encoding: chunked")
        assert b"413" in talk(port, chunked, *[b"400\r\n" + b" " * 1024 + b"\r\n"] * 20)
        assert b"200 OK" in talk(port, HEAD % len(BODY), BODY[:9], BODY[9:], pause=0.1)
        kept = (HEAD % len(BODY) + BODY).replace(b"connection: close\r\n", b"")
        assert talk(port, kept, kept, kept, b"GET /he", pause=0.05).count(b"200 OK") == 3
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        assert len(post(port, "/recommend", {"query": {"user": 1}, "k": 3})["ids"]) == 3
        for connection in held:
            connection.close()


def test_new_models_take_over_while_requests_go_on(tmp_path: Path) -> None:
    model = make(tmp_path)
    (tmp_path / "other").mkdir()
    contents = [model.read_bytes(), make(tmp_path / "other", 1).read_bytes(), b"broken"]
    with serving(model, "--poll", "0.05") as (port, _):
        versions: list[str] = []
        failures: list[Any] = []
        over = threading.Event()

        def load() -> None:
            while not over.is_set():
                try:
                    versions.append(post(port, "/recommend", {"query": {"user": 1}})["model"])
                except Exception as error:
                    failures.append(error)

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        for content in [*contents * 3, contents[0]]:
            (tmp_path / "new").write_bytes(content)
            os.replace(tmp_path / "new", model)
            time.sleep(0.3)
        over.set()
        for thread in threads:
            thread.join()
        assert not failures
        assert len(set(versions)) == 2


def test_it_ends_after_the_last_answer(tmp_path: Path) -> None:
    with serving(make(tmp_path)) as (port, process):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(HEAD % len(BODY) + BODY[:5])
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            connection.sendall(BODY[5:])
            found = b""
            while part := connection.recv(65536):
                found += part
            assert b"200 OK" in found
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_wrong_use_ends_with_one_line(tmp_path: Path) -> None:
    model = make(tmp_path)
    (tmp_path / "token").write_text("a token of some length\n")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "crossfm", "serve", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run(str(model), "--port", str(taken.getsockname()[1]))
        assert done.returncode == 1
        assert "cannot listen" in done.stderr
    for words, code, told in (
        ((str(tmp_path / "absent.crossfm"),), 1, "cannot read"),
        ((str(model), "--items", str(tmp_path / "absent.csv")), 1, "absent.csv"),
        ((str(model), "--token-file", str(tmp_path / "absent")), 1, "cannot read the token"),
        ((str(model), "--log", "loud"), 2, "--log"),
        ((str(model), "--timeout", "0"), 2, "--timeout"),
        ((str(model), "--host", "203.0.113.1", "--port", "0"), 1, "cannot listen"),
    ):
        done = run(*words)
        assert done.returncode == code, done.stderr
        assert told in done.stderr
        assert "Traceback" not in done.stderr
    with (
        serving(model, "--token-file", str(tmp_path / "token")) as (port, _),
        pytest.raises(urllib.error.HTTPError, match="401"),
    ):
        post(port, "/recommend", {"query": {"user": 1}})
