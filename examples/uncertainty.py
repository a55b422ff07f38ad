"""How sure a machine is: Gibbs sampling on MovieLens 100K, its intervals held against the truth.

Fits user, film and what is known of both, as numbers and as ordered levels; prints errors and
coverage on the held-out part, and who the model is least sure of; writes the plots of
docs/uncertainty.md. Without the data and without a network it does the same on ratings made up from
the model itself.

    python examples/uncertainty.py [--out FOLDER] [--sweeps 300] [--generated]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import crossfm as cf
from crossfm.data import to_arrow
from crossfm.errors import DatasetError
from crossfm.explain import plots
from crossfm.metrics import rmse

COVERAGES = (0.5, 0.8, 0.9, 0.95)
LEVELS = np.linspace(0.05, 0.95, 19)
FOLD, CHAINS = 1, 4

console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="a folder for the plots; else none are written")
    parser.add_argument("--sweeps", type=int, default=300, help="of each of four chains")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--generated", action="store_true", help="made-up ratings right away")
    options = parser.parse_args()
    train, test, blocks = made_up() if options.generated else movielens()
    y = test["rating"]
    sampling = cf.Sampling(n_chains=CHAINS, keep=25)
    common = {"n_factors": 8, "n_epochs": options.sweeps, "sampling": sampling,
              "random_state": options.seed}  # fmt: skip

    heading(f"{len(train['rating']):,} ratings to learn from, {len(y):,} held out")
    normal = cf.FMRegressor(solver="mcmc", **common).fit(train, "rating", blocks=blocks)
    ordinal = cf.OrdinalFMRegressor(**common).fit(train, "rating", blocks=blocks)
    for name, model in (("normal", normal), ("ordinal", ordinal)):
        noise = "cutpoints" if name == "ordinal" else "noise"
        told = model.diagnostics_[noise]
        console.print(
            f"{name:8} {CHAINS} chains of {options.sweeps} sweeps: R-hat of the {noise} at most"
            f" {np.max(told['r_hat']):.2f}"
        )

    heading("On the held-out ratings")
    mean, deviation = normal.predict(test, return_std=True)
    expected, share = ordinal.predict(test), ordinal.predict_proba(test)
    table = Table("", "RMSE", *(f"inside {c:.0%}" for c in COVERAGES), box=None)
    table.add_row(
        "normal",
        f"{rmse(y, mean):.4f}",
        *(f"{covered(y, normal.predict_interval(test, c)):.1%}" for c in COVERAGES),
    )
    table.add_row("ordinal", f"{rmse(y, expected):.4f}",
                  *(f"{covered(y, ordinal.predict_quantiles(test, [(1 - c) / 2, (1 + c) / 2])):.1%}"
                    for c in COVERAGES))  # fmt: skip
    console.print(table)
    console.print(
        "Ratings are whole stars: an interval of whole stars holds at least what it promises."
    )

    heading("Who the model is least sure of")
    seen = dict(zip(*np.unique(train["user"], return_counts=True), strict=True))
    counts = np.array([seen.get(user, 0) for user in test["user"]])
    beyond = np.sqrt(deviation**2 - deviation.min() ** 2)  # what is not noise, nearly
    few = counts <= np.quantile(counts, 0.1)
    many = counts >= np.quantile(counts, 0.9)
    for name, rows in (("users with few ratings", few), ("users with many ratings", many)):
        console.print(
            f"{name:24} {np.median(counts[rows]):4.0f} ratings (median): deviation"
            f" {deviation[rows].mean():.3f}, beyond the noise {beyond[rows].mean():.3f}"
        )
    of_users = blocks[0]
    table = to_arrow(of_users.frame)
    user, new = max(seen, key=seen.__getitem__), -1
    at = table[of_users.key].to_pylist().index(user)
    twin = {name: [table[name][at].as_py()] for name in table.column_names}
    normal.update_blocks(cf.RelationBlock({**twin, of_users.key: [new]}, key=of_users.key))
    rows = {"user": [user, new], "item": [test["item"][0]] * 2}
    _, (known, unknown) = normal.predict(rows, return_std=True)
    console.print(
        f"user {user} on the first film: {known:.3f}; someone new of whom the same is known:"
        f" {unknown:.3f}"
    )

    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        figures = {
            "intervals": plots.interval_calibration(
                y, normal.predict_quantiles(test, LEVELS), LEVELS,
                title="Normal likelihood, held-out ratings",
            ),
            "liked": plots.probability_calibration(
                y >= 4, share[:, ordinal.levels_ >= 4].sum(axis=1),
                title="Ordered levels: four stars or more",
            ),
            "traces": plots.trace_plot(
                {"noise precision": normal.traces_["noise"],
                 "lowest cutpoint": ordinal.traces_["cutpoints"][..., 0]},
                burn_in=options.sweeps // 10,
            ),
        }  # fmt: skip
        for name, figure in figures.items():
            figure.savefig(options.out / f"{name}.png", dpi=90)
        console.print(f"\nplots: {', '.join(str(options.out / f'{name}.png') for name in figures)}")


def covered(y, interval) -> float:
    """The share of observations inside."""
    low, high = np.asarray(interval).T
    return float(((low <= y) & (y <= high)).mean())


def movielens():
    """Ratings of an official fold, and tables of users and films; made up where there are none."""
    try:
        data = cf.datasets.load_movielens("100k")
    except DatasetError as error:
        print(f"MovieLens 100K is not to be had here:\n  {error}", file=sys.stderr)
        return made_up()
    train, test = (
        {name: part[name].to_numpy() for name in ("user", "item", "rating")}
        for part in data.fold(FOLD)
    )
    users = data.users.select(["user", "age", "gender", "occupation"])
    films = data.items.select(["item", "year", "genres"])
    kinds = cf.Schema([cf.Numeric("age", scale="bucket", n_buckets=12), cf.Categorical("gender"),
                       cf.Categorical("occupation")])  # fmt: skip
    of_films = cf.Schema([cf.Categorical("year"), cf.Bag("genres", sep="|")])
    return train, test, [cf.RelationBlock(users, key="user", schema=kinds),
                         cf.RelationBlock(films, key="item", schema=of_films)]  # fmt: skip


def made_up(n: int = 12_000):
    """Ratings from 1 to 5 that a factorization machine has drawn."""
    rng = np.random.default_rng(0)
    user = np.minimum(rng.geometric(0.01, n), 400)
    item = np.minimum(rng.geometric(0.02, n), 200)
    taste, kind = rng.normal(size=(401, 3)), rng.normal(size=(201, 3))
    score = 3.4 + 0.5 * (taste[user] * kind[item]).sum(1) + 0.4 * taste[user, 0]
    rating = np.clip(np.round(score + 0.8 * rng.normal(size=n)), 1, 5)
    rows = {"user": user, "item": item, "rating": rating.astype(np.float32)}
    ages = {"user": np.arange(401), "age": 40 + 10 * taste[:, 0] + 5 * rng.normal(size=401)}
    schema = cf.Schema([cf.Numeric("age")])
    parts = [{name: value[part] for name, value in rows.items()}
             for part in (slice(0, n * 4 // 5), slice(n * 4 // 5, n))]  # fmt: skip
    return *parts, [cf.RelationBlock(ages, key="user", schema=schema)]


def heading(text: str) -> None:
    console.print(f"\n[bold]{text}[/]\n[dim]{'-' * len(text)}[/]")


if __name__ == "__main__":
    main()
