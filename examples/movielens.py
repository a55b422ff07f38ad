"""The main job on real data: from a table of ratings to a trained, saved, explained model.

Loads MovieLens 100K, infers a schema, fits, compares with two baselines on held-out ratings, saves,
loads, and explains one prediction. Without the data and without a network it does the same on a
generated click log.

    python examples/movielens.py [--epochs 50] [--seed 0] [--generated]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

import crossfm as cf
from crossfm.errors import DatasetError
from crossfm.metrics import auc, log_loss, rmse

COLUMNS = [
    "user", "item", "age", "gender", "occupation", "zip_prefix", "genres", "hour", "weekday",
    "rating",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=50, help="at most (early stopping)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--generated", action="store_true", help="on the generated log at once")
    options = parser.parse_args()
    data = None
    if not options.generated:
        try:
            data = cf.datasets.load_movielens("100k")
        except DatasetError as error:
            print(f"MovieLens 100K is not to be had here:\n  {error}\n", file=sys.stderr)
    if data is None:
        heading("A generated click log (nothing in it is real)")
        on_generated_clicks(options.epochs, options.seed)
    else:
        on_ratings(data.split(test=0.1, seed=options.seed), options.epochs, options.seed)


def on_ratings(parts, epochs: int, seed: int) -> None:
    train, test = (part.select(COLUMNS) for part in parts)
    heading(f"MovieLens 100K: {train.num_rows:,} ratings to learn from, {test.num_rows:,} held out")
    model = cf.FMRegressor(n_factors=16, n_epochs=epochs, random_state=seed, verbose=2)
    model.fit(train, "rating")
    print(f"kept: epoch {model.best_epoch_}")

    heading("On the held-out ratings")
    truth = test["rating"].to_numpy()
    learned = train["rating"].to_numpy()
    biases = cf.FMRegressor(n_factors=0, n_epochs=epochs, random_state=seed)
    biases.fit(train.select(["user", "item", "rating"]), "rating")
    predicted = model.predict(test)
    table(
        ("", "RMSE"),
        ("the mean rating", rmse(truth, np.full(len(truth), learned.mean()))),
        ("user and item biases", rmse(truth, biases.predict(test))),
        ("factorization machine", rmse(truth, predicted)),
    )
    saved_and_loaded(model, test, predicted)
    explained(model, test, truth, predicted)


def on_generated_clicks(epochs: int, seed: int) -> None:
    log = cf.datasets.ClickLog(max_values=20_000)
    train, test = log.rows(200_000), log.rows(20_000, start=200_000)
    model = cf.FMClassifier(n_factors=16, n_epochs=epochs, random_state=seed, verbose=2)
    model.fit(train)
    print(f"kept: epoch {model.best_epoch_}")

    heading("On the rows that follow")
    linear = cf.FMClassifier(n_factors=0, n_epochs=epochs, random_state=seed).fit(train)
    truth = test.targets
    rate = np.full(len(truth), train.targets.mean())
    predicted = model.predict_proba(test)[:, 1]
    alone = linear.predict_proba(test)[:, 1]
    table(
        ("", "log loss", "AUC"),
        ("the mean click rate", log_loss(truth, rate), 0.5),
        ("linear model", log_loss(truth, alone), auc(truth, alone)),
        ("factorization machine", log_loss(truth, predicted), auc(truth, predicted)),
    )
    saved_and_loaded(model, test, model.decision_function(test))


def saved_and_loaded(model, test, scores) -> None:
    heading("Saved and loaded")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.crossfm"
        model.save(path)
        again = cf.load(path)
        judge = getattr(again, "decision_function", again.predict)
        same = np.array_equal(judge(test), scores)
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
    if not same:
        sys.exit("the loaded model predicts otherwise")
    print(f"the loaded model predicts the same for all {len(scores):,} rows, to the last bit")


def explained(model, test, truth, predicted) -> None:
    heading("One prediction, taken apart")
    row = test.slice(0, 1)
    user, film = row["user"][0], row["item"][0]
    print(f"user {user}, film {film}: predicted {predicted[0]:.2f}, rated {truth[0]:g}\n")
    print(model.explain(row).table(limit=8))


def heading(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}")


def table(*rows: tuple) -> None:
    width = max(len(row[0]) for row in rows)
    for name, *numbers in rows:
        shown = [n.rjust(9) if isinstance(n, str) else f"{n:9.4f}" for n in numbers]
        print(f"{name:{width}}", *shown)


if __name__ == "__main__":
    main()
