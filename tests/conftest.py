"""What all tests share: where real data lies, and how hypothesis draws."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# The folder that the Makefile would set; a plain `pytest` finds the same data.
if "CROSSFM_DATA" not in os.environ and (ROOT / "../shared/data").is_dir():
    os.environ["CROSSFM_DATA"] = str((ROOT / "../shared/data").resolve())

# A run started in the background ignores Ctrl-C; the tests of interrupts need it answered.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Same examples in every run: a failure seen once is seen again. `make fuzz` draws new ones.
SHARED = {
    "deadline": None,  # a first call may load a library
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("default", max_examples=50, derandomize=True, database=None, **SHARED)
settings.register_profile("fuzz", max_examples=5000, print_blob=True, **SHARED)
settings.load_profile("default")

# A file that each data set must have, relative to CROSSFM_DATA.
LANDMARKS = {
    "ml-100k": "u.data",
    "ml-latest-small": "ratings.csv",
    "frappe": "frappe.test.libfm",
    "criteo-20k": "criteo.csv",
}


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Returns the folder of a real data set, or skips the test with the reason.

    def test_on_real_ratings(real_data):
        folder = real_data("ml-100k")
    """

    def folder_of(name: str) -> Path:
        home = os.environ.get("CROSSFM_DATA")
        if not home:
            pytest.skip(f"real data: {name} is not there, CROSSFM_DATA is not set")
        folder = Path(home) / name
        if not (folder / LANDMARKS[name]).is_file():
            pytest.skip(f"real data: no {LANDMARKS[name]} in {name}/ under CROSSFM_DATA")
        return folder

    return folder_of


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted epoch is finished however long that takes: no test depends on the clock."""
    monkeypatch.setattr("crossfm.solvers.training.PATIENT_SECONDS", float("inf"))
    if importlib.util.find_spec("torch") is not None:
        monkeypatch.setattr("crossfm.nn.training.loop.PATIENT_SECONDS", float("inf"))
