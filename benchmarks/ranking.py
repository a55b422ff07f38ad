"""Learning to rank on MovieLens: `FMRanker` beside BPR and ALS of implicit, each tuned alike.

A rating of 4 or more is a positive. Of each user's positives the last fifth in time is the test
part. The rest is cut twice for validation: its last fifth judges what was fitted to what comes
before, and the last fifth of that what was fitted to the others. The setting of each method
recorded here had the best NDCG@10 there among 40 or more (with `trials`, others are drawn and
judged there, as many for each method). It is fitted again to all of the training part, with several
seeds, and judged on the test part. Lists are of all films of the data set less those that the user
took in the training part. What implicit has never seen it cannot rank: such films are put last for
it, which helps it.

What the log tells of order each method is told as far as it can take it: `FMRanker` as a context,
the films that the user liked last before; ALS as confidences that fall with the age of a like.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.figures import Figure, Report, show_table
from benchmarks.harness import Worker, machine

K = 10
HELD_OUT = 0.2
POSITIVE = 4.0
SEEDS = (0, 1, 2, 3, 4)
TUNING_SEEDS = (0, 1)
MIN_TAGGED = 3  # films that a tag has to be on

Setting = dict[str, Any]


@dataclass(frozen=True)
class Likes:
    """Positives in the order of time, users and films as numbers.

    Attributes:
        user: ``[n]``.
        item: ``[n]``.
        time: seconds, ``[n]``.
        n_users, n_items: numbers are below them.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    n_users: int
    n_items: int

    def __len__(self) -> int:
        return len(self.user)

    def take(self, chosen: np.ndarray) -> Likes:
        """Some of them."""
        return Likes(
            self.user[chosen], self.item[chosen], self.time[chosen], self.n_users, self.n_items
        )

    def age(self) -> np.ndarray:
        """Of each: 0 for its user's last, 1 for his first, ``[n]``."""
        place, count = self._places()
        return 1 - place / np.maximum(count - 1, 1)

    def recent(self, n: int, at: dict[str, Any] | None = None) -> pa.ListArray:
        """The last n films of the users of `at`, or of each like's user strictly before it."""
        from crossfm.data import recent_items

        log = {"user": self.user, "item": self.item, "time": self.time}
        return recent_items(log, n, at=at)

    def split(self, share: float) -> tuple[Likes, Likes]:
        """All but the last `share` of each user's, rounded, and these."""
        place, count = self._places()
        last = place >= count - np.round(share * count).astype(np.int64)
        return self.take(~last), self.take(last)

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """The place of each among its user's, and how many they are."""
        count = np.bincount(self.user, minlength=self.n_users)
        order = np.argsort(self.user, kind="stable")
        place = np.empty(len(self), np.int64)
        place[order] = np.arange(len(self)) - np.repeat(np.cumsum(count) - count, count)
        return place, count[self.user]


@dataclass(frozen=True)
class Films:
    """What is known of films and of who tagged them."""

    items: pa.Table
    tags: pa.Table

    def features(self, before: Likes) -> pa.Table:
        """Genres, year and tags of each film; of tags, those given before the last of `before`.

        A user's tag counts where it was given no later than his last positive of `before`, so that
        none tells of what is held out.
        """
        until = np.full(before.n_users, -1, np.int64)
        np.maximum.at(until, before.user, before.time)
        user, item = (self.tags[name].to_numpy() for name in ("user", "item"))
        fits = self.tags["timestamp"].to_numpy() <= until[user]
        words: list[set[str]] = [set() for _ in range(before.n_items)]
        counted: dict[str, set[int]] = {}
        for film, word in zip(item[fits], self.tags["tag"].filter(pa.array(fits)).to_pylist(),
                              strict=True):  # fmt: skip
            words[film].add(word.lower())
            counted.setdefault(word.lower(), set()).add(film)
        kept = {word for word, films in counted.items() if len(films) >= MIN_TAGGED}
        tags = pa.array([sorted(given & kept) for given in words], pa.list_(pa.string()))
        return self.items.append_column("tags", tags)


