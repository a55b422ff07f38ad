"""Learning to rank: BPR, WARP and sampled softmax over queries and items."""

from __future__ import annotations

from crossfm.solvers.ranking.options import NegativesFrom, RankingOptions, RankLoss
from crossfm.solvers.ranking.trainer import HeldOut, Lists, Pairs, RankTrainer
from crossfm.solvers.ranking.training import fit_ranking

__all__ = [
    "HeldOut",
    "Lists",
    "NegativesFrom",
    "Pairs",
    "RankLoss",
    "RankTrainer",
    "RankingOptions",
    "fit_ranking",
]
