"""``python -m benchmarks.quality movielens-100k | frappe | ranking``: an FM on real data.

One fixed setting for each, chosen on rows held out of the training parts, never on a test part.

- movielens-100k: the official folds 1 to 5, mean test RMSE. Side information: age, gender,
  occupation, year and genres (hour, weekday and zip prefix were seen to add nothing). All
  training rows are used, for a fixed number of epochs.
- frappe: mean over three seeds, early stopping on the validation part. The training part is the
  rebuilt one (its negatives are redrawn by the original rule), so the figures carry that name.
  ``--models fm,ffm,fwfm`` adds the field-aware and the field-weighted machine.
  With ``--networks`` the networks of `crossfm.nn` instead of the plain FM; see
  `benchmarks.networks`.
- ranking: lists of MovieLens latest-small beside implicit's ALS and BPR; see `benchmarks.ranking`.
  ``--tune N`` searches N settings of each method instead of taking the recorded ones.

``--solver mcmc``, for the first two: Gibbs sampling instead; see `benchmarks.bayes`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bayes, peers, ranking
from benchmarks.figures import Figure, Report, Spread, show_table
from benchmarks.harness import ROOT, Worker, WorkerError, machine
from benchmarks.networks import UnknownNetworks, frappe_networks
from benchmarks.workers import Part

MOVIELENS_RMSE, FRAPPE_AUC, FRAPPE_LOG_LOSS = 0.925, 0.977, 0.19
SEEDS = (0, 1, 2)

MOVIELENS = {
    "n_factors": 16, "solver": "adagrad", "learning_rate": 0.05, "l2_factors": 0.1,
    "l2_linear": 0.0, "init_scale": 0.03, "n_epochs": 20, "early_stopping": False,
}  # fmt: skip
FRAPPE = {
    "n_factors": 16, "solver": "adagrad", "learning_rate": 0.3, "l2_factors": 0.015,
    "l2_linear": 0.0, "init_scale": 0.1, "n_epochs": 40, "patience": 3,
}  # fmt: skip
FRAPPE_FFM = {
    "n_factors": 16, "solver": "adagrad", "learning_rate": 0.2, "l2_factors": 0.005,
    "l2_linear": 0.0, "init_scale": 0.1, "n_epochs": 60, "patience": 3, "eval_metric": "auc",
}  # fmt: skip
FRAPPE_FWFM = {**FRAPPE, "l2_factors": 0.015}
FRAPPE_CLASSES = {"fm": "FMClassifier", "ffm": "FFMClassifier", "fwfm": "FwFMClassifier"}
FRAPPE_MODELS: dict[str, tuple[dict[str, Any], list[tuple[str, float, str]]]] = {
    "fm": (FRAPPE, [("auc", FRAPPE_AUC, ">="), ("log_loss", FRAPPE_LOG_LOSS, "<=")]),
    "ffm": (FRAPPE_FFM, [("auc", 0.979, ">=")]),
    "fwfm": (FRAPPE_FWFM, [("auc", 0.978, ">=")]),
}
# For reference: label and setting. myFM averages 100 of its 200 Gibbs sweeps.
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "myfm": ("myFM (MCMC)", {"n_factors": 16, "n_epochs": 200, "n_kept": 100, "loss": "squared"}),
    "xlearn": ("xLearn", {"n_factors": 16, "n_epochs": 10, "learning_rate": 0.05, "l2": 0.02,
                          "loss": "squared"}),
}  # fmt: skip


def movielens_schema() -> Any:
    """The fields of the MovieLens benchmark."""
    from crossfm.data import Bag, Categorical, Schema

    names = ("user", "item", "age", "gender", "occupation", "year")
    return Schema([*map(Categorical, names), Bag("genres", sep="|", pooling="sum")])


def movielens_100k(peers_named: Sequence[str] = ()) -> Report:
    """RMSE of each official fold, beside user and item alone, the global mean, and peers."""
    from crossfm import FMRegressor
    from crossfm.datasets import load_movielens

    data = load_movielens("100k")
    folds, seconds = [], []
    for number in range(1, 6):
        train, test = data.fold(number)
        truth = test["rating"].to_numpy()
        theirs = {name: peer_rmse(name, train, test) for name in peers_named}
        constant = rmse(truth, np.full(len(truth), train["rating"].to_numpy().mean()))
        started = time.perf_counter()
        model = FMRegressor(schema=movielens_schema(), random_state=0, **MOVIELENS)
        model.fit(train, train["rating"].to_numpy())
        seconds.append(time.perf_counter() - started)
        folds.append(
            {
                "fold": number,
                "rmse": rmse(truth, np.clip(model.predict(test), 1.0, 5.0)),
                "unclipped": rmse(truth, model.predict(test)),
                "user_item": user_item(train, test),
                "global_mean": constant,
                **theirs,
            }
        )
    mean = float(np.mean([fold["rmse"] for fold in folds]))
    columns = {
        "rmse": "FM, side information", "user_item": "FM, user and item",
        "global_mean": "global mean", **{name: PEERS[name][0] for name in peers_named},
    }  # fmt: skip
    lines = [[str(fold["fold"]), *(f"{fold[key]:.4f}" for key in columns)] for fold in folds]
    means = [f"{np.mean([fold[key] for fold in folds]):.4f}" for key in columns]
    title = "MovieLens 100K, official folds, test RMSE"
    show_table(title, ("fold", *columns.values()), [*lines, ["mean", *means]])
    print(f"{Spread.of(seconds).median:.1f} s a fold")
    details = {"machine": machine(), "setting": MOVIELENS, "folds": folds, "seconds": seconds}
    figure = Figure("movielens_100k_rmse", mean, MOVIELENS_RMSE, "<=")
    return Report("quality movielens-100k", [figure], details)


def user_item(train: Any, test: Any) -> float:
    """RMSE without side information, in the same setting."""
    from crossfm import FMRegressor
    from crossfm.data import Categorical, Schema

    schema = Schema([Categorical("user"), Categorical("item")])
    model = FMRegressor(schema=schema, random_state=0, **MOVIELENS)
    model.fit(train, train["rating"].to_numpy())
    return rmse(test["rating"].to_numpy(), np.clip(model.predict(test), 1.0, 5.0))


def peer_rmse(name: str, train: Any, test: Any) -> float:
    """RMSE of a peer on the same features."""
    schema = movielens_schema().fit(train)
    with tempfile.TemporaryDirectory(prefix="crossfm-bench-") as folder:
        places = {"scratch": folder}
        for part, table in (("train", train), ("test", test)):
            rows = schema.transform(table, targets=table["rating"].to_numpy())
            places[part] = str(Path(folder) / part)
            Part(rows.ids, rows.offsets, rows.values, rows.targets, schema.n_features_).save(
                Path(places[part])
            )
        scores = Path(folder) / "scores.npy"
        with Worker(name) as worker:
            worker.ask("load", **places)
            worker.ask("train", options=PEERS[name][1], scores=str(scores))
        predicted = np.clip(np.load(scores), 1.0, 5.0)
    return rmse(test["rating"].to_numpy(), predicted)


def frappe(models: Sequence[str] = ("fm",)) -> Report:
    """AUC and log loss on the test part, mean of three seeds, of each model."""
    from crossfm import estimators
    from crossfm.datasets import load_frappe
    from crossfm.metrics import auc, log_loss

    data = load_frappe()
    name = "Frappe, rebuilt train" if data.rebuilt else "Frappe"
    figures, details = [], {"machine": machine(), "data": name}
    for model_name in models:
        setting, goals = FRAPPE_MODELS[model_name]
        runs = []
        for seed in SEEDS:
            started = time.perf_counter()
            model = getattr(estimators, FRAPPE_CLASSES[model_name])(random_state=seed, **setting)
            rows = [data.train, data.validation, data.test]
            if model_name != "fm":
                rows = [part.replace(fields=frappe_fields(part)) for part in rows]
            model.fit(rows[0], eval_set=rows[1])
            seconds = time.perf_counter() - started
            p = model.predict_proba(rows[2])[:, 1]
            runs.append(
                {
                    "seed": seed,
                    "auc": float(auc(data.test.targets, p)),
                    "log_loss": float(log_loss(data.test.targets, p)),
                    "best_epoch": int(model.best_epoch_),
                    "seconds": seconds,
                }
            )
        show_table(
            f"{name}: {model_name}, {setting['n_factors']} factors, test part",
            ("seed", "AUC", "log loss", "best epoch", "seconds"),
            [(str(r["seed"]), f"{r['auc']:.4f}", f"{r['log_loss']:.4f}", str(r["best_epoch"]),
              f"{r['seconds']:.1f}") for r in runs],
        )  # fmt: skip
        details[model_name] = {"setting": setting, "runs": runs}
        prefix = "frappe_" if model_name == "fm" else f"frappe_{model_name}_"
        for key, goal, sign in goals:
            mean = float(np.mean([run[key] for run in runs]))
            figures.append(Figure(prefix + key, mean, goal, sign))
    return Report("quality frappe", figures, details)


def frappe_fields(rows: Any) -> np.ndarray:
    """The field of each feature: its place, as every row has one of each of ten fields."""
    return np.tile(np.arange(rows.nnz // len(rows), dtype=np.int32), len(rows))


def rmse(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Root mean squared error in float64."""
    gap = np.asarray(truth, np.float64) - np.asarray(predicted, np.float64)
    return float(np.sqrt(np.mean(gap * gap)))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("movielens-100k", "frappe", "ranking"))
    parser.add_argument("--solver", choices=("adagrad", "mcmc"), default="adagrad")
    parser.add_argument("--peers", default="", help="movielens-100k beside: myfm, xlearn")
    parser.add_argument("--networks", nargs="?", const="all", metavar="NAMES",
                        help="frappe: the networks of crossfm.nn, all or a,b")  # fmt: skip
    parser.add_argument("--models", default="fm", help="frappe: of fm, ffm, fwfm, with commas")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="networks: of the runs")
    parser.add_argument("--epochs", type=int, help="networks: at most so many, for a first look")
    parser.add_argument(
        "--tune",
        type=int,
        default=0,
        metavar="N",
        help="ranking: search N settings of each method (an hour at 40)",
    )
    parser.add_argument("--check", action="store_true", help="end with JSON; exit 1 on a miss")
    arguments = parser.parse_args(argv)
    if arguments.networks and arguments.what != "frappe":
        parser.error("--networks goes with frappe")
    if arguments.tune < 0 or (arguments.tune and arguments.what != "ranking"):
        parser.error("--tune takes a number of settings, and goes with ranking")
    if arguments.what == "ranking" and (arguments.solver == "mcmc" or arguments.peers):
        parser.error("ranking goes without --solver mcmc and --peers")
    if arguments.solver == "mcmc" and (
        arguments.peers or arguments.networks or arguments.models != "fm"
    ):
        parser.error("--solver mcmc goes without --peers, --networks and --models")

    models = [name for name in arguments.models.split(",") if name]
    if unknown := [name for name in models if name not in FRAPPE_MODELS]:
        parser.error(f"--models knows {', '.join(FRAPPE_MODELS)}, not {unknown[0]!r}")

    # Real data beside the checkout, the Makefile's rule.
    beside = ROOT.parent / "shared" / "data"
    if beside.is_dir():
        os.environ.setdefault("CROSSFM_DATA", str(beside))

    from crossfm.errors import DatasetError, MissingExtraError

    named = [name for name in arguments.peers.split(",") if name]
    try:
        peers.ensure(*named, *(["implicit"] if arguments.what == "ranking" else []))
        if arguments.what == "ranking":
            report = ranking.run(arguments.tune)
        elif arguments.solver == "mcmc":
            sampled = {"movielens-100k": bayes.movielens_100k, "frappe": bayes.frappe}
            report = sampled[arguments.what]()
        elif arguments.what == "movielens-100k":
            report = movielens_100k(named)
        elif arguments.networks:
            seeds = [int(seed) for seed in arguments.seeds.split(",")]
            report = frappe_networks(arguments.networks, seeds=seeds, n_epochs=arguments.epochs)
        else:
            report = frappe(models)
    except (
        DatasetError,
        MissingExtraError,
        UnknownNetworks,
        peers.PeerError,
        WorkerError,
    ) as error:
        print(f"no figures: {error}", file=sys.stderr)
        return 1
    return report.finish(check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
