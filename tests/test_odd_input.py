"""What a newcomer may try: odd options, targets, validation data and rows, each refused by name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_up import ratings
from sklearn.metrics import f1_score, make_scorer

import crossfm as cf
from crossfm import Bag, FMClassifier, FMRegressor, Schema
from crossfm.errors import DataError

QUICK = {"n_factors": 4, "n_epochs": 4, "random_state": 0}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("n_factors", 10**9),
        ("learning_rate", 0.0),
        ("learning_rate", "quick"),
        ("l2_linear", -1.0),
        ("l2_factors", "much"),
        ("l2_factors", {"usr": 1.0}),
        ("l2_factors", {"user": "much"}),
        ("l2_factors", [1.0]),
        ("l1_linear", 1.0),
        ("solver", "newton"),
        ("interactions", "some"),
        ("init_scale", -1.0),
        ("n_jobs", 0),
        ("n_jobs", 1.5),
        ("n_jobs", -2),
        ("random_state", "x"),
        ("random_state", -1),
        ("verbose", "loud"),
        ("shuffle", "no"),
        ("deterministic", "no"),
        ("warm_start", "no"),
        ("validation_fraction", "tenth"),
        ("validation_fraction", None),
    ],
)
def test_each_option_is_refused_by_its_name(option, value):
    frame, y = ratings(60)
    fm = FMRegressor(**{**QUICK, "early_stopping": True, option: value})
    with pytest.raises(DataError, match=option):
        fm.fit(frame, y)


def test_flags_may_be_numbers():
    frame, y = ratings(60)
    plain = FMRegressor(**QUICK).fit(frame, y)
    as_numbers = FMRegressor(**QUICK, shuffle=1, warm_start=0, verbose=False).fit(frame, y)
    np.testing.assert_array_equal(as_numbers.predict(frame), plain.predict(frame))


def test_a_penalty_of_an_unknown_field_suggests_the_nearest():
    frame, y = ratings(60)
    with pytest.raises(DataError, match="Did you mean 'user'"):
        FMRegressor(l2_factors={"usr": 1.0}).fit(frame, y)
    with pytest.raises(DataError, match="no named columns"):
        FMRegressor(l2_factors={"user": 1.0}).fit(np.eye(3), [1.0, 2.0, 3.0])


def test_warm_start_keeps_the_number_of_factors():
    frame, y = ratings(60)
    fm = FMRegressor(**QUICK, warm_start=True).fit(frame, y)
    before = fm.predict(frame)
    with pytest.raises(DataError, match=r"n_factors is 7.*has 4"):
        fm.set_params(n_factors=7).fit(frame, y)
    with pytest.raises(DataError, match="n_factors is 7"):
        fm.partial_fit({"user": [10**6], "item": [10**6]}, [1.0])
    np.testing.assert_array_equal(fm.predict(frame), before)


# --- targets ------------------------------------------------------------------------------------


def test_targets_beyond_float32_are_refused_by_row():
    frame, y = ratings(60)
    y = y.astype(float)
    y[7] = 1e300
    with pytest.raises(DataError, match=r"row 7: the target is 1e\+300"):
        FMRegressor(**QUICK).fit(frame, y)


def test_dates_are_no_numbers():
    frame, _ = ratings(60)
    with pytest.raises(DataError, match="dates"):
        FMRegressor(**QUICK).fit(frame, pd.date_range("2026-01-01", periods=60))


def test_what_is_wrong_with_y_is_said_once_and_briefly():
    frame, y = ratings(60)
    for given in (np.stack([y, y], axis=1), y + 1j):
        with pytest.raises(DataError) as caught:
            FMRegressor(**QUICK).fit(frame, given)
        assert str(caught.value).count("1d array") <= 1
        assert len(str(caught.value)) < 120
    with pytest.raises(DataError, match="Reshape") as caught:
        FMRegressor(**QUICK).fit(np.arange(60.0), y)
    assert len(str(caught.value)) < 300
    with pytest.raises(DataError, match="Reshape") as caught:
        FMRegressor(**QUICK).fit((frame, np.arange(60.0)))  # one pair of brackets too many
    assert len(str(caught.value)) < 300


def test_labels_of_bytes_and_of_another_kind():
    frame, y = ratings(60)
    with pytest.raises(DataError, match="bytes"):
        FMClassifier(**QUICK).fit(frame, np.where(y > 3, b"y", b"n"))
    fm = FMClassifier(**QUICK).fit(frame, np.where(y > 3, "yes", "no"))
    with pytest.raises(DataError, match="y holds 1, the classes are 'no', 'yes'"):
        fm.score(frame, np.ones(60, int))


def test_labels_that_are_dates_are_saved(tmp_path):
    frame, y = ratings(60)
    days = pd.to_datetime(np.where(y > 3, "2026-01-01", "2026-01-02"))
    fm = FMClassifier(**QUICK).fit(frame, days)
    fm.save(tmp_path / "days.crossfm")
    again = cf.load(tmp_path / "days.crossfm")
    assert again.classes_.dtype == fm.classes_.dtype
    np.testing.assert_array_equal(again.predict(frame), fm.predict(frame))


# --- validation ---------------------------------------------------------------------------------


def test_no_rows_to_judge_on():
    frame, y = ratings(60)
    nothing = {name: column[:0] for name, column in frame.items()}
    with pytest.raises(DataError, match="eval_set has no rows"):
        FMRegressor(**QUICK).fit(frame, y, eval_set=(nothing, y[:0]))
    for fm, target in ((FMRegressor, y), (FMClassifier, y > 3)):
        with pytest.raises(DataError, match="no rows"):
            fm(**QUICK).fit(frame, target).score(nothing, target[:0])


def test_eval_set_as_a_list_of_x_and_y():
    frame, y = ratings(60)
    pair = FMRegressor(**QUICK).fit(frame, y, eval_set=(frame, y))
    listed = FMRegressor(**QUICK).fit(frame, y, eval_set=[frame, y])
    assert listed.history_[-1]["rmse"] == pair.history_[-1]["rmse"]


def test_a_scorer_is_no_metric():
    frame, y = ratings(60)
    with pytest.raises(DataError, match="give the function"):
        FMClassifier(**QUICK, eval_metric=make_scorer(f1_score)).fit(
            frame, y > 3, eval_set=(frame, y > 3)
        )


def test_a_metric_that_is_not_a_number_is_never_the_best():
    frame, y = ratings(200)
    told = iter([np.nan, 1.0, 2.0, np.nan])

    def uncertain(y_true, y_pred):
        return next(told)

    fm = FMRegressor(**QUICK, eval_metric=uncertain).fit(frame, y, eval_set=(frame, y))
    assert fm.best_epoch_ == 3

    def nothing(y_true, y_pred):
        return np.nan

    fm = FMRegressor(**QUICK, eval_metric=nothing)
    with pytest.raises(DataError, match="'nothing' was NaN after each"):
        fm.fit(frame, y, eval_set=(frame, y))


# --- rows ---------------------------------------------------------------------------------------


def test_scores_beyond_float32_are_refused_by_row():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), rng.normal(size=60)
    for fm, target in ((FMRegressor(**QUICK), y), (FMClassifier(**QUICK), np.arange(60) % 3)):
        fm.fit(X, target)
        huge = X.copy()
        huge[5] = 1e30
        with pytest.raises(DataError, match="row 5: the score is beyond"):
            fm.predict(huge)
        with pytest.raises(DataError, match="row 5: the score is beyond"):
            fm.score(huge, target)


def test_a_row_too_long_to_explain_is_refused_at_once():
    bags = {"seen": [list(range(20_000)), [1, 2], [3], []]}
    schema = Schema([Bag("seen", pooling="mean")])
    fm = FMRegressor(**QUICK, schema=schema).fit(bags, [1.0, 2.0, 3.0, 4.0])
    with pytest.raises(DataError, match="20,000 features and 199,990,000 pairs"):
        fm.explain({"seen": bags["seen"][:1]})
    assert fm.explain({"seen": bags["seen"][1:2]}).score == pytest.approx(
        float(fm.predict({"seen": bags["seen"][1:2]})[0]), rel=1e-5
    )


def test_a_metric_of_two_classes_names_one_for_several():
    frame, _ = ratings(90)
    labels = np.array(["a", "b", "c"])[np.arange(90) % 3]
    with pytest.raises(DataError, match="several classes, log_loss has"):
        FMClassifier(**QUICK, eval_metric="auc").fit(frame, labels, eval_set=(frame, labels))


def test_ids_of_different_lengths_need_offsets():
    with pytest.raises(DataError, match=r"different lengths.*offsets"):
        cf.Rows([[1, 2], [3]])


def test_a_negative_limit_of_lines():
    frame, y = ratings(60)
    found = FMRegressor(**QUICK).fit(frame, y).explain({k: v[:1] for k, v in frame.items()})
    with pytest.raises(DataError, match="limit is -1"):
        found.table(limit=-1)


def test_loaders_refuse_with_typed_errors():
    with pytest.raises(DataError, match="n_rows must not be negative"):
        cf.datasets.make_click_log(-1, max_values=100)
    with pytest.raises(DataError, match="no MovieLens '10m'"):
        cf.datasets.load_movielens("10m")
