"""What estimators refuse: the message names the place and the remedy."""

from __future__ import annotations

import numpy as np
import pytest
from made_up import ratings
from sklearn.exceptions import NotFittedError

import crossfm as cf
from crossfm import FMClassifier, FMRegressor, Numeric, Rows
from crossfm.errors import DataError, DivergedError, SchemaError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_epochs": 0}, "n_epochs is 0"),
        ({"n_factors": 2.5}, "n_factors is 2.5"),
        ({"patience": -1}, "patience is -1"),
        ({"early_stopping": "yes"}, "early_stopping is 'yes'"),
        ({"early_stopping": True, "validation_fraction": 1.5}, "validation_fraction is 1.5"),
        ({"scale_values": True}, "scale_values is True"),
        ({"solver": "adagrid"}, "Did you mean 'adagrad'"),
        ({"interactions": "none"}, "interactions"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"l2_factors": float("nan")}, "l2_factors"),
        ({"n_jobs": 0}, "n_jobs"),
        ({"schema": {"user": "categorical"}}, "schema is a dict"),
    ],
)
def test_options_are_checked_by_fit(options, message):
    frame, y = ratings(50)
    with pytest.raises(ValueError, match=message):
        FMRegressor(**options).fit(frame, y)


def test_a_fit_that_diverges_says_what_to_change():
    frame, y = ratings()
    fm = FMRegressor(solver="sgd", learning_rate=50.0, random_state=0)
    with pytest.raises(DivergedError, match="learning_rate"):
        fm.fit(frame, y)
    with pytest.raises(NotFittedError):
        fm.predict(frame)
    fm.set_params(learning_rate=None, warm_start=True).fit(frame, y)
    good = fm.predict(frame)
    with pytest.raises(DivergedError):
        fm.set_params(learning_rate=50.0).fit(frame, y)
    np.testing.assert_array_equal(fm.predict(frame), good)  # as before the failed fit


def test_unfitted():
    with pytest.raises(NotFittedError):
        FMClassifier().predict_proba([[1.0]])
    with pytest.raises(AttributeError, match="before it is fitted"):
        _ = FMRegressor().coef_
    assert not hasattr(FMRegressor(), "coef_")


def test_single_class_and_unknown_labels():
    frame, y = ratings(50)
    with pytest.raises(DataError, match="one class, 1"):
        FMClassifier().fit(frame, np.ones(50, int))
    fm = FMClassifier(random_state=0).fit(frame, y > 3)
    with pytest.raises(DataError, match="row 1: target 'maybe'"):
        FMClassifier(n_epochs=1).fit(
            {"a": ["x", "y"]}, ["no", "yes"], eval_set=({"a": ["x", "y"]}, ["no", "maybe"])
        )
    assert fm.classes_.tolist() == [False, True]
    with pytest.raises(DataError, match="class_weight names 7"):
        FMClassifier(class_weight={7: 1.0}).fit(frame, y > 3)
    for value in (-1.0, np.nan, "heavy"):
        with pytest.raises(DataError, match="class_weight of True is"):
            FMClassifier(class_weight={True: value}).fit(frame, y > 3)
    with pytest.raises(DataError, match="expected 'balanced'"):
        FMClassifier(class_weight="even").fit(frame, y > 3)


def test_targets_and_weights_are_checked():
    frame, y = ratings(50)
    bad = y.copy()
    bad[7] = np.nan
    with pytest.raises(DataError, match="contains NaN: row 7"):
        FMRegressor().fit(frame, bad)
    bad[7] = np.inf
    with pytest.raises(DataError, match="contains infinity: row 7"):
        FMRegressor().fit(frame, bad)
    with pytest.raises(DataError, match="inconsistent numbers of samples: X has 50 rows, y has 49"):
        FMRegressor().fit(frame, y[1:])
    for weight, message in (
        (np.r_[np.nan, np.ones(49)], "row 0: sample_weight is nan"),
        (np.r_[-1.0, np.ones(49)], "row 0: sample_weight is -1"),
        (np.ones(3), "3 entries, X has 50 rows"),
        (np.zeros(50), "non-zero"),
    ):
        with pytest.raises(DataError, match=message):
            FMRegressor().fit(frame, y, sample_weight=weight)
    with pytest.raises(DataError, match="requires y"):
        FMRegressor().fit(frame)
    with pytest.raises(DataError, match="no label"):
        FMClassifier().fit({"a": [1, 2, 3]}, np.array(["a", None, "b"], object))


def test_a_table_beyond_memory_is_refused_at_once():
    rows = Rows(np.array([[0], [2**50]]), targets=np.array([0.0, 1.0]))
    with pytest.raises(DataError, match=r"ids up to 1125899906842624 make a table of .* GB"):
        FMRegressor().fit(rows)


def test_names_of_the_package():
    assert cf.FMRegressor is FMRegressor
    assert {"FMRegressor", "FMClassifier", "load", "explain"} <= set(cf.__all__)
    assert issubclass(SchemaError, ValueError)
    assert cf.Numeric is Numeric
