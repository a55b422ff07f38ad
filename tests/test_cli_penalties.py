"""Penalties on the command line: by field, adaptive, by counts."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from cli_runs import FAST, crossfm_runs

import crossfm


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("penalties") / "log.parquet"
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 8, 400), rng.integers(0, 6, 400)
    columns = {"user": [f"u{u}" for u in user], "item": [f"i{i}" for i in item],
               "count": rng.poisson(1 + user).astype(float)}  # fmt: skip
    pa.parquet.write_table(pa.table(columns), path)
    return path


def test_penalties_reach_the_estimator_as_they_were_given(log, tmp_path):
    model = tmp_path / "m.crossfm"
    crossfm_runs("fit", log, "-t", "count", "-m", model, "--l2-linear", "0.5", "--l2-factors",
                 "user:0.25,*:0.125", "--l2-scaling", "0.5", "--min-count-factors", "1000",
                 *FAST)  # fmt: skip
    fm = crossfm.load(model)
    assert fm.l2_linear == 0.5
    assert fm.l2_factors == {"user": 0.25, "*": 0.125}
    assert (fm.l2_scaling, fm.min_count_factors) == (0.5, 1000)
    assert not fm.model_.factors.any()  # no feature was seen so often
    assert fm.model_.weights.any()


def test_adaptive_penalties_learn_on_the_rows_held_out(log, tmp_path):
    model = tmp_path / "m.crossfm"
    crossfm_runs("fit", log, "-t", "count", "-m", model, "--l2-factors", "adaptive", "--valid",
                 "0.2", *FAST)  # fmt: skip
    assert crossfm.load(model).l2_factors == "adaptive"


def test_a_penalty_of_no_known_form_is_refused(log, tmp_path):
    said = crossfm_runs("fit", log, "-t", "count", "-m", tmp_path / "m", "--l2-factors", "much",
                        code=2).stderr  # fmt: skip
    said = " ".join(re.sub("[│╭╮╰╯─]", " ", said).split())  # terminals break the line
    assert "--l2-factors is 'much', expected a number" in said
