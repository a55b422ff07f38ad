"""Ctrl-C: a fit ends within a second, and the estimator is as of the last full epoch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

LIMIT = 1.0  # seconds from the signal to the end of fit

PROGRAM = """
import sys, time, threading
import numpy as np
import crossfm as cf

n, m = {n}, 20
rng = np.random.default_rng(0)
rows = cf.Rows(rng.integers(0, 200_000, (n, m)).astype(np.int32))
y = rng.integers(0, 2, n)
fm = cf.FMClassifier(n_factors=128, n_epochs={n_epochs}, early_stopping=False, random_state=0,
                     n_jobs={n_jobs}, learning_rate=0.02)
caught = None
done = []
def progress(event, told):
    if event == "epoch":
        done.append(told["epoch"])
    if told["epoch"] == {at} and event == "rows" and not getattr(progress, "said", False):
        progress.said = True
        print("now", flush=True)
try:
    {call}
except KeyboardInterrupt:
    print("stopped", flush=True)
    full = len(done)  # a short rest of an epoch is finished, a long one broken off
    assert full in ({at} - 1, {at}), full
    if full:
        assert fm.n_iter_ == full, (fm.n_iter_, done)
        assert np.isfinite(fm.predict_proba(rows[:100])).all()
        short = cf.FMClassifier(**(fm.get_params() | dict(n_epochs=full))).fit(rows, y)
        if {n_jobs} == 1:
            np.testing.assert_array_equal(short.coef_, fm.coef_)
    else:
        assert not fm.__sklearn_is_fitted__()
    print("checked", flush=True)
else:
    print("never interrupted", flush=True)
"""


def run(**told):
    told = {"call": "fm.fit(rows, y, progress=progress)"} | told
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM.format(**told))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    ) as process:
        try:
            assert process.stdout.readline().strip() == "now", process.stderr.read()
            started = time.perf_counter()
            process.send_signal(signal.SIGINT)
            word = process.stdout.readline().strip()
            took = time.perf_counter() - started
            # not communicate(), which loses what readline() has read ahead
            out, err = process.stdout.read(), process.stderr.read()
        finally:
            process.kill()
    assert word == "stopped", word + err
    assert out.strip() == "checked", err
    return took


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT to a child needs a console there")
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_in_a_later_epoch(n_jobs):
    """Long epochs: the one that was broken off is undone."""
    assert run(n=300_000, n_epochs=50, n_jobs=n_jobs, at=2) < LIMIT


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT to a child needs a console there")
def test_in_the_first_epoch():
    assert run(n=300_000, n_epochs=50, n_jobs=1, at=1) < LIMIT
