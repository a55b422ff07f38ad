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
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

import crossfm as cf
from crossfm.errors import DatasetError
from crossfm.metrics import auc, log_loss, rmse

COLUMNS = [
    "user", "item", "age", "gender", "occupation", "zip_prefix", "genres", "hour", "weekday",
    "rating",
]  # fmt: skip
KINDS = {"categorical": "cyan", "numeric": "green", "bag": "magenta", "left out": "yellow"}

console = Console(highlight=False, soft_wrap=True)
BLOCK, RULE = ("▇", "─") if console.encoding.lower().startswith("utf") else ("#", "-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=50, help="at most (early stopping)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--generated", action="store_true", help="the generated log right away")
    options = parser.parse_args()
    data = None
    if not options.generated:
        try:
            data = cf.datasets.load_movielens("100k")
        except DatasetError as error:
            print(f"MovieLens 100K is not to be had here:\n  {error}", file=sys.stderr)
    if data is None:
        on_generated_clicks(options.epochs, options.seed)
    else:
        on_ratings(data.split(test=0.1, seed=options.seed), options.epochs, options.seed)


def on_ratings(parts, epochs: int, seed: int) -> None:
    train, test = (part.select(COLUMNS) for part in parts)
    heading(f"MovieLens 100K: {train.num_rows:,} ratings to learn from, {test.num_rows:,} held out")
    schema = cf.Schema.infer(train, exclude="rating").fit(train)
    show(schema)

    heading("Training, with a tenth of the ratings held out to know when to stop")
    model = cf.FMRegressor(n_factors=16, n_epochs=epochs, schema=schema, random_state=seed)
    fit(model, train, "rating")

    heading("On the held-out ratings")
    truth, learned = test["rating"].to_numpy(), train["rating"].to_numpy()
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
    heading("A generated click log (nothing in it is real): 200,000 rows, 39 fields")
    log = cf.datasets.ClickLog(max_values=20_000)
    train, test = log.rows(200_000), log.rows(20_000, start=200_000)
    model = cf.FMClassifier(n_factors=16, n_epochs=epochs, random_state=seed)
    fit(model, train)

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
        size = path.stat().st_size / 1e6
    if not same:
        sys.exit("the loaded model predicts otherwise")
    console.print(
        f"model.crossfm, {size:.2f} MB: predicts the same for all {len(scores):,} rows,"
        " [green]to the last bit[/]"
    )


def explained(model, test, truth, predicted) -> None:
    heading("One prediction, taken apart")
    row = test.slice(0, 1)
    user, film = row["user"][0], row["item"][0]
    console.print(
        f"user {user}, film {film}: predicted [bold]{predicted[0]:.2f}[/], rated {truth[0]:g}\n"
    )
    found = model.explain(row)
    for line in found.table(limit=9).splitlines():
        value = line.split()[-1]
        if value[0] not in "+-" or set(value) == {"-"} or line.startswith("score"):
            console.print(Text(line, "bold" if line.startswith("score") else "dim"))
            continue
        colour = "green" if value[0] == "+" else "red"
        bar = "" if line.startswith("bias") else BLOCK * max(1, round(abs(float(value)) * 40))
        console.print(Text(line), Text(bar, colour))


# --- how it looks -------------------------------------------------------------------------------


def fit(model, *data) -> None:
    """Fit with a line an epoch, the best so far in green; rows a second and time left move."""
    best, started = np.inf, time.perf_counter()
    with console.status("") as status:

        def progress(event: str, told) -> None:
            nonlocal best
            passes = told["epoch"] - 1 + told.get("rows", 1) / told.get("n_rows", 1)
            left = (time.perf_counter() - started) * (told["of"] / passes - 1)
            status.update(
                f"epoch {told['epoch']} of at most {told['of']},"
                f" {told['rows_per_second'] / 1e6:.1f} M rows/s, {left:.0f} s left"
            )
            if event == "epoch":
                (name,) = told.keys() - {"epoch", "of", "loss", "rows_per_second"}
                line = f"epoch {told['epoch']:2}  training loss {told['loss']:.4f}  "
                text = Text(line).append(f"{name.replace('_', ' ')} {told[name]:.4f}",
                                         "bold green" if told[name] < best else "")  # fmt: skip
                console.print(text.append(f"  {told['rows_per_second'] / 1e6:.1f} M rows/s", "dim"))
                best = min(best, told[name])

        model.fit(*data, progress=progress)
    seconds = time.perf_counter() - started
    console.print(f"kept: epoch {model.best_epoch_}, after {seconds:.1f} s in all")


def show(schema: cf.Schema) -> None:
    """The schema, kinds in colour."""
    for number, line in enumerate(schema.describe().splitlines()):
        text = Text(line, "bold" if number == 0 else "")
        for kind, colour in KINDS.items():
            text.highlight_regex(rf"(?<=  ){kind}(?=  )", colour)
        console.print(text)


def heading(text: str) -> None:
    console.print(f"\n[bold]{text}[/]\n[dim]{RULE * len(text)}[/]")


def table(names: tuple[str, ...], *rows: tuple) -> None:
    """Numbers below their names; the last row is ours."""
    width = max(len(row[0]) for row in rows)
    console.print(Text(" " * width + "".join(name.rjust(10) for name in names[1:]), "bold"))
    longest = max(row[1] for row in rows)
    for row in rows:
        ours = row is rows[-1]
        text = Text(f"{row[0]:{width}}" + "".join(f"{x:10.4f}" for x in row[1:]))
        text.stylize("bold green" if ours else "")
        bar = Text("  " + BLOCK * round(30 * row[1] / longest), "green" if ours else "dim")
        console.print(text, bar)


if __name__ == "__main__":
    main()
