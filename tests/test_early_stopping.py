"""Validation during a fit: when it stops, what is kept, what is told."""

from __future__ import annotations

import io
from contextlib import redirect_stdout

import numpy as np
import pytest
from made_up import noisy, numbers, ratings

from crossfm import FMClassifier, FMRegressor
from crossfm.errors import DataError
from crossfm.metrics import METRICS, log_loss, rmse


def test_the_best_epoch_is_restored():
    frame, y = noisy(400)
    valid, truth = noisy(400, seed=1)
    fm = FMClassifier(l2_factors=0.0, patience=4, random_state=0)
    fm.fit(frame, y, eval_set=(valid, truth))
    losses = [epoch["log_loss"] for epoch in fm.history_]
    assert fm.best_epoch_ == 1 + int(np.argmin(losses))
    assert fm.n_iter_ == len(losses) == fm.best_epoch_ + 4
    assert log_loss(truth, fm.predict_proba(valid)[:, 1]) == pytest.approx(min(losses), rel=1e-5)
    short = FMClassifier(
        l2_factors=0.0, n_epochs=fm.best_epoch_, early_stopping=False, random_state=0
    ).fit(frame, y)
    np.testing.assert_array_equal(short.coef_, fm.coef_)


@pytest.mark.parametrize(
    ("options", "n", "with_eval", "stops"),
    [
        ({}, 300, False, False),
        ({}, 300, True, True),
        ({"early_stopping": False}, 300, True, False),
        ({"early_stopping": True}, 300, False, True),
        ({}, 1500, False, True),  # a feature for every two rows
        ({"early_stopping": False}, 1500, False, False),
    ],
)
def test_when_a_fit_stops_early(options, n, with_eval, stops):
    frame, y = noisy(n)
    eval_set = noisy(200, seed=1) if with_eval else None
    fm = FMClassifier(n_epochs=30, l2_factors=0.0, patience=2, random_state=0, **options)
    fm.fit(frame, y, eval_set=eval_set)
    assert (fm.n_iter_ < 30) == stops
    assert ("log_loss" in fm.history_[0]) == (stops or with_eval)
    assert fm.best_epoch_ == (fm.n_iter_ - 2 if stops else 30)


def test_many_rows_of_few_columns_are_held_out_from_ten_thousand_on():
    rng = np.random.default_rng(0)
    for n, held in ((10_000, False), (10_001, True)):
        X = rng.standard_normal((n, 2))
        fm = FMRegressor(n_epochs=1, random_state=0).fit(X, X[:, 0])
        assert ("rmse" in fm.history_[0]) == held


def test_the_held_out_part_keeps_the_classes_in_proportion():
    from crossfm.estimators._watching import held_out

    y = np.repeat([0, 1, 2], [900, 90, 10])
    kept, held = held_out(1000, 0.1, y, seed=3)
    assert np.bincount(y[held]).tolist() == [90, 9, 1]
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(1000))
    assert not np.array_equal(held, held_out(1000, 0.1, y, seed=4)[1])
    np.testing.assert_array_equal(held, held_out(1000, 0.1, y, seed=3)[1])


def test_held_out_rows_are_not_trained_on():
    frame, y = ratings(1000)
    from crossfm.estimators._watching import held_out

    fm = FMRegressor(early_stopping=True, n_epochs=1, random_state=0).fit(frame, y)
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    _, held = held_out(1000, 0.1, None, seed)
    changed = y.copy()
    changed[held] = y[held][::-1]  # the same numbers, so the same scale of targets
    again = FMRegressor(early_stopping=True, n_epochs=1, random_state=0)
    np.testing.assert_allclose(
        again.fit(frame, changed).models_[0].weights, fm.coef_, rtol=1e-6, atol=1e-7
    )
    assert again.history_[0]["rmse"] != fm.history_[0]["rmse"]


