"""``python -m benchmarks.retrieval``: exact top-k beside faiss, pre-ranking, on one core.

A million items of 16 factors (17 numbers with the bias), drawn at random; the best 100 for queries
one by one and 256 at once. Peers are asked in turn within each round, ratios are taken within
it, and nothing is reported before both have named the same items. Beside it stands the time of
one sequential read of the vectors' bytes, summed up by NumPy.

Approximate search is that of `Retriever.approximate`, in turn with the exact one: tuned on 256
queries, judged on 256 others. Its vectors are like those of models, in groups and with some items
liked by all; what becomes of it with numbers drawn at random, where nothing is near anything, is
shown beside it.

Pre-ranking is `Ranker` on 10,000 candidates by id out of a million items, with the query made ready
before, 2,000 times.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import peers
from benchmarks.figures import Figure, Report, Spread, show_table
from benchmarks.harness import Disagreement, Worker, machine

N_ITEMS, N_FACTORS, K = 1_000_000, 16, 100
TOGETHER, ALONE = 256, 20  # queries at once, and one by one, in a round
BAR_ALONE, BAR_READ, BAR_TOGETHER = 1.0, 1.5, 0.8
RECALL, BAR_RECALL, BAR_NEAR = 0.96, 0.95, 10.0
GROUPS = 200  # of items, in vectors that are like those of models
N_CANDIDATES, N_QUERIES, BAR_RANK = 10_000, 2_000, 1e-3
SAME = 0.999  # of the items named; the others are equal but for rounding


def main() -> int:
    """The contest, the bars, the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="end with JSON; exit 1 on a missed bar"
    )
    parser.add_argument("--items", type=int, default=N_ITEMS)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    where = machine()
    peers.ensure("faiss")
    report = Report("retrieval", details={"machine": where})
    contest(arguments.items, arguments.rounds, report)
    approximate(arguments.items, arguments.rounds, report)
    pre_ranking(arguments.items, report)
    return report.finish(check=arguments.check)


def contest(n_items: int, rounds: int, report: Report) -> None:
    """Exact top-k, one query and many."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((n_items, 1 + N_FACTORS), np.float32)
    queries = rng.standard_normal((TOGETHER, 1 + N_FACTORS), np.float32)
    queries[:, 0] = 1
    runs: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        Worker("crossfm-search") as ours,
        Worker("faiss") as theirs,
    ):
        files = {name: str(Path(folder) / f"{name}.npy") for name in ("vectors", "many", "few")}
        np.save(files["vectors"], vectors)
        np.save(files["many"], queries)
        np.save(files["few"], queries[:ALONE])
        versions = [one.ask("ask", vectors=files["vectors"])["version"] for one in (ours, theirs)]
        kinds = (("alone", "few", 1), ("together", "many", TOGETHER))
        for _ in range(rounds):
            for kind, of, n in kinds:
                found = {}
                for label, worker, more in (
                    ("crossfm", ours, {}), ("crossfm, bfloat16", ours, {"storage": "bfloat16"}),
                    ("faiss", theirs, {}),
                ):  # fmt: skip
                    path = str(Path(folder) / "found.npz")
                    told = worker.ask("ask", queries=files[of], k=K, at_once=n, found=path, **more)
                    runs.setdefault(f"{label}, {kind}", []).append(
                        float(np.median(told["seconds"]))
                    )
                    found[label] = dict(np.load(path))
                expect_agreement(found)
            started = time.perf_counter()
            vectors.sum()
            runs.setdefault("one read", []).append(time.perf_counter() - started)
    ratios = {
        "one_query_over_faiss": ("crossfm, alone", "faiss, alone"),
        "one_query_over_one_read": ("crossfm, alone", "one read"),
        "faiss_over_256_queries": ("faiss, together", "crossfm, together"),
    }
    found_ratios = {
        name: Spread.of([a / b for a, b in zip(runs[of], runs[to], strict=True)]).median
        for name, (of, to) in ratios.items()
    }
    report.add(
        Figure("one_query_over_faiss", found_ratios["one_query_over_faiss"], BAR_ALONE, "<="),
        Figure("one_query_over_one_read", found_ratios["one_query_over_one_read"], BAR_READ, "<="),
        Figure("256_queries_times_faiss", found_ratios["faiss_over_256_queries"], BAR_TOGETHER,
               ">=", "times"),
    )  # fmt: skip
    lines = []
    for label, seconds in runs.items():
        spread = Spread.of([1e3 * one for one in seconds])
        lines.append(
            (label, f"{spread.median:.2f}", f"{spread.least:.2f} to {spread.greatest:.2f}")
        )
    show_table(
        f"Top {K} of {n_items:,} items, {N_FACTORS} factors, one thread, median of {rounds} rounds",
        ("search", "ms", "spread"), lines,
    )  # fmt: skip
    print(f"versions: {', '.join(versions)}")
    report.details["seconds"] = runs


def expect_agreement(found: dict[str, dict[str, np.ndarray]]) -> None:
    """Refuse to compare searches that do not find the same items."""
    ours = found["crossfm"]
    for label, other in found.items():
        same = (ours["places"] == other["places"]).mean()
        if same < SAME or not np.allclose(ours["scores"], other["scores"], rtol=1e-4, atol=1e-4):
            raise Disagreement(f"{label} names {same:.2%} of the items that crossfm names")


def grouped(n: int, centres: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vectors around centres; the first number, an item's bias, has a long tail."""
    found = np.empty((n, 1 + N_FACTORS), np.float32)
    found[:, 1:] = centres[rng.integers(0, len(centres), n)]
    found[:, 1:] += 0.6 * rng.standard_normal((n, N_FACTORS), np.float32)
    found[:, 1:] *= 0.25
    found[:, 0] = 0.3 * rng.gumbel(size=n)
    return found


