"""Frappe: which app a user opened in which context, as libFM text.

Source: L. Baltrunas et al. Frappe: Understanding the Usage and Perception of Mobile App
Recommendations In-The-Wild. arXiv:1505.03014, 2015; in the one-hot form and split of X. He and
T.-S. Chua. Neural Factorization Machines for Sparse Predictive Analytics. SIGIR 2017. For
research only, not to be redistributed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossfm.data.rows import Rows
from crossfm.data.text import read_libsvm
from crossfm.datasets.fetch import Remote, locate
from crossfm.errors import DatasetError

__all__ = ["Frappe", "load_frappe"]

HOME = "https://github.com/hexiangnan/neural_factorization_machine"
FILES = (
    "https://raw.githubusercontent.com/hexiangnan/neural_factorization_machine/master/data/frappe/"
)

# Field: its first id.
FIRST_IDS = {
    "user": 0,
    "item": 957,
    "daytime": 5039,
    "weekday": 5046,
    "isweekend": 5053,
    "homework": 5055,
    "cost": 5058,
    "weather": 5060,
    "country": 5069,
    "city": 5149,
}
N_FEATURES = 5382
REMOTES = (
    Remote(FILES + "frappe.train.libfm", None),
    Remote(
        FILES + "frappe.validation.libfm",
        "48ee9fd0f0c4c1e0ddab365470a2b7c650cc636c3ee4f9f1474206894c81fb8f",
    ),
    Remote(
        FILES + "frappe.test.libfm",
        "2f087586cc72b002dccd04e3643d969af6cb661b3367a4829198bdd9051cee26",
    ),
)


@dataclass(frozen=True)
class Frappe:
    """Frappe as Rows: ten one-hot features a row, targets 1 (used) and 0 (drawn negative).

    Attributes:
        train: 202,027 rows.
        validation: 57,722 rows.
        test: 28,860 rows.
        rebuilt: whether the training part is the rebuilt one: positives and contexts exact,
            the items of its negatives redrawn by the rule of the original. Call figures on it
            "Frappe, rebuilt train".
        field_names: the ten fields.
        field_of: field of each feature id, int32 ``[5382]``.
        n_features: 5,382.
    """

    train: Rows = field(repr=False)
    validation: Rows = field(repr=False)
    test: Rows = field(repr=False)
    rebuilt: bool
    field_names: tuple[str, ...] = tuple(FIRST_IDS)
    n_features: int = N_FEATURES

    @property
    def field_of(self) -> NDArray[np.int32]:
        """Field of each feature id, ``[n_features]``."""
        sizes = np.diff([*FIRST_IDS.values(), N_FEATURES])
        return np.repeat(np.arange(len(FIRST_IDS), dtype=np.int32), sizes)


def load_frappe(*, download: bool = True) -> Frappe:
    """Load Frappe: 288,609 rows of app usage in context, a third of them positive.

    Args:
        download: False: look on this machine only.

    Raises:
        DatasetError: neither in the folder of ``CROSSFM_DATA``, nor in the cache folder, nor
            to be downloaded; or files that are not Frappe.

    Example:
        >>> load_frappe().test.row_length  # doctest: +SKIP
        10
    """
    common = ("frappe.validation.libfm", "frappe.test.libfm")
    choices = [(train, *common) for train in ("frappe.train.libfm", "frappe.train.rebuilt.libfm")]
    path = locate("Frappe", "frappe", choices, REMOTES, home=HOME, download=download)
    train = path / "frappe.train.libfm"
    rebuilt = not train.is_file()
    if rebuilt:
        train = path / "frappe.train.rebuilt.libfm"
    validation, test = (_read(path / name) for name in common)
    return Frappe(_read(train), validation, test, rebuilt)


def _read(path: Path) -> Rows:
    """One part; every value is 1, every row has one feature of each field, in their order."""
    rows = read_libsvm(path)
    if rows.values is not None or rows.targets is None:
        raise DatasetError(f"{path} is not Frappe in its libFM form: some values are not 1")
    return _check(path, rows.replace(targets=(rows.targets > 0).astype(np.float32)))


def _check(path: Path, rows: Rows) -> Rows:
    width = len(FIRST_IDS)
    first = np.array([*FIRST_IDS.values(), N_FEATURES])
    ids = rows.ids.reshape(-1, width) if rows.row_length == width else np.empty((0, width))
    if not len(ids) or (ids < first[:-1]).any() or (ids >= first[1:]).any():
        raise DatasetError(
            f"{path} is not Frappe in its libFM form: expected one feature of each of"
            f" {width} fields a row; get it from {HOME}"
        )
    return rows