def movielens() -> tuple[Likes, Films]:
    """The positives of MovieLens latest-small in the order of time, and its films."""
    from crossfm.datasets import load_movielens

    data = load_movielens("latest-small")
    ratings = data.ratings.filter(pc.greater_equal(data.ratings["rating"], POSITIVE))
    item, user, moment = (ratings[name].to_numpy() for name in ("item", "user", "timestamp"))
    films = data.items["item"].to_numpy()
    assert data.tags is not None
    users = np.unique(np.concatenate([user, data.tags["user"].to_numpy()]))
    order = np.lexsort((item, user, moment))
    likes = Likes(
        np.searchsorted(users, user)[order], place_of(item, films)[order], moment[order],
        len(users), len(films),
    )  # fmt: skip
    numbered = data.items.set_column(0, "item", pa.array(np.arange(len(films)))).drop(["title"])
    parts = np.char.split(data.items["genres"].to_pylist(), "|")
    genres = pa.array([[one for one in part if one] for part in parts], pa.list_(pa.string()))
    numbered = numbered.set_column(numbered.column_names.index("genres"), "genres", genres)
    tags = data.tags.set_column(0, "user", pa.array(np.searchsorted(users, data.tags["user"])))
    tags = tags.set_column(1, "item", pa.array(place_of(data.tags["item"].to_numpy(), films)))
    return likes, Films(numbered, tags)