def approximate(n_items: int, rounds: int, report: Report) -> None:
    """Clusters beside the exact search, one query at a time on one thread."""
    from crossfm.retrieval import ItemIndex
    from crossfm.retrieval.clusters import Clusters

    rng = np.random.default_rng(2)
    centres = rng.standard_normal((GROUPS, N_FACTORS)).astype(np.float32)
    lines = []
    for kind, bars in (("like a model's", True), ("drawn at random", False)):
        if bars:
            vectors = grouped(n_items, centres, rng)
            queries = grouped(2 * TOGETHER, centres, rng)
        else:
            vectors = rng.standard_normal((n_items, 1 + N_FACTORS), np.float32)
            queries = rng.standard_normal((2 * TOGETHER, 1 + N_FACTORS), np.float32)
        queries[:, 0] = 1
        tuned_on, judged_on = queries[:TOGETHER], queries[TOGETHER:]
        exact = ItemIndex(1 + N_FACTORS)
        exact.put(np.arange(n_items), vectors)
        started = time.perf_counter()
        near = Clusters(vectors)
        built = time.perf_counter() - started
        near.tune(tuned_on, exact.top(tuned_on, K)[0], RECALL)
        best, scores = exact.top(judged_on, K)
        found, products = near.top(judged_on, K)
        recall = float(np.mean([np.isin(b, f).mean() for b, f in zip(best, found, strict=True)]))
        of_both = [np.isin(f, b) for b, f in zip(best, found, strict=True)]
        if not np.allclose(
            np.concatenate([p[both] for p, both in zip(products, of_both, strict=True)]),
            np.concatenate(
                [s[np.isin(b, f)] for s, b, f in zip(scores, best, found, strict=True)]
            ),
            rtol=1e-4, atol=1e-4,
        ):  # fmt: skip
            raise Disagreement("the approximate search gives other scores than the exact one")
        ratios, alone = [], []
        for _ in range(rounds):
            medians = []
            for search in (exact, near):
                seconds = []
                for at in range(ALONE):
                    began = time.perf_counter()
                    search.top(judged_on[at : at + 1], K)
                    seconds.append(time.perf_counter() - began)
                medians.append(float(np.median(seconds)))
            ratios.append(medians[0] / medians[1])
            alone.append(1e3 * medians[1])
        times = Spread.of(ratios).median
        if bars:
            report.add(
                Figure("approximate_recall_at_100", recall, BAR_RECALL, ">="),
                Figure("approximate_times_exact", times, BAR_NEAR, ">=", "times"),
            )
        report.details[f"approximate, vectors {kind}"] = {"recall": recall, "times": times}
        lines.append(
            (kind, f"{recall:.3f}", f"{Spread.of(alone).median:.3f}", f"{times:.1f}",
             f"{near.probes:,} of {near.n_clusters:,}", f"{built:.0f}")
        )  # fmt: skip
    show_table(
        f"Approximate top {K} of {n_items:,} items, one query, one thread",
        ("vectors", "recall", "ms", "times exact", "clusters scanned", "built in s"), lines,
    )  # fmt: skip


def pre_ranking(n_items: int, report: Report) -> None:
    """`Ranker` by id."""
    from crossfm import Categorical, FactorModel, Schema
    from crossfm.retrieval import Ranker

    rng = np.random.default_rng(1)
    items = {"item": np.arange(n_items)}
    schema = Schema([Categorical("user", hash_buckets=1000), Categorical("item")])
    schema.fit({"user": np.zeros(n_items, np.int64), **items})
    n = schema.n_features_
    model = FactorModel(
        0.0, rng.standard_normal(n, np.float32), rng.standard_normal((n, N_FACTORS), np.float32),
        field_of=schema.field_of_, schema=schema,
    )  # fmt: skip
    ranker = Ranker(model, query_fields="user", item_fields="item", items=items)
    query, seconds = ranker.query({"user": 7}), []
    for _ in range(N_QUERIES):
        candidates = rng.choice(n_items, N_CANDIDATES)
        started = time.perf_counter()
        scores = query.scores(candidates)
        seconds.append(time.perf_counter() - started)
    rows = schema.transform({"user": np.full(N_CANDIDATES, 7), "item": candidates})
    if not np.allclose(scores, model.score(rows), rtol=1e-4, atol=1e-4):
        raise Disagreement("the ranker's scores are not the model's")
    p50, p99 = np.quantile(seconds, (0.5, 0.99))
    report.add(Figure("rank_10000_by_id_p99", float(p99), BAR_RANK, "<=", "s"))
    print(
        f"pre-ranking {N_CANDIDATES:,} candidates by id: p50 {1e3 * p50:.2f} ms,"
        f" p99 {1e3 * p99:.2f} ms"
    )


if __name__ == "__main__":
    raise SystemExit(main())