def test_weights_count_among_the_rows_held_out():
    from crossfm.estimators._watching import held_out

    frame, y = ratings(1000)
    weight = np.random.default_rng(0).choice([0.1, 10.0], 1000)
    fm = FMRegressor(early_stopping=True, n_epochs=1, random_state=0)
    fm.fit(frame, y, sample_weight=weight)
    _, held = held_out(1000, 0.1, None, int(np.random.RandomState(0).randint(2**31 - 1)))
    predicted = fm.predict(frame)[held]
    told = fm.history_[0]["rmse"]
    assert told == pytest.approx(rmse(y[held], predicted, sample_weight=weight[held]), rel=1e-4)
    assert told != pytest.approx(rmse(y[held], predicted), rel=1e-2)


def reversed_mae(y_true, y_pred):
    return -float(np.mean(np.abs(y_true - y_pred)))


@pytest.mark.parametrize(
    "metric", ["mae", METRICS["mae"], reversed_mae], ids=["name", "Metric", "function"]
)
def test_any_metric_decides(metric):
    frame, y = ratings(300)
    valid, truth = ratings(200, seed=5)
    fm = FMRegressor(eval_metric=[metric, "rmse"], n_epochs=20, patience=20, random_state=0)
    fm.fit(frame, y, eval_set=(valid, truth))
    name = metric if isinstance(metric, str) else getattr(metric, "name", "reversed_mae")
    told = [epoch[name] for epoch in fm.history_]
    best = np.argmax(told) if name == "reversed_mae" else np.argmin(told)
    assert fm.best_epoch_ == 1 + best
    sign = -1 if name == "reversed_mae" else 1
    found = float(np.mean(np.abs(truth - fm.predict(valid))))
    assert sign * told[best] == pytest.approx(found, rel=1e-4)
    assert "rmse" in fm.history_[0]


def test_metrics_of_labels_scores_and_probabilities():
    frame, y = ratings(300)
    label = np.array(["a", "b", "c"])[np.digitize(y, [2.0, 4.0])]

    def accuracy(y_true, y_pred):
        return float(np.mean(y_true == y_pred))

    fm = FMClassifier(eval_metric=["log_loss", accuracy], early_stopping=False, n_epochs=3)
    fm.fit(frame, label, eval_set=(frame, label))
    assert fm.history_[-1]["accuracy"] == fm.score(frame, label)
    two = FMClassifier(eval_metric="auc", n_epochs=3, random_state=0)
    two.fit(frame, label == "c", eval_set=(frame, label == "c", np.ones(300)))
    assert 0.5 < two.history_[-1]["auc"] <= 1.0
    with pytest.raises(DataError, match="Did you mean 'log_loss'"):
        FMClassifier(eval_metric="logloss").fit(frame, label)
    with pytest.raises(DataError, match="empty list"):
        FMClassifier(eval_metric=[]).fit(frame, label)


# --- what is told --------------------------------------------------------------------------------


def test_progress_is_told_on_the_targets_scale():
    frame, y = ratings()
    told = []
    FMRegressor(n_epochs=2, random_state=0).fit(
        frame, 1000 * y, progress=lambda event, what: told.append((event, dict(what)))
    )
    epochs = [what for event, what in told if event == "epoch"]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert epochs[0]["loss"] > 1e4
    assert any(event == "rows" for event, _ in told)


@pytest.mark.parametrize(("verbose", "lines"), [(0, 0), (1, 0), (2, 2)])
def test_lines_are_for_terminals(verbose, lines):
    X, y = numbers()
    out = io.StringIO()
    with redirect_stdout(out):
        FMRegressor(n_epochs=2, verbose=verbose, random_state=0).fit(X, y, eval_set=(X, y))
    found = out.getvalue().splitlines()
    assert len(found) == lines
    if lines:
        assert found[0].startswith("epoch 1/2  loss ")
        assert "rmse" in found[0]
        assert "rows/s" in found[0]
        assert found[1].endswith("done")


def test_an_inferred_schema_is_shown():
    frame, y = ratings()
    out = io.StringIO()
    with redirect_stdout(out):
        FMRegressor(n_epochs=1, verbose=2).fit(frame, y)
    assert "film" in out.getvalue()
    assert "categorical" in out.getvalue()
