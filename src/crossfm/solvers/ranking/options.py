"""What learning to rank needs to know beside the options of AdaGrad."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from crossfm.errors import DataError, did_you_mean

__all__ = ["NegativesFrom", "RankLoss", "RankingOptions"]

RankLoss = Literal["bpr", "warp", "softmax"]
NegativesFrom = Literal["uniform", "popularity", "in_batch"]


@dataclass(frozen=True, slots=True)
class RankingOptions:
    r"""A loss of pairs (query q, item i that is right for it), and the items j it is set against.

    With ``s`` the score:

    - "bpr": ``-log sigmoid(s(q, i) - s(q, j))``, one j a pair.
    - "warp": items are drawn until one has ``s(q, j) > s(q, i) - 1``, at most `max_trials`; with
      the N-th, ``H(rank) (1 - s(q, i) + s(q, j))``, where ``rank = (unseen items) // N`` estimates
      how many items violate, and ``H(r) = 1 + 1/2 + ... + 1/r``. None found: nothing is learned.
    - "softmax": ``-log (exp s(q, i) / (exp s(q, i) + sum_j exp(s(q, j) - log m_j)))``, where
      ``m_j`` is how often j is expected among the items drawn, so that the sum is an unbiased
      estimate of that over all unseen items.

    Attributes:
        loss: "bpr", "warp" or "softmax".
        negatives: what j is drawn from, with replacement, items seen by the query's user left out:
            "uniform"; "popularity", in proportion to ``count^popularity_power``; or, for "softmax",
            "in_batch": the items of the other pairs of a batch, whose chance is their count.
        n_negatives: items drawn for a pair, under "softmax".
        max_trials: under "warp".
        popularity_power: 1: by counts; 0: all items with a count alike.
        batch_size: pairs of a batch, for "in_batch".

    Raises:
        DataError: a number or word out of range, negatives that the loss cannot take.

    Sources: Rendle, Freudenthaler, Gantner and Schmidt-Thieme 2009, BPR; Weston, Bengio and Usunier
    2011, WSABIE (WARP); Bengio and Senecal 2008, Adaptive Importance Sampling to Accelerate
    Training of a Neural Probabilistic Language Model; Yi et al. 2019, Sampling-Bias-Corrected
    Neural Modeling for Large Corpus Item Recommendations.
    """

    loss: RankLoss = "bpr"
    negatives: NegativesFrom = "uniform"
    n_negatives: int = 64
    max_trials: int = 100
    popularity_power: float = 0.75
    batch_size: int = 256

    def __post_init__(self) -> None:
        _expect_one_of("loss", self.loss, get_args(RankLoss))
        _expect_one_of("negatives", self.negatives, get_args(NegativesFrom))
        for name, least in (("n_negatives", 1), ("max_trials", 1), ("batch_size", 2)):
            _expect_count(name, getattr(self, name), least)
        power = self.popularity_power
        fits = isinstance(power, int | float) and not isinstance(power, bool)
        if not fits or not 0 <= power < math.inf:
            raise DataError(f"popularity_power is {power!r}, expected a number of at least 0")
        if self.negatives == "in_batch" and self.loss != "softmax":
            raise DataError(
                f"negatives is 'in_batch' and loss {self.loss!r}: the pairs of a batch serve as"
                " negatives of a softmax; take loss='softmax', or negatives='popularity'"
            )
        if self.negatives == "popularity" and self.loss == "warp":
            raise DataError(
                "negatives is 'popularity' and loss 'warp', which tells an item's rank from how"
                " soon a violating one is drawn out of all alike; take negatives='uniform'"
            )


def _expect_one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise DataError(
            f"{name} is {value!r}, expected one of {', '.join(map(repr, known))}."
            + did_you_mean(str(value), known)
        )


def _expect_count(name: str, value: Any, least: int) -> None:
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number < 2**31:
        raise DataError(f"{name} is {value!r}, expected an integer of at least {least}")
