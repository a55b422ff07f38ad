"""The command line as its tests use it: runs, in this process or another; files of all formats."""

from __future__ import annotations

import atexit
import functools
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from typer.testing import CliRunner

from crossfm.cli.app import app

N = 600
FAST = ["--epochs", "3", "--factors", "4", "--seed", "1"]


def crossfm_runs(*words: object, code: int = 0):
    """The command in this process; its result, after its exit code was checked."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output + repr(result.exception)
    assert "Traceback" not in result.output
    return result


def crossfm_process(*words: object, **options):
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "crossfm", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def error_of(*words: object, code: int = 1) -> str:
    """The one line that a command says on stderr when it fails."""
    result = crossfm_runs(*words, code=code)
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert lines, "nothing was said"
    assert lines[-1].startswith("error: ")
    return lines[-1]


def told_by(*words: object):
    """What the command says as JSON."""
    return json.loads(crossfm_runs(*words, "--json").stdout)


def usage_of(*words: object) -> str:
    """What is said of wrong use, in one line: terminals break it."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", crossfm_runs(*words, code=2).stderr).split())


def big_log(path: Path) -> None:
    """Many rows, so that a pass takes a while."""
    rng = np.random.default_rng(0)
    n = 300_000
    table = pa.table({"user": rng.integers(0, 5000, n), "item": rng.integers(0, 3000, n),
                      "rating": rng.normal(0, 1, n)})  # fmt: skip
    pa.parquet.write_table(table, path)


def interrupted(words: list[object], wait_for: str) -> tuple[int, str, str]:
    """Start the command, send SIGINT once it says `wait_for`; exit code, stdout, stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "crossfm", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    heard = ""
    deadline = time.monotonic() + 60
    while wait_for not in heard and time.monotonic() < deadline:
        heard += process.stderr.readline()
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    out, rest = process.communicate(timeout=60)
    assert time.monotonic() - sent < 20, "an interrupt is answered soon"
    return process.returncode, out, heard + rest


def make_log(n: int = N, seed: int = 0) -> dict[str, list]:
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 12, n), rng.integers(0, 9, n)
    taste = np.random.default_rng(99).normal(0, 1, (12, 9))
    score = taste[user, item] + rng.normal(0, 0.2, n)
    genres = [
        "|".join(sorted({f"g{i % 3}", f"g{(i + u) % 4}"})) for u, i in zip(user, item, strict=True)
    ]
    return {
        "user": [f"u{u}" for u in user],
        "item": item.tolist(),
        "age": (20 + user * 2.5).tolist(),
        "genres": genres,
        "rating": np.clip(np.round(3 + score), 1, 5).astype(int).tolist(),
        "click": np.where(score > 0, "yes", "no").tolist(),
    }


@functools.cache
def sample_files() -> Path:
    """Files of every format: a log of N rows to train on, another of 200 to test on."""
    home = Path(tempfile.mkdtemp(prefix="crossfm-cli-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    for name, n, seed in (("train", N, 0), ("test", 200, 1)):
        log = make_log(n, seed)
        table = pa.table(log)
        pa.parquet.write_table(table, home / f"{name}.parquet")
        pa.csv.write_csv(table, home / f"{name}.csv")
        pa.csv.write_csv(table, home / f"{name}.tsv", pa.csv.WriteOptions(delimiter="\t"))
        (home / f"{name}.csv.gz").write_bytes(gzip.compress((home / f"{name}.csv").read_bytes()))
        users = [int(u[1:]) for u in log["user"]]
        items = log["item"]
        labels = [1 if c == "yes" else -1 for c in log["click"]]
        (home / f"{name}.libsvm").write_text(
            "".join(f"{y} {u}:1 {12 + i}:1\n" for y, u, i in zip(labels, users, items, strict=True))
        )
        (home / f"{name}.ffm").write_text(
            "".join(
                f"{y} 0:{u}:1 1:{12 + i}:1\n" for y, u, i in zip(labels, users, items, strict=True)
            )
        )
    crossfm_runs("fit", home / "train.csv", "-t", "rating", "--drop", "click", "-m",
                 home / "rating.crossfm", "-q", *FAST)  # fmt: skip
    crossfm_runs("fit", home / "train.csv", "-t", "click", "--drop", "rating", "-m",
                 home / "click.crossfm", "-q", "--valid", "0.2", *FAST)  # fmt: skip
    crossfm_runs("fit", home / "train.libsvm", "-m", home / "text.crossfm", "-q", *FAST)
    (home / "row.json").write_text('{"usr": "u1", "item": 2, "age": 30, "genres": "g1"}')
    (home / "broken.json").write_text('{"user": ')
    (home / "number.json").write_text("[1, 2]")
    return home
