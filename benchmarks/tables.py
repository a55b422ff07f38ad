"""Tables to rows: a Parquet file of strings and numbers, read, its vocabularies built, encoded.

The log is made here, like Criteo's: 26 columns of hashed tokens (8 hexadecimal digits, long
tails, 4 to 10 million values to draw from) and 13 of counts, a third of them with many missing.
What is timed goes from the file (in the system's cache) to the ids and values of all rows:

- read: the file to an Arrow table;
- vocabulary: `Schema.fit`, ids by falling frequency, mean and deviation of the logarithms;
- encode: `Schema.transform`.

Before that the result is held against a slow one of plain Python on some thousand rows (and on
the real log of 20,000 rows, where ``CROSSFM_DATA`` has it), and in each round every library's
ids and values against crossfm's. The libraries do the same work in their own terms, on as many
threads as they can use.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from benchmarks.figures import Figure, Report, Spread, show_table
from benchmarks.harness import Disagreement, machine

BAR = 500_000  # rows/s, vocabulary included, two threads
ORACLE_ROWS = 5_000
NUMBERS = [f"I{j}" for j in range(1, 14)]
TOKENS = [f"C{j}" for j in range(1, 27)]
# How many values each column of tokens is drawn from, and the share of rows without one, as in
# the log of the Kaggle competition of 2014.
VALUES = (
    1_460, 583, 10_131_227, 2_202_608, 305, 24, 12_517, 633, 3, 93_145, 5_683, 8_351_593, 3_194,
    27, 14_992, 5_461_306, 10, 5_652, 2_173, 4, 7_046_547, 18, 15, 286_181, 105, 142_572,
)  # fmt: skip
NO_TOKEN = {3: 0.034, 4: 0.034, 6: 0.121, 12: 0.034, 16: 0.034, 19: 0.44, 20: 0.44, 21: 0.034,
            22: 0.763, 24: 0.034, 25: 0.44, 26: 0.44}  # fmt: skip
NO_NUMBER = (0.454, 0, 0.215, 0.217, 0.026, 0.224, 0.043, 0, 0.043, 0.454, 0.043, 0.765, 0.217)


Seconds: TypeAlias = dict[str, list[dict[str, float]]]  # of each library, round and stage


class Encoded(NamedTuple):
    """What a library makes of the file, and the seconds of each stage."""

    ids: np.ndarray  # [n, 39], of the tokens behind those of the numbers
    values: np.ndarray  # float32 [n, 13]; NaN, or 1 under another id, where missing
    seconds: dict[str, float]
    processor: float = 0.0  # seconds of all threads


def add_command(commands: Any) -> None:
    """The subcommand ``tables``."""
    one = commands.add_parser("tables", help="Parquet to encoded rows, vocabularies included")
    one.add_argument("--check", action="store_true", help="end with JSON; exit 1 on a missed bar")
    one.add_argument("--rows", type=int, default=1_000_000)
    one.add_argument("--rounds", type=int, default=5)
    one.add_argument("--threads", type=int, default=2)
    one.add_argument("--peers", default="pandas,polars", help="also: scikit-learn (slow)")
    one.set_defaults(run=tables)


def tables(arguments: argparse.Namespace) -> int:
    """Make the file, hold it against the oracle, run all in turn, report."""
    import pyarrow as pa

    where = machine()
    os.environ.setdefault("POLARS_MAX_THREADS", str(arguments.threads))
    names = [name for name in arguments.peers.split(",") if name]
    entries: dict[str, Callable[[Path], Encoded]] = {
        "crossfm": lambda path: ours(path, arguments.threads),
        "crossfm, 1 thread": lambda path: ours(path, 1),
    }
    entries |= {name: PEERS[name] for name in names}
    found: Seconds = {name: [] for name in entries}
    before = pa.cpu_count()
    try:
        with tempfile.TemporaryDirectory(prefix="crossfm-bench-") as name:
            checked = check_oracle(Path(name))
            path, distinct = make_log(Path(name), arguments.rows)
            size = path.stat().st_size
            for at in range(arguments.rounds + 1):  # the first warms up, and is not counted
                order = list(entries)
                order = order[at % len(order) :] + order[: at % len(order)]
                reference: Encoded | None = None
                for key in sorted(order, key=lambda key: key != "crossfm") if not at else order:
                    answer = entries[key](path)
                    if not at:  # results take memory, so they are compared in one round only
                        reference = reference or answer
                        compare(key, answer, reference)
                        continue
                    total = sum(answer.seconds.values())
                    found[key].append(
                        {**answer.seconds, "total": total, "processor": answer.processor}
                    )
    finally:
        pa.set_cpu_count(before)
    rate = Spread.of([arguments.rows / one["total"] for one in found["crossfm"]])
    report = Report("speed tables")
    report.add(Figure("parquet_rows_per_second", rate.median, BAR, ">=", "rows/s"))
    report.details = {
        "machine": where, "rows": arguments.rows, "bytes": size, "distinct": distinct,
        "threads": arguments.threads, "held_against_the_oracle": checked, "seconds": found,
    }  # fmt: skip
    show(found, arguments, distinct, size)
    print(f"held against the oracle: {', '.join(checked)}; load average at the start"
          f" {where['load_average']:.1f}")  # fmt: skip
    return report.finish(check=arguments.check)


def show(
    found: dict[str, list[dict[str, float]]],
    arguments: argparse.Namespace,
    distinct: int,
    size: int,
) -> None:
    """Print the stages and the rates."""
    mine = [one["total"] for one in found["crossfm"]]
    lines = []
    for key, rounds in found.items():
        stages = [
            f"{Spread.of([one[stage] for one in rounds]).median:.2f}" if stage in rounds[0] else ""
            for stage in ("read", "vocabulary", "encode", "total", "processor")
        ]
        rate = Spread.of([arguments.rows / one["total"] for one in rounds])
        times = Spread.of([one["total"] / a for one, a in zip(rounds, mine, strict=True)])
        lines.append(
            (key, *stages, f"{rate.median:,.0f}", f"{rate.least:,.0f} to {rate.greatest:,.0f}",
             f"{times.median:.1f}")
        )  # fmt: skip
    show_table(
        f"Parquet ({size / 1e6:,.0f} MB, {arguments.rows:,} rows, 26 + 13 columns, {distinct:,}"
        f" distinct tokens) to rows, {arguments.threads} threads, seconds, median of"
        f" {arguments.rounds} rounds, turn about",
        ("library", "read", "vocab.", "encode", "total", "processor", "rows/s", "spread", "x"),
        lines,
    )


# --- the log ------------------------------------------------------------------------------------


def make_log(folder: Path, n_rows: int, seed: int = 0) -> tuple[Path, int]:
    """The file, and the number of distinct tokens summed over its columns."""
    import pyarrow as pa
    import pyarrow.parquet

    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {"label": (rng.random(n_rows) < 0.25).astype(np.int8)}
    for name, share in zip(NUMBERS, NO_NUMBER, strict=True):
        counts = np.floor(np.exp(rng.normal(2.0, 2.0, n_rows))).astype(np.int32)
        columns[name] = pa.array(counts, mask=rng.random(n_rows) < share)
    distinct = 0
    for j, (name, size) in enumerate(zip(TOKENS, VALUES, strict=True), 1):
        columns[name], seen = tokens(rng, n_rows, size, NO_TOKEN.get(j, 0.0), salt=j)
        distinct += seen
    path = folder / "log.parquet"
    pa.parquet.write_table(pa.table(columns), path)
    return path, distinct


def tokens(rng: Any, n: int, size: int, missing: float, salt: int) -> tuple[Any, int]:
    """Hashed values of `size`, value r about as often as 1 / r; and how many were drawn."""
    import pyarrow as pa

    rank = np.minimum(np.exp(rng.random(n) * np.log(size + 1)).astype(np.uint64) - 1, size - 1)
    hashed = (rank + np.uint64(salt << 24)) * np.uint64(2_654_435_761) & np.uint64(0xFFFFFFFF)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    shifts = np.arange(28, -1, -4, dtype=np.uint64)
    text = digits[(hashed[:, None] >> shifts & np.uint64(15)).astype(np.uint8)]
    there = rng.random(n) >= missing
    column = pa.StringArray.from_buffers(
        n, pa.py_buffer(np.arange(0, 8 * n + 1, 8, dtype=np.int32)), pa.py_buffer(text.tobytes()),
        pa.py_buffer(np.packbits(there, bitorder="little")),
    )  # fmt: skip
    return column, len(np.unique(rank[there]))


# --- entrants -----------------------------------------------------------------------------------


class Clock:
    """Seconds between stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()
        self.begun = time.process_time()

    def stage(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self.last = now - self.last, now

    @property
    def processor(self) -> float:
        return time.process_time() - self.begun


def ours(path: Path, threads: int) -> Encoded:
    """crossfm."""
    import pyarrow as pa

    from crossfm.data import read_table

    pa.set_cpu_count(threads)
    clock = Clock()
    table = read_table(path, [*NUMBERS, *TOKENS], dictionaries=True)
    clock.stage("read")
    fitted = schema().fit(table)
    clock.stage("vocabulary")
    rows = fitted.transform(table)
    clock.stage("encode")
    processor = clock.processor
    assert rows.values is not None
    width = len(NUMBERS) + len(TOKENS)
    values = rows.values.reshape(-1, width)[:, : len(NUMBERS)]
    return Encoded(rows.ids.reshape(-1, width), values, clock.seconds, processor)


def schema() -> Any:
    """13 logarithms and 26 vocabularies."""
    from crossfm.data import Categorical, Numeric, Schema

    numbers = [Numeric(name, scale="log") for name in NUMBERS]
    return Schema([*numbers, *(Categorical(name) for name in TOKENS)])


def with_polars(path: Path) -> Encoded:
    """polars: counts, sorted, joined back to the rows; columns in parallel."""
    import polars as pl

    clock = Clock()
    frame = pl.read_parquet(path, columns=[*NUMBERS, *TOKENS])
    clock.stage("read")
    counted = pl.collect_all(
        [
            frame.lazy().select(name).drop_nulls().group_by(name).len()
            .sort(["len", name], descending=[True, False]).select(name)
            .with_row_index("id", offset=1)
            for name in TOKENS
        ]
    )  # fmt: skip
    logs = frame.lazy().select(pl.col(NUMBERS).cast(pl.Float64).log1p()).collect()
    mean, std = logs.mean().row(0), logs.std(ddof=0).row(0)
    clock.stage("vocabulary")
    found = pl.collect_all(
        [
            frame.lazy().select(name).join(
                values.lazy(), on=name, how="left", maintain_order="left"
            ).select(pl.col("id").fill_null(0).cast(pl.Int32))
            for name, values in zip(TOKENS, counted, strict=True)
        ]
    )  # fmt: skip
    scaled = logs.select(
        ((pl.col(name) - mean[j]) / std[j]).cast(pl.Float32) for j, name in enumerate(NUMBERS)
    )
    values = scaled.fill_null(float("nan")).to_numpy(order="c")
    places = [one["id"].to_numpy() for one in found]
    ids = placed(places, [len(one) for one in counted], values)
    clock.stage("encode")
    return Encoded(ids, values, clock.seconds, clock.processor)


def with_pandas(path: Path) -> Encoded:
    """pandas: factorize, counts, sorted, mapped back by code."""
    import pandas as pd

    clock = Clock()
    frame = pd.read_parquet(path, columns=[*NUMBERS, *TOKENS])
    clock.stage("read")
    coded, ranks = [], []
    for name in TOKENS:
        codes, values = pd.factorize(frame[name])
        counts = pd.DataFrame(
            {"count": np.bincount(codes[codes >= 0], minlength=len(values)), "value": values}
        ).sort_values(["count", "value"], ascending=[False, True])
        rank = np.zeros(len(values) + 1, np.int32)  # the last is that of code -1
        rank[counts.index] = np.arange(1, len(values) + 1)
        coded.append(codes)
        ranks.append(rank)
    logs = np.log1p(frame[NUMBERS].astype("float64"))
    mean, std = logs.mean(), logs.std(ddof=0)
    clock.stage("vocabulary")
    places = [rank[codes] for codes, rank in zip(coded, ranks, strict=True)]
    values = np.ascontiguousarray(((logs - mean) / std).to_numpy(np.float32))
    ids = placed(places, [len(rank) - 1 for rank in ranks], values)
    clock.stage("encode")
    return Encoded(ids, values, clock.seconds, clock.processor)


def with_sklearn(path: Path) -> Encoded:
    """scikit-learn: OrdinalEncoder, which knows no frequencies: ids in the order of the values."""
    import pandas as pd
    from sklearn.preprocessing import OrdinalEncoder

    clock = Clock()
    frame = pd.read_parquet(path, columns=[*NUMBERS, *TOKENS])
    clock.stage("read")
    encoder = OrdinalEncoder(encoded_missing_value=-1, dtype=np.float64).fit(frame[TOKENS])
    logs = np.log1p(frame[NUMBERS].astype("float64"))
    mean, std = logs.mean(), logs.std(ddof=0)
    clock.stage("vocabulary")
    found = encoder.transform(frame[TOKENS])
    values = np.ascontiguousarray(((logs - mean) / std).to_numpy(np.float32))
    places = [found[:, j].astype(np.int32) + 1 for j in range(len(TOKENS))]
    ids = placed(places, [int(one.max()) for one in places], values)
    clock.stage("encode")
    return Encoded(ids, values, clock.seconds, clock.processor)


PEERS: dict[str, Callable[[Path], Encoded]] = {
    "pandas": with_pandas, "polars": with_polars, "scikit-learn": with_sklearn,
}  # fmt: skip


def placed(places: list[np.ndarray], sizes: list[int], values: np.ndarray) -> np.ndarray:
    """The ids of a schema: two of each number, then 1 + `sizes` of each column of tokens."""
    n, m = values.shape
    ids = np.empty((n, m + len(places)), np.int32)
    ids[:, :m] = 2 * np.arange(m) + ~np.isnan(values)
    start = 2 * m
    for j, (place, size) in enumerate(zip(places, sizes, strict=True)):
        ids[:, m + j] = place + start
        start += 1 + size
    return ids


# --- agreement ----------------------------------------------------------------------------------


def compare(name: str, found: Encoded, mine: Encoded) -> None:
    """Raise unless the ids are the same and the values, but for rounding."""
    m = len(NUMBERS)
    if name == "scikit-learn":  # another order of the values: one id of ours to one of theirs
        for token, theirs, own in zip(TOKENS, found.ids.T[m:], mine.ids.T[m:], strict=True):
            pairs = np.unique(np.stack([theirs, own]), axis=1).shape[1]
            if not pairs == len(np.unique(theirs)) == len(np.unique(own)):
                raise Disagreement(f"{name}: column {token} is split up in another way")
    else:
        differ = (found.ids != mine.ids).any(0)
        if differ.any():
            raise Disagreement(f"{name}: other ids in column {int(np.argmax(differ))}")
    there = mine.ids[:, :m] % 2 == 1  # where missing, ours is 1
    if not np.allclose(found.values[there], mine.values[there], rtol=1e-5, atol=1e-6):
        raise Disagreement(f"{name}: other values")  # float32, of means summed in another order


def check_oracle(folder: Path) -> list[str]:
    """Hold crossfm against plain Python; which logs were."""
    import pyarrow as pa
    import pyarrow.parquet

    path, _ = make_log(folder, ORACLE_ROWS, seed=1)
    logs = {f"{ORACLE_ROWS:,} made rows": path}
    if os.environ.get("CROSSFM_DATA"):
        from crossfm.datasets import load_criteo
        from crossfm.errors import DatasetError

        try:
            table = load_criteo()
            real = folder / "criteo.parquet"
            pa.parquet.write_table(table, real, row_group_size=4_999)
            logs[f"{len(table):,} rows of Criteo"] = real
        except DatasetError:
            pass
    for name, one in logs.items():
        found, want = ours(one, 2), oracle(pa.parquet.read_table(one).to_pydict())
        if (found.ids != want.ids).any():
            raise Disagreement(f"{name}: ids are not those of the oracle")
        if not np.allclose(found.values, want.values, rtol=1e-5, atol=1e-6):
            raise Disagreement(f"{name}: values are not those of the oracle")
        path.unlink(missing_ok=True)
    return list(logs)


def oracle(log: dict[str, list[Any]]) -> Encoded:
    """The definition, in plain Python."""
    n = len(log[TOKENS[0]])
    ids = np.zeros((n, len(NUMBERS) + len(TOKENS)), np.int64)
    values = np.ones((n, len(NUMBERS)))
    start = 0
    for j, name in enumerate(NUMBERS):
        x = [None if v is None else math.copysign(math.log1p(abs(v)), v) for v in log[name]]
        known = [v for v in x if v is not None]
        mean = math.fsum(known) / len(known)
        std = math.sqrt(math.fsum((v - mean) ** 2 for v in known) / len(known))
        for row, v in enumerate(x):
            ids[row, j] = start + (v is not None)
            values[row, j] = 1.0 if v is None else (v - mean) / std
        start += 2
    for j, name in enumerate(TOKENS, len(NUMBERS)):
        counts = Counter(v for v in log[name] if v)
        ranked = sorted(counts, key=lambda v: (-counts[v], v.encode()))
        place = {v: start + 1 + at for at, v in enumerate(ranked)}
        ids[:, j] = [place[v] if v else start for v in log[name]]
        start += 1 + len(ranked)
    return Encoded(ids, values, {})
