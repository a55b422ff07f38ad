"""A progress callback may end a fit: its answer to "epoch" counts, of every kind of solver."""

import numpy as np
import pytest

import crossfm as cf

ROWS = {"user": [1, 2, 3, 1, 2, 3] * 20, "item": [1, 1, 2, 2, 3, 3] * 20}
Y = np.arange(120) % 7 - 3.0


def ending_at(last, seen):
    def progress(event, told):
        seen.append((event, told["epoch"]))
        return told["epoch"] == last  # of "rows" too, where it does not count

    return progress


@pytest.mark.parametrize("solver", ["adagrad", "mcmc", "als", "vb"])
@pytest.mark.parametrize("validated", [False, True])
def test_a_fit_ends_where_the_callback_says(solver, validated):
    seen, options = [], {"solver": solver, "n_factors": 2, "random_state": 0}
    more = {"eval_set": (ROWS, Y)} if validated else {}
    model = cf.FMRegressor(n_epochs=50, **options)
    model.fit(ROWS, Y, progress=ending_at(7, seen), **more)
    assert model.n_iter_ == 7
    assert [number for event, number in seen if event == "epoch"] == [*range(1, 8)]
    if solver == "mcmc":
        assert len(model.draws_) == 2  # five of fifty are burnt in
        return
    whole = cf.FMRegressor(n_epochs=7, **options).fit(ROWS, Y, **more)
    np.testing.assert_array_equal(model.predict(ROWS), whole.predict(ROWS))


def test_other_answers_do_not_count():
    model = cf.FMRegressor(solver="als", n_epochs=5, random_state=0)
    model.fit(ROWS, Y, progress=lambda event, told: told)
    assert model.n_iter_ == 5


def test_networks_too():
    pytest.importorskip("torch")
    seen = []
    model = cf.DeepRegressor(n_epochs=30, early_stopping=False, random_state=0)
    model.fit(ROWS, Y, progress=ending_at(3, seen))
    assert model.n_iter_ == 3