def place_of(values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Where each value stands among keys in any order."""
    order = np.argsort(keys, kind="stable")
    return order[np.searchsorted(keys, values, sorter=order)]


# --- judging -----------------------------------------------------------------------------------


def judge(scores: np.ndarray, train: Likes, test: Likes) -> dict[str, float]:
    """NDCG@10 and recall@10 of lists over all films less those of the training part."""
    from crossfm.metrics.full_ranking import FullRanking

    scores = np.array(scores, np.float32)
    scores[train.user, train.item] = -np.inf
    users, row = np.unique(test.user, return_inverse=True)
    lists = FullRanking(K)
    lists.add(scores[users], row, test.item)
    return lists.metrics()


# --- methods -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A way to score films for users.

    Attributes:
        label: for people.
        uses: what it is told.
        setting: the best on the validation parts that a search has found.
        draw: another one, for a search.
        lengths: of training, in iterations or epochs, that a search looks at.
        features: of films, for `FMRanker`.
        peer: the method of implicit; None: `FMRanker`.
    """

    label: str
    uses: str
    setting: Setting
    draw: Callable[[np.random.Generator], Setting]
    lengths: tuple[int, ...]
    features: bool = False
    peer: str | None = None

    @property
    def length(self) -> str:
        """The parameter that says how long it trains."""
        return "iterations" if self.peer else "n_epochs"


def among(rng: np.random.Generator, *values: Any) -> Any:
    """One of some values."""
    return values[int(rng.integers(len(values)))]


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number whose logarithm is uniform, to three digits."""
    return float(f"{np.exp(rng.uniform(np.log(low), np.log(high))):.3g}")


def draw_als(rng: np.random.Generator) -> Setting:
    return {
        "factors": among(rng, 32, 64, 128), "regularization": between(rng, 3, 50),
        "alpha": among(rng, 1, 2, 3, 5),
    }  # fmt: skip


def draw_recent_als(rng: np.random.Generator) -> Setting:
    return {
        "factors": among(rng, 32, 48, 64, 96, 128), "regularization": between(rng, 3, 60),
        "alpha": among(rng, 2, 3, 4, 5, 8), "recency": among(rng, 1, 2, 3, 4, 5),
    }  # fmt: skip


def draw_bpr(rng: np.random.Generator) -> Setting:
    return {
        "factors": among(rng, 8, 16, 32, 64), "learning_rate": between(rng, 1e-3, 0.01),
        "regularization": between(rng, 1e-3, 0.1),
    }  # fmt: skip


def draw_ranker(rng: np.random.Generator) -> Setting:
    return {
        "n_factors": among(rng, 32, 64, 128), "n_negatives": among(rng, 64, 128, 256),
        "learning_rate": between(rng, 0.05, 0.15), "l2_factors": between(rng, 0.005, 0.03),
        "l2_linear": between(rng, 1e-4, 5e-3), "init_scale": among(rng, 0.01, 0.03, 0.1),
        "negatives": among(rng, "uniform", "popularity"),
        "popularity_power": among(rng, 0.0, 0.25, 0.5),
        "interactions": among(rng, "all", "across_fields"),
    }  # fmt: skip


def draw_context(rng: np.random.Generator) -> Setting:
    return {**draw_ranker(rng), "recent": among(rng, 3, 4, 5, 6, 8)}


EPOCHS = tuple(range(1, 21))
METHODS = {
    "als": Method(
        "implicit, ALS", "ids",
        {"factors": 64, "regularization": 14.3, "alpha": 2, "iterations": 30},
        draw_als, (5, 10, 15, 30), peer="als",
    ),
    "recent_als": Method(
        "implicit, ALS", "ids, age",
        {"factors": 96, "regularization": 34.9, "alpha": 5, "recency": 3, "iterations": 10},
        draw_recent_als, (10, 20, 30), peer="als",
    ),
    "bpr": Method(
        "implicit, BPR", "ids",
        {"factors": 8, "learning_rate": 0.00258, "regularization": 0.00203, "iterations": 200},
        draw_bpr, (100, 200, 400, 800), peer="bpr",
    ),
    "context": Method(
        "FMRanker", "ids, films, last likes",
        {"n_factors": 64, "n_negatives": 128, "learning_rate": 0.1, "l2_factors": 0.02,
         "init_scale": 0.03, "negatives": "popularity", "popularity_power": 0.25,
         "interactions": "across_fields", "n_epochs": 12, "recent": 6},
        draw_context, EPOCHS, features=True,
    ),
    "features": Method(
        "FMRanker", "ids, films",
        {"n_factors": 32, "n_negatives": 128, "learning_rate": 0.15, "l2_factors": 0.02,
         "init_scale": 0.03, "negatives": "popularity", "popularity_power": 0.5,
         "interactions": "across_fields", "n_epochs": 10},
        draw_ranker, EPOCHS, features=True,
    ),
    "ids": Method(
        "FMRanker", "ids",
        {"n_factors": 32, "n_negatives": 256, "learning_rate": 0.15, "l2_factors": 0.02,
         "init_scale": 0.03, "negatives": "uniform", "n_epochs": 9},
        draw_ranker, EPOCHS,
    ),
}  # fmt: skip
OURS = "context"
PEERS = ("als", "recent_als", "bpr")


def ranker_for(
    films: Films, train: Likes, setting: Setting, seed: int, *, features: bool,
    watch: Likes | None = None,
) -> Any:  # fmt: skip
    """A fitted `FMRanker`; with `watch`, judged on it after each epoch."""
    from crossfm import Bag, Categorical, FMRanker, Schema

    setting = dict(setting)
    recent = setting.pop("recent", 0)
    fields: list[Any] = [Categorical("item")]
    if features:
        fields += [
            Categorical("year"),
            *(Bag(name, pooling="sqrtn") for name in ("genres", "tags")),
        ]
    items = films.features(train).select([field.name for field in fields])
    fields.append(Categorical("user"))
    log: dict[str, Any] = {"user": train.user, "item": train.item}
    told = None if watch is None else {"user": watch.user, "item": watch.item}
    if recent:
        fields.append(Bag("lately", pooling="sqrtn"))
        log["lately"] = train.recent(recent)
        if told:
            told["lately"] = train.recent(recent, told)
    ranker = FMRanker(loss="softmax", schema=Schema(fields), random_state=seed, eval_k=K, **setting)
    return ranker.fit(
        log, items=items, users={"user": np.arange(train.n_users)},
        context=["lately"] if recent else [], eval_set=told,
    )  # fmt: skip


def full_scores(ranker: Any, train: Likes, items: pa.Table, recent: int = 0) -> np.ndarray:
    """Scores of a `FMRanker`, as dot products of vectors."""
    from crossfm.retrieval import Vectors

    users: dict[str, Any] = {"user": np.arange(train.n_users)}
    if recent:
        users["lately"] = train.recent(recent, users)
    sides = Vectors(
        ranker.model_, query_fields=ranker.user_fields_ + ranker.context_fields_,
        item_fields=ranker.item_fields_,
    )  # fmt: skip
    q, constant = sides.query_vectors(users)
    return np.asarray(constant[:, None] + q @ sides.item_vectors(items).T, np.float32)


def scores_of(
    method: Method, films: Films, train: Likes, setting: Setting, seed: int, worker: Worker
) -> np.ndarray:
    """Of all films for all users."""
    if method.peer is None:
        ranker = ranker_for(films, train, setting, seed, features=method.features)
        return full_scores(ranker, train, films.features(train), setting.get("recent", 0))
    options = {**setting, "random_state": seed}
    confidence = np.exp(-options.pop("recency", 0.0) * train.age())
    with tempfile.TemporaryDirectory(prefix="crossfm-bench-") as folder:
        pairs_path, scores_path = Path(folder) / "pairs.npz", Path(folder) / "scores.npy"
        np.savez(
            pairs_path, user=train.user, item=train.item,
            confidence=confidence / confidence.mean(),
            shape=(train.n_users, train.n_items),
        )  # fmt: skip
        worker.ask(
            "ask", pairs=str(pairs_path), scores=str(scores_path), method=method.peer,
            options=options,
        )  # fmt: skip
        scores = np.load(scores_path)
    scores[:, np.bincount(train.item, minlength=train.n_items) == 0] = -np.finfo(np.float32).max
    return scores


def history(
    method: Method, films: Films, train: Likes, watch: Likes, setting: Setting, seed: int,
    worker: Worker,
) -> list[float]:  # fmt: skip
    """NDCG@10 on `watch` of one setting at each length."""
    if method.peer is None:
        most = method.lengths[-1]
        longest = {**setting, "n_epochs": most, "patience": most}
        ranker = ranker_for(films, train, longest, seed, features=method.features, watch=watch)
        return [ranker.history_[length - 1][f"ndcg@{K}"] for length in method.lengths]
    return [
        judge(
            scores_of(method, films, train, {**setting, "iterations": n}, seed, worker),
            train, watch,
        )[f"ndcg@{K}"]
        for n in method.lengths
    ]  # fmt: skip


def tune(method: Method, films: Films, train: Likes, trials: int, worker: Worker) -> Setting:
    """The best on both validation parts of the recorded setting and of others drawn."""
    rng = np.random.default_rng(0)
    first = {key: value for key, value in method.setting.items() if key != method.length}
    best, chosen = -1.0, method.setting
    for setting in (first, *(method.draw(rng) for _ in range(trials - 1))):
        ndcg = np.mean(
            [
                history(method, films, before, after, setting, seed, worker)
                for before, after in cuts(train)
                for seed in TUNING_SEEDS
            ],
            axis=0,
        )
        if ndcg.max() > best:
            best = float(ndcg.max())
            chosen = {**setting, method.length: method.lengths[int(ndcg.argmax())]}
            print(method.label, method.uses, f"{best:.4f}", chosen, flush=True)
    return chosen


def cuts(train: Likes) -> list[tuple[Likes, Likes]]:
    """What is fitted and what it is judged by, twice."""
    first = train.split(HELD_OUT)
    return [first, first[0].split(HELD_OUT)]


def run(trials: int = 0) -> Report:
    """The figures; with trials, settings are searched for instead of those recorded."""
    likes, films = movielens()
    train, test = likes.split(HELD_OUT)
    found: dict[str, Any] = {}
    with Worker("implicit") as worker:
        for name, method in METHODS.items():
            setting = method.setting
            if trials:
                setting = tune(method, films, train, trials, worker)
            started = time.perf_counter()
            tuned = [
                judge(scores_of(method, films, before, setting, seed, worker), before, after)
                for before, after in cuts(train)
                for seed in TUNING_SEEDS
            ]
            runs = [
                judge(scores_of(method, films, train, setting, seed, worker), train, test)
                for seed in SEEDS
            ]
            means = {key: float(np.mean([one[key] for one in runs])) for key in runs[0]}
            spread = {key: float(np.std([one[key] for one in runs], ddof=1)) for key in runs[0]}
            found[name] = {
                "label": method.label, "uses": method.uses, "setting": setting, "test": means,
                "deviation": spread, "runs": runs,
                "validation": float(np.mean([one[f"ndcg@{K}"] for one in tuned])),
                "seconds": time.perf_counter() - started,
            }  # fmt: skip
    popular = np.bincount(train.item, minlength=train.n_items).astype(np.float32)
    found["popular"] = {
        "label": "what most users liked", "uses": "counts",
        "test": judge(np.tile(popular, (train.n_users, 1)), train, test),
    }  # fmt: skip
    show(found, len(np.unique(test.user)), len(test))
    report = Report("quality ranking", details={"machine": machine(), "methods": found})
    for key in (f"ndcg@{K}", f"recall@{K}"):
        for peer in PEERS:
            name = f"ranking_{key.replace('@', '_')}_over_{peer}"
            bar = found[peer]["test"][key]
            report.add(Figure(name, found[OURS]["test"][key], bar, ">="))
    return report


def show(found: dict[str, Any], n_users: int, n_pairs: int) -> None:
    """The table; of validation, NDCG."""
    keys = (f"ndcg@{K}", f"recall@{K}", "mrr")
    lines = []
    for one in found.values():
        cells = [f"{one['test'][key]:.4f}" for key in keys]
        if "deviation" in one:
            cells = [
                f"{cell} ± {one['deviation'][key]:.4f}"
                for cell, key in zip(cells, keys, strict=True)
            ]
        cells.insert(0, f"{one['validation']:.4f}" if "validation" in one else "")
        lines.append([one["label"], one["uses"], *cells])
    show_table(
        f"MovieLens latest-small, last fifth of each user: {n_pairs} positives, {n_users} users",
        ("method", "told of", "validation", *keys), lines,
    )  # fmt: skip
